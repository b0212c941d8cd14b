"""`daybook import`: take in what other systems kept, as the same commands and events that live use makes."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from infra.cli._options import data_option, json_option
from infra.cli._progress import bar
from infra.settings import Settings

_SHOWN = 20


@click.group("import")
def command() -> None:
    """Take in what other systems kept.

    What is imported goes through the same decisions as live use, with its own past times.
    """


@command.command("no-shows")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--organization",
    "--org",
    default="no-shows",
    show_default=True,
    help="The organization whose book it goes into; another's is never touched.",
)
@click.option(
    "--batch",
    type=click.IntRange(1, 5000),
    default=500,
    show_default=True,
    help="Visits saved at once. Smaller ones leave a running server more room.",
)
@click.option(
    "--check/--no-check",
    default=True,
    help="Compare the read models with counts taken straight from the file, at the end. [default: check]",
)
@data_option
@json_option
def no_shows(file: Path, organization: str, batch: int, check: bool, data: Path | None, as_json: bool) -> None:
    """Import the public table of medical appointment no-shows, FILE.csv or FILE.csv.gz.

    Each neighbourhood becomes a clinic with as many providers as its load needs. Each row is booked at its ScheduledDay
    for a free time on its AppointmentDay, gets its message if one was sent, and ends as done or as a no-show. Rows with
    known faults are left out and told, by line and reason.

    It may be stopped at any moment, with kill -9 too, and started again: what is there is found, whatever the size of
    the batches. It works beside a running Daybook on the same data, or starts what it needs.

    \b
    daybook import no-shows no-shows.csv.gz
    daybook import no-shows no-shows.csv.gz --json | jq .no_shows

    With --json the last line is one object: rows, imported, known (of these, in the book before), skipped (by reason),
    skipped_rows (the first hundred), no_shows, messages, clinics, providers, seconds, seconds_by_part, and check. Exit
    code 1 when the check finds a difference.
    """
    settings = Settings.load(data=data)

    from infra.no_shows.run import run  # noqa: PLC0415 - loads every part, which `--help` need not wait for

    with bar() as shown:
        tasks: dict[str, object] = {}

        def progress(what: str, done: int, total: int | None) -> None:
            if what not in tasks:
                tasks[what] = shown.add_task(what, total=total)
            shown.update(tasks[what], completed=done, total=total)  # type: ignore[arg-type]

        report = run(settings, file, organization, batch=batch, check=check, progress=progress)
    if as_json:
        click.echo(json.dumps(asdict(report)))
    else:
        click.echo("\n".join(report.words(_SHOWN)))
    if report.check.agrees is False:
        raise SystemExit(1)
