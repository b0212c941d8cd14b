"""`daybook log`: check the event log against its own proofs, look at what it holds, and archive what is old."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from infra.cli._archive import COMMANDS as ARCHIVING
from infra.cli._audit import COMMANDS as AUDITING
from infra.cli._options import data_option, json_option
from infra.cli._progress import bar
from infra.settings import Settings


@click.group("log")
def command() -> None:
    """Check the event log against its own proofs, look at what it holds, and archive what is old.

    Works beside a running Daybook, and without one.
    """


for one in (*ARCHIVING, *AUDITING):
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
