"""`daybook keys`: make the secret files that all services of one installation share."""

from __future__ import annotations

import json
from pathlib import Path

import click

from infra.cli._options import data_option, json_option
from infra.settings import Settings


@click.group("keys")
def command() -> None:
    """Make the secret files that all services of one installation share.

    The embedded Daybook makes its own on first start. Keep a copy of the folder where the database's backups are not:
    without master.key nobody's personal data can be read again.
    """


@command.command("make")
@click.option("--folder", type=click.Path(path_type=Path), help="Where to. [default: $DAYBOOK_KEYS, or keys in DATA]")
@data_option
@json_option
def make_command(folder: Path | None, data: Path | None, as_json: bool) -> None:
    """Make what is missing; what is there is left as it is."""
    settings = Settings.load(data=data, keys=folder)
    from infra.keys import FILES, KeyFolder  # noqa: PLC0415 - loads the parts that use them

    keys = KeyFolder(settings.keys_folder, make=True)
    made = keys.make()
    if as_json:
        click.echo(json.dumps({"folder": str(keys.path), "made": list(made)}))
        return
    for name, purpose in FILES.items():
        click.echo(f"{'made' if name in made else 'kept'}  {keys.path / name}   {purpose}")
