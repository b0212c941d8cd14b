"""`daybook account`: make the first administrator, and see and change who may sign in."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click

from domain.access import Actor, Role
from domain.refusals import Refusal
from infra.cli._options import data_option, json_option
from infra.settings import Settings

if TYPE_CHECKING:
    from commands.loop import Command

_OPERATOR = Actor("operator", Role.SYSTEM)
_ROLES = [role.value for role in Role if role is not Role.SYSTEM]
_org_option = click.option("--org", help="The organization. [default: main]")


@click.group("account")
def command() -> None:
    """Make the first administrator, and see and change who may sign in.

    \b
    daybook account create --role admin --email ada@example.org
    daybook account list
    daybook account role ID --role auditor
    daybook account lock ID

    Works beside a running Daybook, and without one. What is done here is in the log as the operator's.
    """


@command.command("create")
@click.option("--role", type=click.Choice(_ROLES), required=True, help="What the account may do.")
@click.option("--email", required=True, help="The owner's address.")
@click.option("--patient", type=click.UUID, help="The patient that the owner is; needed for the role patient.")
@click.option("--provider", type=click.UUID, help="The provider that the owner is; needed for the role provider.")
@click.option("--invite", is_flag=True, help="Print a link behind which the owner chooses the password.")
@_org_option
@data_option
@json_option
def create_command(
    role: str,
    email: str,
    patient: UUID | None,
    provider: UUID | None,
    invite: bool,
    org: str | None,
    data: Path | None,
    as_json: bool,
) -> None:
    """Make an account: its password is asked for here, or chosen behind a link.

    Where there is no terminal the password is the first line of the standard input.
    """
    settings = Settings.load(data=data)
    password = None if invite else _password()

    from commands.accounts import CreateAccount, InviteAccount  # noqa: PLC0415 - help must not wait for it
    from domain.account import LinkPurpose  # noqa: PLC0415
    from write_api.letters import link  # noqa: PLC0415

    who: dict[str, Any] = {"email": email, "role": Role(role), "patient_id": patient, "provider_id": provider}
    wanted: Command = InviteAccount(**who) if password is None else CreateAccount(**who, password=password)
    answer = _asked(settings, org, wanted)
    told = {"account_id": answer["account_id"]}
    if letter := answer.get("letter"):
        told["link"] = link(settings.origin, LinkPurpose.VERIFY, letter["token"])
    if as_json:
        click.echo(json.dumps(told))
        return
    click.echo(f"Account {told['account_id']} is made.")
    if "link" in told:
        click.echo(f"Its owner chooses a password here, within three days, once:\n\n  {told['link']}")


@command.command("list")
@click.option("--email", help="Only the one that has this address.")
@_org_option
@data_option
@json_option
def list_command(email: str | None, org: str | None, data: Path | None, as_json: bool) -> None:
    """List accounts: id, role, status, second factors. Addresses are not shown; ask for one with --email."""
    settings = Settings.load(data=data)
    found = _listed(settings, org or settings.organization, email)
    if as_json:
        click.echo(json.dumps({"accounts": found}))
        return
    for one in found:
        factors = ", ".join(one["second_factors"]) or "none"
        click.echo(f"{one['account_id']}  {one['role']:<10}  {one['status']:<10}  second factors: {factors}")
    if not found:
        click.echo("No account." if email is None else "No account has this address.")


@command.command("role")
@click.argument("account_id", type=click.UUID)
@click.option("--role", type=click.Choice(_ROLES), required=True, help="What the account may do from now on.")
@click.option("--patient", type=click.UUID, help="The patient that the owner is; needed for the role patient.")
@click.option("--provider", type=click.UUID, help="The provider that the owner is; needed for the role provider.")
@_org_option
@data_option
def role_command(
    account_id: UUID, role: str, patient: UUID | None, provider: UUID | None, org: str | None, data: Path | None
) -> None:
    """Give an account another role. Its sessions end."""
    from commands.accounts import ChangeRole  # noqa: PLC0415

    wanted = ChangeRole(account_id=account_id, role=Role(role), patient_id=patient, provider_id=provider)
    _asked(Settings.load(data=data), org, wanted)
    click.echo(f"Account {account_id} has the role {role} now.")


@command.command("lock")
@click.argument("account_id", type=click.UUID)
@_org_option
@data_option
def lock_command(account_id: UUID, org: str | None, data: Path | None) -> None:
    """Keep an account from signing in. Its sessions end."""
    from commands.accounts import LockAccount  # noqa: PLC0415

    _asked(Settings.load(data=data), org, LockAccount(account_id=account_id))
    click.echo(f"Account {account_id} is locked.")


@command.command("unlock")
@click.argument("account_id", type=click.UUID)
@_org_option
@data_option
def unlock_command(account_id: UUID, org: str | None, data: Path | None) -> None:
    """Let an account sign in again, also after wrong guesses."""
    from commands.accounts import UnlockAccount  # noqa: PLC0415

    _asked(Settings.load(data=data), org, UnlockAccount(account_id=account_id))
    click.echo(f"Account {account_id} may sign in.")


@command.command("reset-factors")
@click.argument("account_id", type=click.UUID)
@_org_option
@data_option
def reset_factors_command(account_id: UUID, org: str | None, data: Path | None) -> None:
    """Take all second factors away from somebody who lost theirs. Make sure first who asks. Their sessions end."""
    from commands.accounts import ResetFactors  # noqa: PLC0415

    _asked(Settings.load(data=data), org, ResetFactors(account_id=account_id))
    click.echo(f"Account {account_id} has no second factor now.")


def _password() -> str:
    stdin = click.get_text_stream("stdin")
    if stdin.isatty():
        return str(click.prompt("Password", hide_input=True, confirmation_prompt=True))
    return stdin.readline().rstrip("\n")


def _asked(settings: Settings, org: str | None, wanted: Command) -> dict[str, Any]:
    """What came of it. A refusal is told in its own words."""
    from infra.desk import desk_on  # noqa: PLC0415
    from infra.installation import opened  # noqa: PLC0415

    async def ask() -> dict[str, Any]:
        async with desk_on(place) as desk:
            return dict((await desk.handle(wanted, _OPERATOR, org or settings.organization)).content)

    with opened(settings, redis=False) as place:
        try:
            return asyncio.run(ask())
        except Refusal as refusal:
            raise click.UsageError(f"{refusal.message} ({refusal.code}).") from None


def _listed(settings: Settings, organization: str, email: str | None) -> list[dict[str, Any]]:
    from commands import addresses  # noqa: PLC0415
    from commands.loop import ACCOUNT, ADDRESS, NOTHING  # noqa: PLC0415
    from domain import account, address  # noqa: PLC0415
    from infra.desk import desk_for, log_on  # noqa: PLC0415
    from infra.installation import opened  # noqa: PLC0415

    async def look() -> list[dict[str, Any]]:
        async with log_on(place) as log:
            desk = desk_for(place, log)
            if email is None:
                streams = await log.streams(organization, *account.streams())
            else:
                stream = ADDRESS.stream(addresses.read(email).blind(place.keys.blinds(), organization))
                owner = address.owner((await desk.states(organization, [stream]))[stream][1])
                streams = [ACCOUNT.stream(owner)] if owner is not None else []
            told = []
            for start in range(0, len(streams), 500):
                states = await desk.catch_up(organization, dict.fromkeys(streams[start : start + 500], NOTHING))
                told += [state for _, state in states.values()]
            return [_shown(state) for state in told]

    def _shown(state: account.Account) -> dict[str, Any]:
        return {
            "account_id": str(state.id),
            "role": state.role.value,
            "status": state.status.value,
            "patient_id": str(state.patient_id) if state.patient_id else None,
            "provider_id": str(state.provider_id) if state.provider_id else None,
            "second_factors": [factor.value for factor in state.second_factors],
        }

    with opened(settings, redis=False) as place:
        try:
            return asyncio.run(look())
        except Refusal as refusal:
            raise click.UsageError(f"{refusal.message} ({refusal.code}).") from None
