"""Makes a backup, or adds to one what is new, while the log goes on being written.

In: the log's database, seen at one moment. Out: a folder whose newest manifest proves that nothing of it is missing.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import psycopg

from infra.backup.chain import Broken, Chain
from infra.backup.manifest import CHECKPOINTS, COMMANDS, FILE, KEYS, KINDS, ROWS, BackupTrouble, Manifest
from infra.backup.parts import FULL, HEAVY, Damaged, Part, merged, unpack, write
from infra.event_log.checkpoints import Checkpoint, SigningKey, public_keys, read_checkpoints
from infra.event_log.merkle import Frontier
from infra.event_log.ranges import snapshot_of
from infra.event_log.rows import COPY_HEADER, fields, microseconds
from infra.event_log.scan import INT8, row_and_hash, tuples

COMMAND_COLUMNS: Final = "organization, actor, key, body_hash, first_position, last_position, result, recorded_at"
KEY_COLUMNS: Final = "organization, person, wrapped, created_at"
_COMMANDS: Final = (
    f"COPY (SELECT {COMMAND_COLUMNS} FROM commands WHERE recorded_at >= '{{}}'::timestamptz"  # noqa: S608
    " ORDER BY recorded_at) TO STDOUT (FORMAT BINARY)"
)
_KEYS: Final = (
    f"COPY (SELECT {KEY_COLUMNS} FROM data_keys ORDER BY organization, person)"  # noqa: S608
    " TO STDOUT (FORMAT BINARY)"
)
_LOCK: Final = "lock"
_OURS: Final = re.compile(rf"({'|'.join(KINDS)})-\d+-\d+-\d+\.zst|\..*\.tmp")

Progress = Callable[[int, int], None]


class BackupBusy(BackupTrouble):
    """Another process works on the same backup."""


class OtherLog(BackupTrouble):
    """The folder holds the backup of another log, or of one that was rewritten since."""


class LogNotWhole(BackupTrouble):
    """The log does not continue its own chain. What was backed up before is left as it is."""


@dataclass(frozen=True, slots=True)
class Created:
    """`events` and `bytes` were added in `seconds`; the whole backup now stands at `manifest`."""

    manifest: Manifest
    events: int
    bytes: int
    seconds: float


def create(
    dsn: str,
    folder: Path,
    key: SigningKey,
    *,
    checkpoints: Path | None = None,
    secrets: Mapping[str, str] | None = None,
    progress: Progress = lambda done, total: None,
) -> Created:
    """Bring the backup in `folder` to where the log stands now; a folder that is new or empty becomes one.

    `dsn` may be the application's role. `checkpoints` is the folder of the log's signed checkpoints, `secrets` the
    fingerprints of the installation's key files (`manifest.fingerprints`). `progress` hears how many of how many new
    events are done. Raises `BackupBusy`, `OtherLog`, `LogNotWhole`, other `BackupTrouble`, `Damaged` where the files of
    earlier runs are not as they were, `psycopg.Error` and `OSError`; the last whole backup then still counts.
    """
    started = time.perf_counter()
    with _only_one(folder) as before:
        if before.run and not before.is_signed({**before.public_keys, key.id: key.public}):
            raise Damaged(FILE, "is not signed by a key that it names")
        signed = _signed(checkpoints, before)
        with snapshot_of(dsn) as (connection, _):
            # Between two reads this transaction waits for the disk, however long that takes.
            connection.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
            connection.execute("SET LOCAL statement_timeout = 0")
            after = _run(connection, folder, before, key, signed, secrets or {}, progress)
        after = replace(after, public_keys={**after.public_keys, **(public_keys(checkpoints) if checkpoints else {})})
        after = replace(
            after, parts={kind: _merged(folder, kind, after.run, parts) for kind, parts in after.parts.items()}
        )
        after = after.signed(key)
        after.save(folder)
        _tidy(folder, after)
    new = after.files - before.files
    added = sum(part.size for parts in after.parts.values() for part in parts if part.file in new)
    return Created(after, after.position - before.position, added, time.perf_counter() - started)


@contextmanager
def _only_one(folder: Path) -> Iterator[Manifest]:
    """Alone with the folder; the manifest that counts."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = not (folder / _LOCK).exists()
    # A volume of its own has this at its top.
    if fresh and any(path.name != "lost+found" for path in folder.iterdir()):
        raise BackupTrouble(f"{folder} holds other things than a backup. Name an empty or a new folder.")
    with (folder / _LOCK).open("a") as lock:
        os.chmod(lock.fileno(), 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BackupBusy(f"Another `daybook backup create` works on {folder}.") from None
        if not (folder / FILE).exists():
            if any(_OURS.fullmatch(path.name) and path.name[0] != "." for path in folder.iterdir()):
                raise Damaged(FILE, "missing, though there are parts of a backup")
            # From the start there is a manifest, so that parts without one are known to have lost it.
            Manifest().save(folder)
        yield Manifest.load(folder)


def _signed(checkpoints: Path | None, before: Manifest) -> Sequence[Checkpoint]:
    """The signed checkpoints that the backup does not have yet."""
    found = read_checkpoints(checkpoints) if checkpoints else ()
    return [one for one in found if one is not None and one.size > before.signed_upto]


def _run(
    connection: psycopg.Connection[Any],
    folder: Path,
    before: Manifest,
    key: SigningKey,
    signed: Sequence[Checkpoint],
    secrets: Mapping[str, str],
    progress: Progress,
) -> Manifest:
    run = before.run + 1
    head, hash, recorded_at, made_at = _head(connection)
    chain = _continued(connection, before, head)
    known = [one for one in signed if one.size <= head]
    rows = list(_rows(connection, folder, run, chain, head, {one.size for one in known}, progress))
    if chain.hash != hash:
        raise LogNotWhole(f"The log's head does not carry the hash of position {head}. Run `daybook log verify`.")
    for one in known:
        if chain.trees.get(one.size, (one.root, one.hash)) != (one.root, one.hash):
            raise LogNotWhole(
                f"The log was rewritten since it was signed at position {one.size}. Run `daybook log verify`."
            )
    since = before.checkpoint.recorded_at if before.checkpoint else None
    parts = dict(before.parts)
    parts[ROWS] += tuple(rows)
    parts[COMMANDS] += tuple(_commands(connection, folder, run, parts[COMMANDS], since))
    parts[KEYS] = _keys(connection, folder, run, parts[KEYS])
    if known:
        lines = [one.line() for one in known]
        parts[CHECKPOINTS] += (write(folder, CHECKPOINTS, run, _next(parts[CHECKPOINTS]), lines),)
    tracking = connection.execute("SELECT application, position FROM tracking").fetchall()
    schema = connection.execute("SELECT max(number) FROM schema_migrations").fetchone()
    return replace(
        before,
        run=run,
        made_at=made_at,
        schema=int(schema[0]) if schema else 0,
        checkpoint=key.sign(chain.frontier, hash, recorded_at, datetime.now(UTC)) if head else None,
        parts=parts,
        tracking={name: int(position) for name, position in tracking},
        secrets=secrets,
        signed_upto=known[-1].size if known else before.signed_upto,
    )


def _head(connection: psycopg.Connection[Any]) -> tuple[int, bytes, datetime, datetime]:
    found = connection.execute("SELECT position, hash, recorded_at, now() FROM log_head", binary=True).fetchone()
    if found is None:
        raise psycopg.OperationalError("the log has no head")
    position, hash, recorded_at, now = found
    return int(position), bytes(hash), recorded_at.astimezone(UTC), now.astimezone(UTC)


def _continued(connection: psycopg.Connection[Any], before: Manifest, head: int) -> Chain:
    """The chain as the backup left it, found again in the log."""
    checkpoint = before.checkpoint
    if checkpoint is None:
        return Chain()
    position = checkpoint.size
    if head < position:
        raise OtherLog(
            f"The log ends at position {head} and this backup at {position}: it is another log's, or this log lost its "
            "end. Name another folder, or restore."
        )
    stored = next((row_and_hash(item)[1] for item in list(tuples(connection, position - 1, position))), b"")
    if stored != checkpoint.hash:
        raise OtherLog(
            f"At position {position} the log is not the one of this backup. Name another folder for another log; "
            "if it is the same log, it was rewritten."
        )
    return Chain(checkpoint.hash, Frontier(position, checkpoint.frontier), microseconds(checkpoint.recorded_at))


def _rows(
    connection: psycopg.Connection[Any],
    folder: Path,
    run: int,
    chain: Chain,
    head: int,
    wanted: Container[int],
    progress: Progress,
) -> Iterator[Part]:
    first = chain.position
    items: list[bytes] = []
    weight = 0

    def cut() -> Part:
        start = chain.position + 1
        try:
            chain.extend(items, wanted)
        except Broken as broken:
            raise LogNotWhole(f"The log is not whole: {broken}. Run `daybook log verify`.") from None
        progress(chain.position - first, head - first)
        return write(folder, ROWS, run, start, items, hash=chain.hash)

    for item in tuples(connection, first, head):
        items.append(item)
        weight += len(item)
        if len(items) >= FULL or weight >= HEAVY:
            yield cut()
            items, weight = [], 0
    if items:
        yield cut()
    if chain.position != head:
        raise LogNotWhole(f"The log is not whole: position {chain.position + 1} is missing. Run `daybook log verify`.")


def _commands(
    connection: psycopg.Connection[Any], folder: Path, run: int, parts: Sequence[Part], since: datetime | None
) -> Iterator[Part]:
    """What was remembered since.

    Under the head's lock a command never gets an earlier `recorded_at` than the head carries, so nothing new is older
    than the head at the last run; what is not newer may be known.
    """
    floor = microseconds(since) if since else -(2**63)
    known = {_command(item) for part in parts if part.latest >= floor for item in unpack(folder, part).items}
    query = _COMMANDS.format(since.isoformat() if since else "-infinity")
    items: list[bytes] = []
    first = _next(parts)
    weight = 0

    def cut() -> Part:
        latest = max(INT8.unpack_from(item, len(item) - 8)[0] for item in items)
        return write(folder, COMMANDS, run, first, items, latest=latest)

    for item in _copied(connection, query):
        if _command(item) in known:
            continue
        items.append(item)
        weight += len(item)
        if len(items) >= FULL or weight >= HEAVY:
            yield cut()
            first, items, weight = first + len(items), [], 0
    if items:
        yield cut()


def _command(item: bytes) -> tuple[bytes | None, ...]:
    """Organization, actor and key."""
    found = fields(item[2:])
    return tuple(next(found) for _ in range(3))


def _keys(connection: psycopg.Connection[Any], folder: Path, run: int, before: Sequence[Part]) -> tuple[Part, ...]:
    """The wrapped data keys as they are now: never added to what was, so that a destroyed key is nowhere."""
    made = write(folder, KEYS, run, 1, list(_copied(connection, _KEYS)))
    if before and made.sha256 == before[0].sha256:
        return tuple(before)
    return (made,)


def _copied(connection: psycopg.Connection[Any], query: str) -> Iterator[bytes]:
    """The COPY tuples that a query gives."""
    with connection.cursor() as cursor, cursor.copy(query.encode()) as rows:
        for data in rows:
            item = bytes(data).removeprefix(COPY_HEADER)
            # The last two bytes are the end of it all.
            if len(item) > 2:
                yield item


def _next(parts: Sequence[Part]) -> int:
    return parts[-1].last + 1 if parts else 1


def _merged(folder: Path, kind: str, run: int, parts: Sequence[Part]) -> tuple[Part, ...]:
    return tuple(parts) if kind == KEYS else merged(folder, kind, run, parts)


def _tidy(folder: Path, manifest: Manifest) -> None:
    """Remove what no longer counts: files of runs that broke off, small parts that became one, the keys of before."""
    kept = manifest.files
    for path in folder.iterdir():
        if _OURS.fullmatch(path.name) and path.name not in kept:
            path.unlink()
