"""`daybook log`: check the event log against its own proofs, look at what it holds, and archive what is old."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import click

from domain.ports import Recorded
from infra.cli._archive import COMMANDS
from infra.cli._options import data_option, json_option
from infra.cli._progress import bar
from infra.settings import Settings

_PAGE = 1000


@click.group("log")
def command() -> None:
    """Check the event log against its own proofs, look at what it holds, and archive what is old.

    Works beside a running Daybook, and without one.
    """


for one in COMMANDS:
    command.add_command(one)


@command.command("verify")
@data_option
@json_option
@click.option("--checkpoints", type=click.Path(path_type=Path), help="The folder of checkpoints. [default: in DATA]")
def verify_command(data: Path | None, as_json: bool, checkpoints: Path | None) -> None:
    """Read every event and check it: row, chain, versions, head and signed checkpoints.

    Names the position of the first fault. Exit code 1 when there is one. Keep copies of the checkpoints where nobody
    who may write to this machine can reach them: against such a person the copies are the proof.
    """
    from infra.event_log.schema import migrate  # noqa: PLC0415 - help must not wait for them
    from infra.event_log.verify import verify  # noqa: PLC0415
    from infra.installation import opened  # noqa: PLC0415

    with opened(Settings.load(data=data), redis=False) as place, bar() as shown:
        if place.owner is not None:
            migrate(place.owner)
        task = shown.add_task("verifying", total=None)
        report = verify(
            place.postgres,
            checkpoints or place.checkpoints,
            progress=lambda done, total: shown.update(task, completed=done, total=total),
        )
    if as_json:
        faults = [
            {"position": fault.position, "kind": fault.kind.value, "detail": fault.detail} for fault in report.faults
        ]
        told = {"ok": report.ok, "events": report.events, "checkpoints": report.checkpoints, "faults": faults}
        told["elsewhere"] = report.elsewhere
        click.echo(json.dumps({**told, "seconds": round(report.seconds, 3)}))
    elif report.ok:
        rate = f", {report.events / report.seconds:,.0f} a second" if report.seconds else ""
        click.echo(f"The log is whole: {report.events:,} events, {report.checkpoints:,} checkpoints{rate}.")
        if report.elsewhere:
            click.echo(
                f"Positions up to {report.elsewhere:,} lie in detached parts: `daybook log verify-part` reads them."
            )
    else:
        click.echo(f"The log is NOT whole. The first fault is at {report.first}.")
        for fault in report.faults[1:10]:
            click.echo(f"  also {fault}")
    sys.exit(0 if report.ok else 1)


@command.command("show")
@data_option
@json_option
@click.option("--after", default=0, help="Start after this position.", show_default=True)
@click.option("--limit", default=50, help="How many events at most.", show_default=True)
@click.option("--org", help="Only this organization's.")
@click.option("--stream", help="Only this stream's, such as appointment/ID.")
def show_command(data: Path | None, as_json: bool, after: int, limit: int, org: str | None, stream: str | None) -> None:
    """List events: who did what, when. Words that are sealed are left out."""
    from infra.desk import log_on  # noqa: PLC0415 - help must not wait for it
    from infra.installation import opened  # noqa: PLC0415

    async def listed() -> Sequence[Recorded]:
        found: list[Recorded] = []
        async with log_on(place) as log:
            async for recorded in _read(log, after):
                if (org in (None, recorded.organization)) and (stream in (None, recorded.stream)):
                    found.append(recorded)
                    if len(found) >= limit:
                        break
        return found

    with opened(Settings.load(data=data), redis=False) as place:
        for recorded in asyncio.run(listed()):
            row = _row(recorded)
            click.echo(
                json.dumps(row)
                if as_json
                else f"{row['position']:>8}  {row['recorded_at'][:19]}Z  {row['organization']:<12} {row['name']:<28} "
                f"{row['stream']}  by {row['actor']}"
            )


async def _read(log: Any, after: int) -> AsyncIterator[Recorded]:
    while batch := await log.read(after, _PAGE):
        for recorded in batch:
            yield recorded
        after = batch[-1].position


def _row(recorded: Recorded) -> dict[str, Any]:
    event = recorded.event
    return {
        "position": recorded.position,
        "organization": recorded.organization,
        "stream": recorded.stream,
        "version": recorded.version,
        "name": event.NAME,
        "occurred_at": recorded.occurred_at.isoformat(),
        "recorded_at": recorded.recorded_at.isoformat(),
        "actor": recorded.actor,
        "command_id": str(recorded.command_id),
        "correlation_id": str(recorded.correlation_id),
        "event": event.model_dump(mode="json", exclude=set(event.SEALED_FIELDS)),
    }
