"""`daybook migrate`: bring tables, topics and indexes of the full stack to their newest shape."""

from __future__ import annotations

import json

import click

from infra.cli._options import json_option
from infra.settings import Settings


@click.command("migrate")
@json_option
def command(as_json: bool) -> None:
    """Bring tables, topics and indexes to their newest shape: forward only, and again as often as you like.

    Run it before new services start. It enters Postgres as the owner (DAYBOOK_POSTGRES_OWNER_DSN), everybody else as
    the application's role. Services of the version before go on working beside the new shape.
    """
    settings = Settings.load()
    settings.need("postgres_owner_dsn")
    from infra.migrating import migrated  # noqa: PLC0415 - loads every part, which wrong options need not wait for

    for step in migrated(settings):
        click.echo(json.dumps({"what": step.what, "done": step.done}) if as_json else f"{step.what:<16} {step.done}")
