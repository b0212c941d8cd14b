"""`daybook backup`: back the log up while bookings go on, check a backup, and bring a log back."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from infra.cli._options import Duration, data_option, json_option
from infra.cli._progress import bar
from infra.settings import Settings
from infra.troubles import Trouble, WrongInput

if TYPE_CHECKING:
    from infra.backup.restore import Restored
    from infra.installation import Installation

_FOLDER = click.argument("folder", type=click.Path(path_type=Path, file_okay=False))


@click.group("backup")
def command() -> None:
    """Back the log up while bookings go on, check a backup, and bring a log back.

    A backup is a folder. It holds every event, and never the master key: keep the keys folder elsewhere, or nobody's
    personal data can be read again. What everyone looks at is built from the log, so it is not in a backup.
    """


@command.command("create")
@_FOLDER
@click.option("--every", type=Duration(), help="Go on by itself, once in this time, such as 60s, until stopped.")
@data_option
@json_option
def create_command(folder: Path, every: timedelta | None, data: Path | None, as_json: bool) -> None:
    """Make a backup in FOLDER, or add what is new to the one that is there.

    Beside a running Daybook or without one. Whatever breaks it off, the last whole backup stays valid.
    """
    settings = Settings.load(data=data)
    if every is None:
        _create(settings, folder, as_json)
        return
    from infra import logs  # noqa: PLC0415 - help must not wait for it

    logs.set_up("backup", level=settings.log_level, form=logs.form_of_service(settings.log_format))
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    while not stopping.is_set():
        try:
            _create(settings, folder, as_json)
        except _OutOfReach as trouble:
            click.echo(f"daybook: {trouble} The next try follows.", err=True)
        stopping.wait(every.total_seconds())


class _OutOfReach(Trouble):
    """The database or the folder can't be reached now."""


def _create(settings: Settings, folder: Path, as_json: bool) -> None:
    from infra.backup.create import create  # noqa: PLC0415 - help must not wait for it
    from infra.backup.manifest import fingerprints  # noqa: PLC0415
    from infra.backup.restore import NEEDED  # noqa: PLC0415
    from infra.event_log.schema import migrate  # noqa: PLC0415
    from infra.key_marks import settle  # noqa: PLC0415

    with _troubles(), _installed(settings) as place, bar() as shown:
        if place.owner is not None and settings.stack == "embedded":
            migrate(place.owner)
            asyncio.run(settle(place.postgres, place.keys))
        task = shown.add_task("backing up", total=None)
        made = create(
            place.postgres,
            folder,
            place.keys.checkpoints(),
            checkpoints=place.checkpoints,
            secrets=fingerprints(place.keys.path, NEEDED),
            progress=lambda done, total: shown.update(task, completed=done, total=total),
        )
    manifest = made.manifest
    if as_json:
        told = {"position": manifest.position, "events": made.events, "bytes": made.bytes, "run": manifest.run}
        click.echo(
            json.dumps({**told, "made_at": manifest.made_at.isoformat(), "seconds": round(made.seconds, 3)}),
        )
    else:
        click.echo(
            f"Backed up to position {manifest.position:,} as of {manifest.made_at:%Y-%m-%d %H:%M:%SZ}: {made.events:,} "
            f"new events, {made.bytes:,} bytes, {made.seconds:.1f} s."
        )
    sys.stdout.flush()


