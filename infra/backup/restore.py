"""Brings a log back from a backup into an empty database, and proves that it is the one that was signed.

In: a backup and the keys of its installation. Out: a log that goes on where the backup was made. All or nothing: until
the last row is checked and in its place, the database stays empty.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, Final

import psycopg

from infra.backup.chain import Broken, Chain
from infra.backup.create import COMMAND_COLUMNS, KEY_COLUMNS
from infra.backup.manifest import CHECKPOINTS, COMMANDS, FILE, KEYS, ROWS, BackupTrouble, Manifest
from infra.backup.parts import Damaged, Part, put, unpack
from infra.event_log import checkpoints as signed
from infra.event_log.checkpoints import Checkpoint, CheckpointFile, CheckpointsBusy, read_checkpoints
from infra.event_log.rows import COLUMNS, COPY_HEADER, COPY_TRAILER, fields, instant
from infra.event_log.scan import row_and_hash
from infra.event_log.schema import migrate, migrations
from infra.event_log.verify import Report, verify
from infra.key_files import sync_folder
from infra.key_marks import MARKED, NOTE, SUCCEEDED
from infra.keyring import MasterKey, opens

# The key files without which a restored log would not be what it was: the first opens what is personal, with the second
# a repeated command is known again, and by the third an account is found by its address. The second may have been lost
# since: whoever opens the restored log is told, as for any log.
NEEDED: Final = ("master.key", "commands", "blind")
# Rows are checked here and written there; in short turns, so that both have work.
_TURN: Final = 500
_TRIED: Final = 100

Progress = Callable[[str, int, int], None]


class NotEmpty(BackupTrouble):
    """The database has a log already."""


class WrongKeys(BackupTrouble):
    """The keys at hand are not those of the installation that was backed up."""


class OlderBackup(BackupTrouble):
    """What was named as the newest backup does not continue this one."""


@dataclass(frozen=True, slots=True)
class Restored:
    """`verified` is the check of the restored log against the signed checkpoints. `lost` counts events that a
    checkpoint signed and the backup does not have; `set_aside` is where the file with those checkpoints now is."""

    manifest: Manifest
    verified: Report
    load_seconds: float
    seconds: float
    lost: int = 0
    set_aside: Path | None = None


def restore(
    folder: Path,
    dsn: str,
    master: MasterKey,
    *,
    keys: Mapping[str, bytes] | None = None,
    secrets: Mapping[str, str] | None = None,
    newest: Path | None = None,
    checkpoints: Path | None = None,
    progress: Progress = lambda what, done, total: None,
) -> Restored:
    """`dsn` is the owner's, of a database that is empty or migrated and unused; `keys` and `secrets` as `verify` and
    `create` have them.

    `newest` is the newest backup of the same log where `folder` is an older copy: persons' keys come from there, so
    that who was forgotten since stays so. `checkpoints` is the folder in which the log is signed from now on; a file
    that is there is set aside. `progress` hears what is done, and how many of how many. Raises `NotEmpty`, `WrongKeys`,
    `OlderBackup`, other `BackupTrouble`, `Damaged`, `psycopg.Error` and `OSError`; nothing is restored then.
    """
    started = time.perf_counter()
    manifest = _trusted(folder, keys)
    if keys is not None:
        # What a trusted key signed speaks for the keys before it.
        keys = {**manifest.public_keys, **keys}
    _fits(manifest, secrets)
    keys_from, keys_as = (folder, manifest) if newest is None else _newest(newest, manifest, keys)
    wrapped = [item for part in keys_as.parts[KEYS] for item in unpack(keys_from, part).items]
    _can_open(master, wrapped)
    lines = [line for part in manifest.parts[CHECKPOINTS] for line in unpack(folder, part).items]
    if manifest.checkpoint is not None:
        lines.append(manifest.checkpoint.line())
    migrate(dsn)
    with ExitStack() as stack:
        last = stack.enter_context(_Unwatched(checkpoints)) if checkpoints else None
        connection = stack.enter_context(psycopg.connect(dsn, application_name="daybook restore"))
        connection.execute("SET TimeZone = 'UTC'")
        _lock_empty(connection)
        _load(connection, folder, manifest, progress)
        _copy(connection, f"data_keys ({KEY_COLUMNS})", [wrapped])
        _copy(connection, f"commands ({COMMAND_COLUMNS})", _items(folder, manifest, COMMANDS))
        with connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO tracking (application, position) VALUES (%s, %s)", manifest.tracking.items()
            )
            # Whoever opened the empty log noted the keys of then.
            cursor.execute("DELETE FROM key_marks")
            cursor.executemany(NOTE, [(name, mark) for name, mark in manifest.secrets.items() if name in MARKED])
        # Before the commit: signatures ahead of the log would stop the one who signs, and a second try sets them aside.
        known = manifest.public_keys if keys is None else keys
        aside = _sign_on(checkpoints, known, lines) if checkpoints else None
        connection.commit()
        loaded = time.perf_counter() - started
        connection.execute("ANALYZE")
        connection.commit()
    with tempfile.TemporaryDirectory() as beside:
        _write_checkpoints(Path(beside), known, lines)
        report = verify(dsn, Path(beside), keys=keys, progress=lambda done, all: progress("verifying", done, all))
    lost = max(0, last.size - manifest.position) if last else 0
    return Restored(manifest, report, loaded, time.perf_counter() - started, lost, aside)


def _trusted(folder: Path, keys: Mapping[str, bytes] | None) -> Manifest:
    manifest = Manifest.load(folder)
    if not manifest.run:
        raise BackupTrouble(f"The backup in {folder} was begun and never finished; there is nothing in it.")
    if not manifest.is_signed(manifest.public_keys if keys is None else keys):
        raise Damaged(
            FILE,
            f"is not signed by a known key (it names {manifest.key}; where that one has a successor since, its public "
            "half lies beside the checkpoints: --checkpoints FOLDER)",
        )
    return manifest


def _fits(manifest: Manifest, secrets: Mapping[str, str] | None) -> None:
    newest = max(number for number, _, _ in migrations())
    if manifest.schema > newest:
        raise BackupTrouble(
            f"The backup was made by a newer Daybook (schema {manifest.schema}, this one knows {newest}). Update first."
        )
    for name in NEEDED if secrets is not None else ():
        if name in SUCCEEDED:
            continue
        expected, found = manifest.secrets.get(name), (secrets or {}).get(name)
        if expected is not None and found != expected:
            state = "missing" if found is None else "another than that of the backup"
            raise WrongKeys(
                f"The key file {name} is {state}. Bring the keys folder of the installation that was backed up; "
                "a backup never holds it."
            )


def _newest(folder: Path, manifest: Manifest, keys: Mapping[str, bytes] | None) -> tuple[Path, Manifest]:
    newest = _trusted(folder, keys)
    position = manifest.position
    part = next((part for part in newest.parts[ROWS] if part.first <= position <= part.last), None)
    if newest.made_at < manifest.made_at or (part is None and position > 0):
        raise OlderBackup(f"{folder} is older than the backup that is to be restored.")
    if part is not None and manifest.checkpoint is not None:
        item = unpack(folder, part).items[position - part.first]
        if row_and_hash(item)[1] != manifest.checkpoint.hash:
            raise OlderBackup(f"{folder} is the backup of another log.")
    return folder, newest


def _can_open(master: MasterKey, wrapped: Sequence[bytes]) -> None:
    """Some of the wrapped keys, from the first to the last, are tried."""
    step = max(1, len(wrapped) // _TRIED)

    async def tried() -> bool:
        for item in wrapped[::step]:
            organization, person, key, _ = islice(fields(item[2:]), 4)
            if not await opens(master, (organization or b"").decode(), (person or b"").decode(), key or b""):
                return False
        return True

    if not asyncio.run(tried()):
        raise WrongKeys(
            "The master key does not open the data keys of this backup. Bring the master key of the installation that "
            "was backed up; without it what is personal can't be read, and a backup never holds it."
        )


class _Unwatched:
    """Nobody signs the log meanwhile. Gives the last checkpoint that is there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: CheckpointFile | None = None

    def __enter__(self) -> Checkpoint | None:
        try:
            self._file = CheckpointFile(self._folder)
        except CheckpointsBusy:
            raise BackupTrouble(
                f"A running Daybook signs the log into {self._folder}. Stop everything before a restore."
            ) from None
        except ValueError:
            # Its last line is damaged; it is set aside as it is.
            return None
        whole = [one for one in read_checkpoints(self._folder) if one is not None]
        return max(whole, key=lambda one: one.size, default=None)

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()


