"""Full parts of the archive, taken out of the database into files and brought back.

In: the database, entered as its owner, or a file alone. Out: a file that is checked against the part's root and what
was signed before its rows leave the database, or a part that answers again. While a part is away, saves go on and their
conflicts are seen; whatever would have to read its rows is refused (`connections.Detached`), never answered in part.

The file is one line of JSON, then the rows as PostgreSQL's binary COPY gives and takes them: row v1 and the hash.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from typing import Any, BinaryIO, Final

import psycopg

from infra.event_log.archive import ArchiveBusy
from infra.event_log.checkpoints import LogAltered, is_signed, public_keys, read_checkpoints
from infra.event_log.codec import canonical
from infra.event_log.merkle import Frontier
from infra.event_log.rows import COLUMNS, COPY_HEADER, COPY_TRAILER, FIRST_HASH, leaf_of, link
from infra.event_log.scan import position_in, row_and_hash, tuples
from infra.key_files import sync_folder
from infra.troubles import Trouble, WrongInput

FORMAT: Final = "daybook archived part v1"

_COUNT: Final = Struct(">h")
_LENGTH: Final = Struct(">i")
_CHUNK: Final = 1 << 20

_PARTS: Final = (
    "SELECT after, upto, name, root, hash, detached_at IS NOT NULL, to_regclass(name) IS NOT NULL"
    " FROM archive_parts ORDER BY upto"
)
_GONE: Final = (
    "UPDATE archived_streams AS s SET gone = part.version FROM"
    " (SELECT stream, max(version) AS version FROM {} GROUP BY stream) AS part WHERE part.stream = s.stream"
)
# What is gone of a stream before this part is what comes before its first version in it; if it began here, nothing is.
_BACK: Final = (
    "UPDATE archived_streams AS s SET gone = CASE WHEN s.first_position > %s THEN -1 ELSE part.version - 1 END FROM"
    " (SELECT stream, min(version) AS version FROM {} GROUP BY stream) AS part WHERE part.stream = s.stream"
)
_PENDING: Final = "SELECT inhdetachpending FROM pg_inherits WHERE inhrelid = to_regclass(%s)"


class NoSuchPart(Trouble):
    """There is no part that this could be done with."""


@dataclass(frozen=True, slots=True)
class Part:
    """Positions after `after` up to `upto`. `root` and `hash` are None until it is full; `detached` parts lie in a
    file."""

    after: int
    upto: int
    root: bytes | None
    hash: bytes | None
    detached: bool


@dataclass(frozen=True, slots=True)
class PartFile:
    """A file that holds what it says: rows that continue `previous_hash` to `hash`, under `root`. `checkpoints` counts
    the signed checkpoints within, each of which is the root of the tree up to there."""

    after: int
    upto: int
    previous_hash: bytes
    hash: bytes
    root: bytes
    frontier: Sequence[bytes]
    checkpoints: int


def parts(dsn: str) -> Sequence[Part]:
    """Every part of the archive, oldest first. Any role may ask."""
    with psycopg.connect(dsn, connect_timeout=5) as connection:
        return [_part(row) for row in connection.execute(_PARTS, binary=True)]


def _part(row: Sequence[Any]) -> Part:
    return Part(row[0], row[1], row[3] and bytes(row[3]), row[4] and bytes(row[4]), row[5])


def detach(
    owner: str, file: Path, folder: Path | None = None, *, keys: Mapping[str, bytes] | None = None
) -> PartFile | None:
    """Take the oldest part that is full and in the database out of it, into `file`, which must not exist yet.

    Its rows are dropped only when the file is on disk and was read back and checked, against the checkpoints of
    `folder` too. What a crash left half done is finished first; None when that was all there was to do. Raises
    `NoSuchPart`, `LogAltered`, `ArchiveBusy`, `FileExistsError` and `psycopg.Error`.
    """
    with _owning(owner) as connection:
        rows = list(connection.execute(_PARTS, binary=True))
        half_done = [str(row[2]) for row in rows if row[5] and row[6]]
        for name in half_done:
            _finish(connection, name)
        found = next((row for row in rows if not row[5] and row[3] is not None), None)
        if found is None:
            if half_done:
                return None
            raise NoSuchPart("The archive has no part that is full and in the database.")
        part, name = _part(found), str(found[2])
        _write(connection, rows, part, name, file)
        checked = verify_part(file, folder, keys=keys)
        if (checked.root, checked.hash) != (part.root, part.hash):
            raise LogAltered(part.after + 1, "the part's rows do not give the root that was kept")
        with connection.transaction():
            connection.execute(_GONE.format(name).encode())
            connection.execute("UPDATE archive_parts SET detached_at = now() WHERE upto = %s", (part.upto,))
        _finish(connection, name)
        return checked


def attach(owner: str, file: Path, folder: Path | None = None, *, keys: Mapping[str, bytes] | None = None) -> PartFile:
    """Bring a detached part back from its file; the newest of those that are away comes first. Raises `NoSuchPart`,
    `WrongInput`, `LogAltered`, `ArchiveBusy` and `psycopg.Error`."""
    checked = verify_part(file, folder, keys=keys)
    with _owning(owner) as connection:
        rows = [row for row in connection.execute(_PARTS, binary=True) if row[5]]
        if not rows:
            raise NoSuchPart("No part of the archive is detached.")
        part, name = _part(rows[-1]), str(rows[-1][2])
        if (checked.after, checked.upto) != (part.after, part.upto):
            raise NoSuchPart(
                f"The file holds the positions after {checked.after} up to {checked.upto}; the part that comes back "
                f"next is the one after {part.after} up to {part.upto}."
            )
        if (checked.root, checked.hash) != (part.root, part.hash):
            raise LogAltered(part.after + 1, "the file's rows do not give the root that was kept")
        if rows[-1][6]:
            _finish(connection, name)
        with connection.transaction():
            bound = f"position > {part.after} AND position <= {part.upto}"
            connection.execute(
                f"CREATE TABLE {name} (LIKE archived_events INCLUDING STORAGE, CHECK ({bound}))".encode()
            )
            copy = f"COPY {name} ({', '.join(COLUMNS)}) FROM STDIN (FORMAT BINARY)"
            with file.open("rb") as source, connection.cursor() as cursor, cursor.copy(copy.encode()) as sink:
                source.readline()
                while chunk := source.read(_CHUNK):
                    sink.write(chunk)
            connection.execute(
                f"ALTER TABLE archived_events ATTACH PARTITION {name}"
                f" FOR VALUES FROM ({part.after + 1}) TO ({part.upto + 1})".encode()
            )
            connection.execute(
                f"CREATE TRIGGER append_only BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON {name}"
                " FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()".encode()
            )
            connection.execute(f"ALTER TABLE {name} ENABLE ALWAYS TRIGGER append_only".encode())
            connection.execute(_BACK.format(name).encode(), (part.after,))
            connection.execute("UPDATE archive_parts SET detached_at = NULL WHERE upto = %s", (part.upto,))
        return checked


def verify_part(file: Path, folder: Path | None = None, *, keys: Mapping[str, bytes] | None = None) -> PartFile:
    """Check a file against itself, and against the signed checkpoints of `folder` that lie within it; no database is
    asked. Raises `WrongInput` for what is no such file and `LogAltered` at the first row that is not what it was."""
    trusted = keys if keys is not None else public_keys(folder) if folder else {}
    signed = {
        checkpoint.size: checkpoint
        for checkpoint in (read_checkpoints(folder) if folder else ())
        if checkpoint is not None and is_signed(checkpoint, trusted)
    }
    with file.open("rb") as source:
        said = _said(source)
        before, within, hash = Frontier(said.after, said.frontier), Frontier(), said.previous_hash
        found = 0
        for data in _tuples(source):
            row, stored = row_and_hash(data)
            expected = said.after + within.size + 1
            if position_in(row) != expected:
                raise LogAltered(expected, "is not in the file")
            leaf = leaf_of(row)
            if link(hash, leaf) != stored:
                raise LogAltered(expected, "does not continue the chain")
            within.append(leaf)
            hash = stored
            if (checkpoint := signed.get(expected)) is not None:
                found += 1
                if (checkpoint.hash, checkpoint.root) != (hash, _joined(before, within).root()):
                    raise LogAltered(expected, "is not what was signed")
    if (said.after + within.size, hash, within.root()) != (said.upto, said.hash, said.root):
        raise LogAltered(said.after + within.size + 1, "the file does not hold what it says")
    return PartFile(said.after, said.upto, said.previous_hash, said.hash, said.root, said.frontier, found)


@contextmanager
def _owning(owner: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(owner, autocommit=True, connect_timeout=5, application_name="daybook archive parts") as opened:
        opened.execute("SELECT set_config('lock_timeout', '10s', false), set_config('TimeZone', 'UTC', false)")
        try:
            yield opened
        except psycopg.errors.LockNotAvailable as error:
            raise ArchiveBusy("The archive's tables are in use for long; try again later.") from error


def _finish(connection: psycopg.Connection[Any], name: str) -> None:
    """Drop a part whose rows nobody may ask for any more. CONCURRENTLY waits for those who still read, and locks nobody
    out."""
    pending = connection.execute(_PENDING, (name,)).fetchone()
    if pending is not None:
        how = "FINALIZE" if pending[0] else "CONCURRENTLY"
        connection.execute(f"ALTER TABLE archived_events DETACH PARTITION {name} {how}".encode())
    connection.execute(f"DROP TABLE IF EXISTS {name}".encode())


def _write(
    connection: psycopg.Connection[Any], rows: Sequence[Sequence[Any]], part: Part, name: str, file: Path
) -> None:
    before = [row for row in rows if row[1] <= part.after]
    frontier = Frontier()
    for row in before:
        frontier.append_subtree(bytes(row[3]), (row[1] - row[0]).bit_length() - 1)
    head = {
        "format": FORMAT,
        "after": part.after,
        "upto": part.upto,
        "previous_hash": (bytes(before[-1][4]) if before else FIRST_HASH).hex(),
        "hash": (part.hash or b"").hex(),
        "root": (part.root or b"").hex(),
        "frontier": [root.hex() for root in frontier.roots],
    }
    with file.open("xb") as sink:
        sink.write(canonical(head) + b"\n" + COPY_HEADER)
        for data in tuples(connection, part.after, part.upto, name):
            sink.write(data)
        sink.write(COPY_TRAILER)
        sink.flush()
        os.fsync(sink.fileno())
    sync_folder(file.parent)


def _said(source: BinaryIO) -> PartFile:
    try:
        fields = json.loads(source.readline(_CHUNK))
        if fields["format"] != FORMAT or source.read(len(COPY_HEADER)) != COPY_HEADER:
            raise ValueError
        after, upto = int(fields["after"]), int(fields["upto"])
        previous, hash, root = (bytes.fromhex(fields[name]) for name in ("previous_hash", "hash", "root"))
        frontier = tuple(bytes.fromhex(one) for one in fields["frontier"])
        Frontier(after, frontier)
    except (ValueError, KeyError, TypeError) as error:
        raise WrongInput("The file is no archived part of a Daybook log.") from error
    return PartFile(after, upto, previous, hash, root, frontier, 0)


def _tuples(source: BinaryIO) -> Iterator[bytes]:
    """The COPY tuples of a file, up to its trailer. Raises `WrongInput` where it ends before."""
    while True:
        count = source.read(2)
        if count == COPY_TRAILER:
            return
        if count != _COUNT.pack(len(COLUMNS)):
            raise WrongInput("The file is damaged, or ends too early.")
        pieces = [count]
        for _ in COLUMNS:
            length = source.read(4)
            size = max(_LENGTH.unpack(length)[0], 0) if len(length) == 4 else -1
            data = source.read(size) if size >= 0 else b""
            if len(data) != size:
                raise WrongInput("The file is damaged, or ends too early.")
            pieces += (length, data)
        yield b"".join(pieces)


def _joined(before: Frontier, within: Frontier) -> Frontier:
    """The tree of both. A part begins where a perfect subtree of its size does."""
    joined = before.copy()
    levels = [level for level in reversed(range(within.size.bit_length())) if within.size >> level & 1]
    for level, root in zip(levels, within.roots, strict=True):
        joined.append_subtree(root, level)
    return joined