@command.command("verify")
@_FOLDER
@click.option("--keys", type=click.Path(path_type=Path), help="The keys folder. [default: $DAYBOOK_KEYS, or in DATA]")
@click.option(
    "--checkpoints",
    type=click.Path(path_type=Path, exists=True),
    help="Signed checkpoints that were kept elsewhere: with them a backup is found out that was set back.",
)
@data_option
@json_option
def verify_command(folder: Path, keys: Path | None, checkpoints: Path | None, data: Path | None, as_json: bool) -> None:
    """Read the whole backup in FOLDER and check it, without a database: files, rows, chain, versions, signatures.

    Names the position of the first fault. Exit code 1 when there is one.
    """
    from infra.backup.verify import verify  # noqa: PLC0415 - help must not wait for it

    trusted = _trusted(Settings.load(data=data, keys=keys).keys_folder, checkpoints)
    with _troubles(), bar() as shown:
        task = shown.add_task("verifying", total=None)
        report = verify(
            folder,
            keys=trusted,
            checkpoints=checkpoints,
            progress=lambda done, total: shown.update(task, completed=done, total=total),
        )
    position = report.manifest.position if report.manifest else 0
    if as_json:
        faults = [{"position": one.position, "kind": one.kind.value, "detail": one.detail} for one in report.faults]
        told: dict[str, Any] = {
            "ok": report.ok,
            "position": position,
            "events": report.events,
            "checkpoints": report.checkpoints,
        }
        made_at = report.manifest.made_at.isoformat() if report.manifest else None
        told |= {"made_at": made_at, "believed": report.believed, "faults": faults}
        click.echo(json.dumps({**told, "seconds": round(report.seconds, 3)}))
    elif report.ok and report.manifest:
        click.echo(
            f"The backup is whole: {report.events:,} events as of {report.manifest.made_at:%Y-%m-%d %H:%M:%SZ}, "
            f"{report.checkpoints:,} signed states, {report.seconds:.1f} s."
        )
        if report.believed:
            click.echo("No key was at hand but its own: that shows faults, not forgery. Name the keys folder (--keys).")
    else:
        click.echo(f"The backup is NOT whole: {report.first}.")
        for fault in report.faults[1:10]:
            click.echo(f"  also {fault}")
    sys.exit(0 if report.ok else 1)


@command.command("restore")
@_FOLDER
@click.option(
    "--keys",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="The keys folder that was kept. Its files are brought into this installation where they are missing.",
)
@click.option(
    "--newest",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="The newest backup of the same log, where FOLDER is an older copy: who was forgotten since stays forgotten.",
)
@click.option(
    "--checkpoints",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Checkpoints that were kept elsewhere: the public keys beside them are believed too. For a backup from before "
    "`daybook keys rotate checkpoints`.",
)
@data_option
@json_option
def restore_command(
    folder: Path, keys: Path | None, newest: Path | None, checkpoints: Path | None, data: Path | None, as_json: bool
) -> None:
    """Bring the log in FOLDER back into an empty database, and check it against what was signed.

    Nothing may run meanwhile. The read models are emptied and fill themselves from the log at the next start. Exit code
    1 when the restored log has a fault, or a read model could not be emptied.
    """
    from infra.backup.manifest import fingerprints  # noqa: PLC0415 - help must not wait for it
    from infra.backup.restore import NEEDED, restore  # noqa: PLC0415

    settings = Settings.load(data=data)
    if settings.stack == "full":
        settings.need("postgres_owner_dsn")
    with _troubles(), _installed(settings, claim="backup restore") as place:
        if keys is not None:
            _bring_keys(keys, place.keys.path)
        with bar() as shown:
            tasks: dict[str, Any] = {}

            def progress(what: str, done: int, total: int) -> None:
                if what not in tasks:
                    tasks[what] = shown.add_task(what, total=None)
                shown.update(tasks[what], completed=done, total=total)

            if not (place.keys.path / "master.key").exists():
                raise Trouble(
                    f"{place.keys.path} holds no master.key. A backup never holds it: bring the keys folder of the "
                    "installation that was backed up, with --keys FOLDER."
                )
            restored = restore(
                folder,
                place.owner or "",
                place.keys.master(),
                keys=_trusted(place.keys.path, checkpoints),
                secrets=fingerprints(place.keys.path, NEEDED),
                newest=newest,
                checkpoints=place.checkpoints,
                progress=progress,
            )
        full = asyncio.run(_emptied(place))
    _tell(restored, full, as_json)
    sys.exit(0 if restored.verified.ok and not full else 1)