def _lock_empty(connection: psycopg.Connection[Any]) -> None:
    connection.execute("SELECT FROM log_head FOR UPDATE")
    row = connection.execute(
        "SELECT (SELECT position FROM log_head) > 0 OR EXISTS (SELECT FROM events) OR EXISTS (SELECT FROM commands)"
        " OR EXISTS (SELECT FROM data_keys) OR EXISTS (SELECT FROM tracking)"
    ).fetchone()
    if row is None or row[0]:
        raise NotEmpty(
            "The database has a log already, and a restore never touches one. Restore into a new, empty database; "
            "keep the old one until the restored one is seen to be right."
        )
    row = connection.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        " AND application_name LIKE 'daybook %%'",
        (),
    ).fetchone()
    if row and row[0]:
        raise BackupTrouble(
            f"{row[0]} connections of a running Daybook are open on this database. Stop every service before a "
            "restore: they remember the log as it was."
        )


def _load(connection: psycopg.Connection[Any], folder: Path, manifest: Manifest, progress: Progress) -> None:
    chain = Chain()
    for part in manifest.parts[ROWS]:
        items = unpack(folder, part).items
        # One COPY a part: the database gathers what a COPY brought for its triggers.
        _copy(connection, f"events ({', '.join(COLUMNS)})", _checked(chain, part, items))
        progress("restoring", chain.position, manifest.position)
    checkpoint = manifest.checkpoint
    if checkpoint is None:
        return
    if (chain.position, chain.hash, chain.root()) != (checkpoint.size, checkpoint.hash, checkpoint.root):
        raise Damaged(FILE, "does not fit the rows")
    connection.execute(
        "UPDATE log_head SET position = %s, hash = %s, recorded_at = %s",
        (chain.position, chain.hash, instant(chain.recorded_at)),
    )


