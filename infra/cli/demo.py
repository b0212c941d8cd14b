"""`daybook demo`: fill an empty book with an invented clinic, to try things with."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from infra.cli._options import data_option, json_option
from infra.cli._progress import bar
from infra.settings import Settings


@click.command("demo")
@click.option("--organization", "--org", help="The organization whose book it fills. [default: main]")
@click.option("--seed", type=int, default=1, show_default=True, help="Another number makes another clinic.")
@data_option
@json_option
def command(organization: str | None, seed: int, data: Path | None, as_json: bool) -> None:
    """Fill an empty book with an invented clinic.

    Five providers in Lisbon and New York with their hours, rooms and a device, sixty patients, four weeks of visits
    that were kept, missed, moved and called off, and four weeks ahead with free times left. A book that is not empty
    is refused.

    It works beside a running Daybook on the same data, or starts what it needs.
    """
    settings = Settings.load(data=data)

    from infra.demo import run, try_next  # noqa: PLC0415 - loads every part, which `--help` need not wait for
    from infra.embedded.data_folder import DataFolder  # noqa: PLC0415

    with bar() as shown:
        task = shown.add_task("Living through some weeks", total=None)
        summary = run(
            settings,
            organization or settings.organization,
            seed,
            lambda done, total: shown.update(task, completed=done, total=total),
        )
    if as_json:
        click.echo(json.dumps(asdict(summary), default=str))
    else:
        holder = None if settings.stack == "full" else DataFolder.open(settings.data).holder()
        url = holder.url if holder and holder.url else settings.url
        click.echo("\n".join(try_next(summary, url, settings.data)))