def _tell(restored: Restored, full: Mapping[str, str], as_json: bool) -> None:
    manifest, report = restored.manifest, restored.verified
    age = datetime.now(UTC) - manifest.made_at
    if as_json:
        told = {"ok": report.ok, "position": manifest.position, "made_at": manifest.made_at.isoformat()}
        told |= {"seconds_lost_at_most": round(age.total_seconds(), 1), "signed_events_lost": restored.lost}
        told |= {"faults": [str(fault) for fault in report.faults], "not_emptied": dict(full)}
        click.echo(json.dumps({**told, "seconds": round(restored.seconds, 3)}))
        return
    click.echo(
        f"Restored {manifest.position:,} events as of {manifest.made_at:%Y-%m-%d %H:%M:%SZ} in {restored.seconds:.1f} "
        "s; what came after that is not there."
    )
    if restored.lost:
        click.echo(
            f"  {restored.lost:,} later events were signed and are lost; the signatures are in {restored.set_aside}"
        )
    if report.ok:
        click.echo(f"The log is whole: {report.events:,} events, {report.checkpoints:,} checkpoints.")
    else:
        click.echo(f"The log is NOT whole. The first fault is at {report.first}.")
    for name, error in full.items():
        click.echo(
            f"{name} could not be emptied ({error}). Before anybody reads it: "
            f"daybook projections rebuild --model {name}"
        )


async def _emptied(place: Installation) -> dict[str, str]:
    """Empty every read model, since none may hold what the log does not. Those that could not be reached, and why."""
    from infra.read_models import models_on  # noqa: PLC0415
    from infra.settings import MODELS  # noqa: PLC0415
    from streams.follower import start_over  # noqa: PLC0415

    failed: dict[str, str] = {}
    for name in MODELS:
        try:
            async with models_on(place, [name]) as models:
                await start_over(models[name])
        except Exception as error:  # whatever a store's client raises; its words may hold what nobody should read
            failed[name] = type(error).__name__
    return failed


def _trusted(keys: Path, checkpoints: Path | None) -> dict[str, bytes] | None:
    """The public keys at hand; None where there are none."""
    from infra.event_log.checkpoints import SigningKey, public_keys  # noqa: PLC0415

    found = public_keys(checkpoints) if checkpoints else {}
    if (keys / "checkpoints.ed25519").exists():
        try:
            key = SigningKey((keys / "checkpoints.ed25519").read_bytes())
        except (OSError, ValueError):
            raise WrongInput(f"{keys / 'checkpoints.ed25519'} can't be read, or is no key.") from None
        found[key.id] = key.public
    return found or None


def _bring_keys(source: Path, target: Path) -> None:
    from infra.keys import FILES  # noqa: PLC0415
    from infra.master_keys import NEXT, RETIRED  # noqa: PLC0415

    target.mkdir(mode=0o700, parents=True, exist_ok=True)
    # A backup may have been made while the master key was rotated, and another before.
    for name in (*FILES, NEXT, RETIRED):
        if not (source / name).exists():
            continue
        if not (target / name).exists():
            (target / name).touch(mode=0o600)
            shutil.copyfile(source / name, target / name)
        elif (source / name).read_bytes() != (target / name).read_bytes():
            raise Trouble(
                f"{target / name} is another key than the one in {source}. Restore into a new installation, or move it "
                "away."
            )


@contextmanager
def _installed(settings: Settings, claim: str | None = None) -> Iterator[Installation]:
    """The installation; embedded servers run meanwhile."""
    from infra.installation import Installation  # noqa: PLC0415 - help must not wait for them

    if settings.stack == "full":
        yield Installation.full(settings)
        return
    from infra.embedded.servers import Servers  # noqa: PLC0415

    with Servers(settings, claim=claim, redis=claim is not None) as servers:
        yield Installation.embedded(settings, servers)


@contextmanager
def _troubles() -> Iterator[None]:
    """What went wrong, in words."""
    import psycopg  # noqa: PLC0415

    from infra.backup.parts import Damaged  # noqa: PLC0415

    try:
        yield
    except Damaged as damaged:
        raise Trouble(f"The backup is not as it was written: {damaged}.") from damaged
    except psycopg.OperationalError as error:
        raise _OutOfReach(f"The database can't be reached ({type(error).__name__}).") from error
    except psycopg.Error as error:
        raise Trouble(f"The database refused ({type(error).__name__}, {error.sqlstate}).") from error
    except OSError as error:
        raise _OutOfReach(f"The folder can't be read or written ({error.strerror or type(error).__name__}).") from error
