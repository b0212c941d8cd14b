"""`daybook client`: let apps and systems get tokens."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar
from uuid import UUID

import click
from pydantic import ValidationError

from domain.access import Actor, Role
from domain.client import Audience, Details, Grant, Kind, has_secret
from domain.refusals import Refusal
from infra.cli._options import data_option, json_option
from infra.settings import Settings

if TYPE_CHECKING:
    from commands.loop import Desk

T = TypeVar("T")

_OPERATOR = Actor("operator", Role.SYSTEM)
_org_option = click.option("--org", help="The organization. [default: main]")


def _choice(kind: type[Kind] | type[Grant] | type[Audience]) -> click.Choice[str]:
    return click.Choice([one.value for one in kind])


@click.group("client")
def command() -> None:
    """Let apps and systems get tokens, over OAuth 2.1.

    \b
    daybook client add --name Portal --kind public --grant authorization_code --grant refresh_token \\
        --redirect https://portal.example.org/back --scope openid --scope patient/Appointment.cruds
    daybook client add --name Laboratory --grant client_credentials --scope system/Appointment.rs
    daybook client list
    daybook client rotate-secret ID
    daybook client remove ID

    Works beside a running Daybook, and without one. What is done here is in the log as the operator's.
    """


@command.command("add")
@click.option("--name", required=True, help="What people are asked whether they let in.")
@click.option(
    "--kind",
    type=_choice(Kind),
    default=Kind.CONFIDENTIAL.value,
    show_default=True,
    help="Whether it can keep a secret.",
)
@click.option(
    "--grant", "grants", type=_choice(Grant), multiple=True, required=True, help="How it gets tokens; several."
)
@click.option("--redirect", "redirects", multiple=True, help="An address that people are sent back to; several.")
@click.option(
    "--post-logout", "gone", multiple=True, help="An address that they are sent to when they sign out; several."
)
@click.option("--scope", "scopes", multiple=True, help="What it may ask for, in SMART v2's words; several.")
@click.option(
    "--audience", "audiences", type=_choice(Audience), multiple=True, help="Which API; both, where none is said."
)
@click.option("--trusted", is_flag=True, help="The house's own: people are not asked whether they let it in.")
@click.option(
    "--keys",
    type=click.File("rb"),
    help="A file with its public keys, as a JWK Set: it signs assertions, and has no secret.",
)
@click.option("--introspects", is_flag=True, help="It may ask about tokens that others hold (RFC 7662).")
@_org_option
@data_option
@json_option
def add_command(
    name: str,
    kind: str,
    grants: tuple[str, ...],
    redirects: tuple[str, ...],
    gone: tuple[str, ...],
    scopes: tuple[str, ...],
    audiences: tuple[str, ...],
    trusted: bool,
    keys: IO[bytes] | None,
    introspects: bool,
    org: str | None,
    data: Path | None,
    as_json: bool,
) -> None:
    """Register an app or a system. Its secret is shown this once."""
    from commands.clients import RegisterClient  # noqa: PLC0415 - help must not wait for it

    told: dict[str, Any] = {
        "name": name,
        "kind": kind,
        "grants": grants,
        "redirect_uris": redirects,
        "post_logout_redirect_uris": gone,
        "scopes": scopes,
        "trusted": trusted,
        "introspects": introspects,
    }
    if audiences:
        told["audiences"] = audiences
    if keys is not None:
        told["keys"] = _keys_in(keys.read())
    try:
        details = Details.model_validate(told)
    except ValidationError as error:
        raise click.UsageError("; ".join(_words(fault) for fault in error.errors())) from None
    secret, hashed = _new_secret()

    async def add(desk: Desk, organization: str) -> str:
        wanted = RegisterClient(details=details, secret=hashed)
        return str((await desk.handle(wanted, _OPERATOR, organization)).content["client_id"])

    client_id = _done(Settings.load(data=data), org, add)
    _show(client_id, secret if has_secret(details) else None, as_json)


def _keys_in(text: bytes) -> Any:
    try:
        return json.loads(text)["keys"]
    except (ValueError, TypeError, KeyError):
        raise click.UsageError("--keys: not a JWK Set (RFC 7517 §5)") from None


@command.command("list")
@_org_option
@data_option
@json_option
def list_command(org: str | None, data: Path | None, as_json: bool) -> None:
    """List the apps and systems that may get tokens."""
    from commands.loop import NOTHING  # noqa: PLC0415
    from domain import client  # noqa: PLC0415

    async def look(desk: Desk, organization: str) -> list[client.Client]:
        names = await desk.log.streams(organization, *client.streams())
        states = await desk.catch_up(organization, dict.fromkeys(names, NOTHING))
        return [state for _, state in states.values() if state is not None and not state.removed]

    found = _done(Settings.load(data=data), org, look)
    if as_json:
        shown = [{"client_id": str(one.id), **one.details.model_dump(mode="json")} for one in found]
        click.echo(json.dumps({"clients": shown}))
        return
    for one in found:
        grants = ", ".join(grant.value for grant in one.details.grants)
        click.echo(f"{one.id}  {one.details.kind.value:<12}  {one.details.name}   {grants}")
    if not found:
        click.echo("No client.")


@command.command("rotate-secret")
@click.argument("client_id", type=click.UUID)
@_org_option
@data_option
@json_option
def rotate_command(client_id: UUID, org: str | None, data: Path | None, as_json: bool) -> None:
    """Give a client another secret. The former one, and tokens that it got, are refused at once."""
    from commands.clients import RotateClientSecret  # noqa: PLC0415

    secret, hashed = _new_secret()

    async def rotate(desk: Desk, organization: str) -> None:
        await desk.handle(RotateClientSecret(client_id=client_id, secret=hashed), _OPERATOR, organization)

    _done(Settings.load(data=data), org, rotate)
    _show(str(client_id), secret, as_json)


@command.command("remove")
@click.argument("client_id", type=click.UUID)
@_org_option
@data_option
def remove_command(client_id: UUID, org: str | None, data: Path | None) -> None:
    """Let a client get no more tokens. Those that it has are refused at once."""
    from commands.clients import RemoveClient  # noqa: PLC0415

    async def remove(desk: Desk, organization: str) -> None:
        await desk.handle(RemoveClient(client_id=client_id), _OPERATOR, organization)

    _done(Settings.load(data=data), org, remove)
    click.echo(f"Client {client_id} is removed.")


def _new_secret() -> tuple[str, str]:
    from write_api.oauth.authority import hash_of  # noqa: PLC0415

    secret = secrets.token_urlsafe(32)
    return secret, hash_of(secret)


def _show(client_id: str, secret: str | None, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"client_id": client_id, "client_secret": secret}))
        return
    click.echo(f"client_id      {client_id}")
    if secret is not None:
        click.echo(f"client_secret  {secret}   (shown this once)")


def _words(fault: Any) -> str:
    place = ".".join(str(part) for part in fault["loc"])
    words = str(fault["msg"]).removeprefix("Value error, ")
    return f"{place}: {words}" if place else words


def _done(settings: Settings, org: str | None, work: Callable[[Desk, str], Awaitable[T]]) -> T:
    """What came of it. A refusal is told in its own words."""
    from infra.desk import desk_on  # noqa: PLC0415
    from infra.installation import opened  # noqa: PLC0415

    async def run() -> T:
        async with desk_on(place) as desk:
            return await work(desk, org or settings.organization)

    with opened(settings, redis=False) as place:
        try:
            return asyncio.run(run())
        except Refusal as refusal:
            raise click.UsageError(f"{refusal.message} ({refusal.code}).") from None