def _checked(chain: Chain, part: Part, items: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    for start in range(0, len(items), _TURN):
        some = items[start : start + _TURN]
        try:
            chain.extend(some)
        except Broken as broken:
            raise Damaged(part.file, str(broken)) from None
        yield some


def _items(folder: Path, manifest: Manifest, kind: str) -> Iterator[Sequence[bytes]]:
    for part in manifest.parts[kind]:
        yield unpack(folder, part).items


def _copy(connection: psycopg.Connection[Any], table: str, contents: Iterable[Sequence[bytes]]) -> None:
    with connection.cursor() as cursor, cursor.copy(f"COPY {table} FROM STDIN (FORMAT BINARY)".encode()) as rows:
        rows.write(COPY_HEADER)
        for items in contents:
            rows.write(b"".join(items))
        rows.write(COPY_TRAILER)


def _sign_on(folder: Path, keys: Mapping[str, bytes], lines: Sequence[bytes]) -> Path | None:
    """Let the log be signed on from where the backup was made, by whoever is trusted with it; what is there is set
    aside."""
    file = folder / signed.FILE
    aside = None
    if file.exists() and file.stat().st_size:
        aside = folder / f"{signed.FILE}.before-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"
        os.link(file, aside)
    _write_checkpoints(folder, keys, lines)
    sync_folder(folder)
    return aside


def _write_checkpoints(folder: Path, keys: Mapping[str, bytes], lines: Sequence[bytes]) -> None:
    for name, public in keys.items():
        put(folder, f"{name}.pub", public.hex().encode() + b"\n")
    put(folder, signed.FILE, b"".join(line + b"\n" for line in lines))
