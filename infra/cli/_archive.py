"""What `daybook log` does with old events: move them into the archive, and full parts of it into files and back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import click

from infra.cli._options import Duration, data_option, json_option
from infra.cli._progress import bar
from infra.settings import Settings
from infra.troubles import Trouble, WrongSettings

_file = click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
_checkpoints = click.option(
    "--checkpoints", type=click.Path(path_type=Path), help="The folder of checkpoints. [default: in DATA]"
)


@click.command("archive")
@data_option
@json_option
@_checkpoints
@click.option("--older-than", type=Duration(), help="Events recorded longer ago than this: 400d.")
@click.option("--upto", type=click.IntRange(min=0), help="Events up to this position.")
@click.option("--tablespace", default="", help="Where new parts lie. [default: the database's own]")
@click.option("--rest", default=0.0, help="Seconds between ranges, for others' sake.", show_default=True)
@click.option("--dry-run", is_flag=True, help="Say what would move, and move nothing.")
def archive_command(
    data: Path | None,
    as_json: bool,
    checkpoints: Path | None,
    older_than: timedelta | None,
    upto: int | None,
    tablespace: str,
    rest: float,
    dry_run: bool,
) -> None:
    """Move old events into the archive, where they stay part of the log.

    Everything answers as before: loads, replays, conflicts, proofs. Events move up to a signed checkpoint, a range at a
    time, beside running servers; it may be stopped or killed at any moment and goes on where it was. On the full stack
    DAYBOOK_POSTGRES_DSN is to name the role daybook_archivist, the only one that may do this.
    """
    from infra.event_log.archive import aim, archive  # noqa: PLC0415 - help must not wait for them
    from infra.event_log.schema import ARCHIVIST_ROLE, as_role, migrate  # noqa: PLC0415
    from infra.installation import opened  # noqa: PLC0415

    if (older_than is None) == (upto is None):
        raise click.UsageError("Say what is old: either --older-than or --upto.")
    settings = Settings.load(data=data)
    with opened(settings, redis=False) as place, _in_words(), bar() as shown:
        dsn = place.postgres
        if settings.stack == "embedded" and place.owner is not None:
            migrate(place.owner)
            dsn = as_role(place.owner, ARCHIVIST_ROLE)
        folder = checkpoints or place.checkpoints
        if dry_run:
            found = aim(dsn, folder, upto=upto, older_than=older_than)
        else:
            task = shown.add_task("archiving", total=None)
            found = archive(
                dsn,
                folder,
                upto=upto,
                older_than=older_than,
                tablespace=tablespace,
                rest=rest,
                progress=lambda done, total: shown.update(task, completed=done, total=total),
            )
    if as_json:
        told = {"archived_before": found.floor, "archived_upto": found.upto, "events": found.events, "head": found.head}
        click.echo(json.dumps({**told, "dry_run": dry_run}))
    elif found.events:
        verb = "Would move" if dry_run else "Moved"
        click.echo(f"{verb} {found.events:,} events, up to position {found.upto:,} of {found.head:,}.")
    else:
        click.echo(
            f"Nothing to move: the archive ends at {found.floor:,}, and no later checkpoint lies at or before "
            f"{found.wanted:,} of {found.head:,}. Events move up to a signed checkpoint, and the newest stays."
        )


@click.command("parts")
@data_option
@json_option
def parts_command(data: Path | None, as_json: bool) -> None:
    """List the parts of the archive."""
    from infra.event_log.parts import parts  # noqa: PLC0415 - help must not wait for it
    from infra.installation import opened  # noqa: PLC0415

    with opened(Settings.load(data=data), redis=False) as place:
        found = parts(place.postgres)
    for part in found:
        state = "detached" if part.detached else "full" if part.root else "filling"
        told = {"after": part.after, "upto": part.upto, "state": state, "root": part.root.hex() if part.root else None}
        click.echo(json.dumps(told) if as_json else f"{part.after + 1:>14,} to {part.upto:>14,}  {state}")
    if not found and not as_json:
        click.echo("Nothing is archived.")


@click.command("detach")
@data_option
@_checkpoints
@_file
def detach_command(data: Path | None, checkpoints: Path | None, file: Path) -> None:
    """Take the oldest full part of the archive out of the database, into FILE.

    The rows go when the file is on disk, was read back and is what was signed. From then on whatever would have to read
    them is refused: histories that reach back so far, replays and rebuilds from the beginning. Saves go on. Keep FILE:
    nothing else holds these events.
    """
    from infra.event_log.parts import detach  # noqa: PLC0415 - help must not wait for it

    with _owned(data) as (owner, folder), _in_words():
        done = detach(owner, file, checkpoints or folder)
    if done is None:
        click.echo("Finished what was left half done; say it again to detach the next part.")
    else:
        click.echo(f"Positions {done.after + 1:,} to {done.upto:,} now lie in {file}, root {done.root.hex()}.")


@click.command("attach")
@data_option
@_checkpoints
@_file
def attach_command(data: Path | None, checkpoints: Path | None, file: Path) -> None:
    """Bring a detached part back from FILE; the newest comes first."""
    from infra.event_log.parts import attach  # noqa: PLC0415 - help must not wait for it

    with _owned(data) as (owner, folder), _in_words():
        done = attach(owner, file, checkpoints or folder)
    click.echo(f"Positions {done.after + 1:,} to {done.upto:,} answer again.")


@click.command("verify-part")
@click.option("--checkpoints", type=click.Path(path_type=Path), help="A folder of checkpoints to compare with.")
@_file
def verify_part_command(checkpoints: Path | None, file: Path) -> None:
    """Check FILE, a detached part, against itself and signed checkpoints. Needs no database."""
    from infra.event_log.parts import verify_part  # noqa: PLC0415 - help must not wait for it

    with _in_words():
        found = verify_part(file, checkpoints)
    click.echo(
        f"The file is whole: positions {found.after + 1:,} to {found.upto:,}, root {found.root.hex()}, "
        f"{found.checkpoints} signed checkpoints within."
    )


COMMANDS = (archive_command, parts_command, detach_command, attach_command, verify_part_command)


@contextmanager
def _owned(data: Path | None) -> Iterator[tuple[str, Path]]:
    """The owner's DSN and the folder of checkpoints."""
    from infra.installation import opened  # noqa: PLC0415 - help must not wait for it

    with opened(Settings.load(data=data), redis=False) as place:
        if place.owner is None:
            raise WrongSettings("Tables are changed by their owner: set DAYBOOK_POSTGRES_OWNER_DSN.")
        yield place.owner, place.checkpoints


@contextmanager
def _in_words() -> Iterator[Any]:
    import psycopg  # noqa: PLC0415 - help must not wait for it

    from infra.event_log.checkpoints import LogAltered  # noqa: PLC0415

    try:
        yield
    except LogAltered as fault:
        raise Trouble(f"The log is NOT what it was, so nothing of this moves: {fault}.") from fault
    except FileExistsError as error:
        raise WrongSettings("The file is there already, and is not written over.") from error
    except FileNotFoundError as error:
        raise WrongSettings("There is no such file or folder.") from error
    except psycopg.errors.InsufficientPrivilege as error:
        raise WrongSettings("This role of the database may not do that; see docs/operations/postgres.md.") from error
