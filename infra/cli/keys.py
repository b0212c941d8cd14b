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


_TOKENS = click.Choice(["tokens"])
_FOLDER = click.option(
    "--folder", type=click.Path(path_type=Path), help="Which. [default: $DAYBOOK_KEYS, or keys in DATA]"
)


@command.command("rotate")
@click.argument("which", type=_TOKENS)
@_FOLDER
@data_option
@json_option
def rotate_command(which: str, folder: Path | None, data: Path | None, as_json: bool) -> None:
    """Make another key sign tokens from now on. Running services take it up by themselves, and what was signed before
    is good until it runs out: once that is so, `daybook keys retire tokens` takes the former keys away."""
    settings = Settings.load(data=data, keys=folder)
    from infra.signing_keys import rotate  # noqa: PLC0415 - loads the parts that use them

    name = rotate(settings.keys_folder)
    click.echo(json.dumps({"signs": name}) if as_json else f"{settings.keys_folder / name} signs tokens now")


@command.command("retire")
@click.argument("which", type=_TOKENS)
@_FOLDER
@data_option
@json_option
def retire_command(which: str, folder: Path | None, data: Path | None, as_json: bool) -> None:
    """Take away all keys of tokens but the one that signs: after a rotation, when the last token signed before has run
    out; or at once, when one of them got into wrong hands (then restart the services too)."""
    settings = Settings.load(data=data, keys=folder)
    from infra.signing_keys import retire  # noqa: PLC0415 - loads the parts that use them

    gone = retire(settings.keys_folder)
    if as_json:
        click.echo(json.dumps({"retired": list(gone)}))
    else:
        click.echo("\n".join(f"retired  {settings.keys_folder / name}" for name in gone) or "there is one key only")


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
