"""`daybook keys`: make the secret files that all services of one installation share."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import click

from infra.cli._options import data_option, json_option
from infra.cli._progress import bar
from infra.settings import Settings


@click.group("keys")
def command() -> None:
    """Make the secret files that all services of one installation share.

    The embedded Daybook makes its own on first start. Keep a copy of the folder where the database's backups are not:
    without master.key nobody's personal data can be read again.
    """


_ROTATED = click.Choice(["tokens", "master", "search", "checkpoints", "commands"])
_RETIRED = click.Choice(["tokens", "master", "search"])
_FOLDER = click.option(
    "--folder", type=click.Path(path_type=Path), help="Which. [default: $DAYBOOK_KEYS, or keys in DATA]"
)


@command.command("rotate")
@click.argument("which", type=_ROTATED)
@_FOLDER
@data_option
@json_option
@click.option("--prepare", is_flag=True, help="master, search: only lay the new key beside the old one.")
def rotate_command(which: str, folder: Path | None, data: Path | None, as_json: bool, prepare: bool) -> None:
    """Put another key in the place of one that is old, in wrong hands, or lost.

    tokens: running services take the new key up by themselves, and what was signed before is good until it runs out;
    once that is so, `daybook keys retire tokens` takes the former keys away.

    master: every data key is wrapped anew, while services run; the log stays as it is. The former key is kept as
    master.retired, since backups made before need it; `daybook keys retire master` takes it away. What breaks off is
    gone on with by doing it again. Where services don't share the folder itself, --prepare first, hand master.next out
    to all of them, and rotate then.

    search: people are found under another key than `blind`, or than the one that came after it. The read model is
    filled anew beside the old one and swapped, and people are found under both keys meanwhile; once that is done,
    `daybook keys retire search`. Where services don't share the folder itself, --prepare, hand out all of search.*, and
    `daybook projections rebuild --model people`.

    checkpoints: another key signs the log; what was signed stays good under the former public key, which stays beside
    the checkpoints. Give the new one, printed here, to whoever checks proofs, and restart what signs.

    commands: a command that is repeated from before is refused (422) instead of answered as it was. Restart the
    services that write.

    These three may be lost; a master key may not, nor blind, under which addresses are claimed in the log.
    """
    settings = Settings.load(data=data, keys=folder)
    if prepare and which not in ("master", "search"):
        raise click.UsageError("--prepare goes with master and search.")
    if which == "master":
        _rotate_master(settings, as_json, prepare)
        return
    if which == "search":
        _rotate_search(settings, as_json, prepare)
        return
    if which == "checkpoints":
        _rotate_checkpoints(settings, as_json)
        return
    if which == "commands":
        _rotate_commands(settings, as_json)
        return
    from infra.signing_keys import rotate  # noqa: PLC0415 - loads the parts that use them

    name = rotate(settings.keys_folder)
    click.echo(json.dumps({"signs": name}) if as_json else f"{settings.keys_folder / name} signs tokens now")


@command.command("retire")
@click.argument("which", type=_RETIRED)
@_FOLDER
@data_option
@json_option
def retire_command(which: str, folder: Path | None, data: Path | None, as_json: bool) -> None:
    """Take away what a rotation left.

    tokens: all keys but the one that signs, when the last token signed before has run out; or at once, when one of them
    got into wrong hands (then restart the services too).

    master: the former key, once no backup made before the rotation may be needed. It opens nothing in the database any
    more, which is made sure of first; from then on older copies of the data keys are worthless, those of people who
    were erased since among them.

    search: the keys under which people were found before, once the read model was filled anew.
    """
    settings = Settings.load(data=data, keys=folder)
    if which == "master":
        from infra import master_keys  # noqa: PLC0415 - loads the parts that use them
        from infra.installation import opened  # noqa: PLC0415

        with opened(settings, redis=False) as place:
            gone = asyncio.run(master_keys.retire(place.postgres, place.keys.path))
        _tell_retired(place.keys.path, [master_keys.RETIRED] if gone else [], as_json)
        return
    if which == "search":
        from infra.search_keys import retire as retire_search  # noqa: PLC0415 - loads the parts that use them

        _tell_retired(settings.keys_folder, retire_search(settings.keys_folder), as_json)
        return
    from infra.signing_keys import retire  # noqa: PLC0415 - loads the parts that use them

    _tell_retired(settings.keys_folder, retire(settings.keys_folder), as_json)


def _tell_retired(folder: Path, gone: Sequence[str], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"retired": list(gone)}))
    else:
        click.echo("\n".join(f"retired  {folder / name}" for name in gone) or "there is one key only")


def _rotate_master(settings: Settings, as_json: bool, prepare: bool) -> None:
    from infra import master_keys  # noqa: PLC0415 - loads the parts that use them
    from infra.installation import opened  # noqa: PLC0415

    folder = settings.keys_folder
    if prepare:
        master_keys.prepare(folder)
        click.echo(json.dumps({"next": master_keys.NEXT}) if as_json else f"{folder / master_keys.NEXT} lies there")
        return
    with opened(settings, redis=False) as place, bar() as shown:
        task = shown.add_task("wrapping data keys", total=None)
        count = asyncio.run(
            master_keys.rotate(
                place.postgres,
                place.keys.path,
                lambda done, total: shown.update(task, completed=done, total=total),
            )
        )
    if as_json:
        click.echo(json.dumps({"wrapped": count, "retired": master_keys.RETIRED}))
    else:
        click.echo(f"{count:,} data keys were wrapped anew. Make a backup now: those made before need master.retired.")


def _rotate_search(settings: Settings, as_json: bool, prepare: bool) -> None:
    from infra.cli.projections import rebuilt_model  # noqa: PLC0415 - loads the parts that use them
    from infra.keys import KeyFolder  # noqa: PLC0415
    from infra.search_keys import rotate  # noqa: PLC0415

    KeyFolder(settings.keys_folder, make=False).blinds()
    name = rotate(settings.keys_folder)
    told = {"key": name} if prepare else {"key": name, "rebuilt": rebuilt_model(settings, "people")}
    if as_json:
        click.echo(json.dumps(told))
    elif prepare:
        click.echo(f"{settings.keys_folder / name} lies there")
    else:
        click.echo(
            f"People are found under {settings.keys_folder / name}. `daybook keys retire search` ends the others."
        )


def _rotate_checkpoints(settings: Settings, as_json: bool) -> None:
    from infra.event_log.checkpoints import SigningKey, publish  # noqa: PLC0415 - loads the parts that use them
    from infra.installation import opened  # noqa: PLC0415
    from infra.key_files import replace  # noqa: PLC0415

    with opened(settings, redis=False) as place:
        key = SigningKey(replace(place.keys.path / "checkpoints.ed25519"))
        publish(place.checkpoints, key)
    if as_json:
        click.echo(json.dumps({"key": key.id, "public": key.public.hex()}))
    else:
        click.echo(f"{key.id} signs the log from the next start on. Its public key:\n{key.public.hex()}")


def _rotate_commands(settings: Settings, as_json: bool) -> None:
    from infra.event_log.schema import migrate  # noqa: PLC0415 - loads the parts that use them
    from infra.installation import opened  # noqa: PLC0415
    from infra.key_marks import succeed  # noqa: PLC0415

    with opened(settings, redis=False) as place:
        if place.owner is not None:
            migrate(place.owner)
        asyncio.run(succeed(place.postgres, place.keys.path, "commands"))
    if as_json:
        click.echo(json.dumps({"made": "commands"}))
    else:
        click.echo(f"{place.keys.path / 'commands'} is another key from the next start on")


@command.command("make")
@click.option("--folder", type=click.Path(path_type=Path), help="Where to. [default: $DAYBOOK_KEYS, or keys in DATA]")
@data_option
@json_option
def make_command(folder: Path | None, data: Path | None, as_json: bool) -> None:
    """Make what is missing; what is there is left as it is.

    It is for a log that has not begun: one that has is not opened with other keys than its own.
    """
    settings = Settings.load(data=data, keys=folder)
    from infra.keys import FILES, KeyFolder  # noqa: PLC0415 - loads the parts that use them

    keys = KeyFolder(settings.keys_folder, make=True)
    made = keys.make()
    if as_json:
        click.echo(json.dumps({"folder": str(keys.path), "made": list(made)}))
        return
    for name, purpose in FILES.items():
        click.echo(f"{'made' if name in made else 'kept'}  {keys.path / name}   {purpose}")
