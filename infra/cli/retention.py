"""`daybook retention`: see whose record need not be kept any more, where strangers were and who registered and never
came back, and forget them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import click

from infra.cli._options import data_option, json_option
from infra.cli._progress import bar
from infra.settings import Settings


@click.group("retention")
def command() -> None:
    """See whose record need not be kept any more, and forget them.

    How many years a record is kept after the last visit is the organization's to say: PUT /write/retention; as shipped
    it is ten. A legal hold keeps a record beyond that. So is how many months it stays known from where strangers
    knocked and failed to sign in: as shipped six years; and how many days an account waits for whoever registered it to
    show that the address is theirs: as shipped thirty.
    """


@command.command("run")
@click.option("--dry-run", is_flag=True, help="Only say who is due, and why.")
@click.option("--org", help="The organization. [default: main]")
@data_option
@json_option
def run_command(dry_run: bool, org: str | None, data: Path | None, as_json: bool) -> None:
    """Forget everybody whose record is due, where the strangers of past months were, and who registered and never
    showed that the address is theirs, by the ordinary commands: the decision is in the log, and the keys are destroyed
    before this ends.

    Names nobody: patients and accounts are told by id. Works beside a running Daybook, and without one.
    """
    settings = Settings.load(data=data)
    from infra.installation import opened  # noqa: PLC0415 - help must not wait for it

    with opened(settings, redis=False) as place, bar() as shown:
        task = shown.add_task("looking at patients", total=None)
        found, months, unverified = asyncio.run(
            _run(
                place,
                org or settings.organization,
                dry_run,
                lambda done, total: shown.update(task, completed=done, total=total),
            )
        )
    if as_json:
        click.echo(json.dumps({"dry_run": dry_run, "due": found, "strangers": months, "unverified": unverified}))
        return
    for one in found:
        why = f"last visit {one['last_visit']}" if one["last_visit"] else f"no visit, registered {one['registered']}"
        done = "held" if one["held"] else "due" if dry_run else "forgotten" if one["erased"] else "kept"
        click.echo(f"{done:9}  {one['patient_id']}  {why}, kept until {one['since']}")
    counted = sum(not one["held"] for one in found)
    click.echo(f"{counted} due, {len(found) - counted} on legal hold." if found else "Nobody is due.")
    for one in months:
        done = "due" if dry_run else "forgotten" if one["forgotten"] else "kept"
        click.echo(f"{done:9}  where strangers were in {one['month']}, kept until {one['since']}")
    for one in unverified:
        done = "due" if dry_run else "forgotten" if one["forgotten"] else "kept"
        click.echo(f"{done:9}  {one['account_id']}  registered, address never verified, kept until {one['since']}")


async def _run(
    place: Any, organization: str, dry_run: bool, progress: Any
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
    from domain.denial import STRANGERS  # noqa: PLC0415
    from infra.desk import desk_for, log_on  # noqa: PLC0415
    from infra.erasures import eraser_on  # noqa: PLC0415
    from streams import retention  # noqa: PLC0415

    found: list[dict[str, Any]] = []
    months: list[dict[str, Any]] = []
    unverified: list[dict[str, Any]] = []
    async with log_on(place) as log:
        desk = desk_for(place, log)
        async for one in retention.due(desk, organization, progress):
            erased = not dry_run and not one.held and await retention.erase(desk, organization, one)
            found.append(
                {
                    "patient_id": str(one.patient_id),
                    "registered": one.registered.isoformat(),
                    "last_visit": one.last_visit.isoformat() if one.last_visit else None,
                    "since": one.since.isoformat(),
                    "held": one.held,
                    "erased": erased,
                }
            )
        async with eraser_on(place, desk, log) as eraser:
            named = await eraser.keys.names(organization, STRANGERS)
            for month, since in await retention.strangers_due(desk, organization, named):
                forgotten = not dry_run and await retention.forget_strangers(desk, organization, month)
                months.append({"month": month, "since": since.isoformat(), "forgotten": forgotten})
            async for account_id, since in retention.unverified_due(desk, organization):
                forgotten = not dry_run and await retention.forget_unverified(desk, organization, account_id)
                unverified.append({"account_id": str(account_id), "since": since.isoformat(), "forgotten": forgotten})
            if any(one["erased"] for one in found) or any(one["forgotten"] for one in (*months, *unverified)):
                await eraser.sweep()
    return found, months, unverified
