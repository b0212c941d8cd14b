"""Moves old events out of the table that is in use and into the archive, where they stay part of the log.

In: the database, entered as the archivist, and the signed checkpoints. Out: the same log on two tables. A range of
positions moves in one transaction, after its rows were checked against the chain and against what was signed; the
database's own triggers refuse a move that would lose, double or change an event (docs/decisions/0071-archive.md).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import psycopg

from infra.event_log.checkpoints import Checkpoint, LogAltered, is_signed, public_keys, read_checkpoints
from infra.event_log.merkle import Frontier
from infra.event_log.rows import leaf_of, link
from infra.event_log.scan import position_in, row_and_hash, tuples
from infra.troubles import Trouble

# A range takes a second or so: long enough to be worth a commit, short enough not to hold back the vacuum.
RANGE: Final = 20_000

_HEAD: Final = "SELECT h.position, f.position FROM log_head AS h, archive_floor AS f"
_OLD: Final = "SELECT position_at(clock_timestamp() - %s::interval)"
_FLOOR: Final = "SELECT position, hash, frontier, part_size FROM archive_floor FOR UPDATE"
_TAKE: Final = (
    "INSERT INTO archived_events SELECT * FROM events WHERE position > %s AND position <= %s ORDER BY position"
)
_LEAVE: Final = "DELETE FROM events WHERE position > %s AND position <= %s"
_FRONTIER: Final = "UPDATE archive_floor SET frontier = %s::bytea[]"
_FULL: Final = (
    "UPDATE archive_parts SET (root, hash, recorded_at) = (SELECT %s::bytea, hash, recorded_at FROM archive_floor)"
    " WHERE upto = %s"
)
_HOLDING: Final = (
    "SELECT virtualtransaction FROM pg_locks WHERE locktype = 'relation' AND relation = 'archived_events'::regclass"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) AND pid <> pg_backend_pid()"
    " AND granted"
)
_LOOK_AGAIN: Final = 0.02
_SETTINGS: Final = (
    "SELECT set_config('lock_timeout', '5s', false), set_config('statement_timeout', '10min', false),"
    " set_config('idle_in_transaction_session_timeout', '1min', false), set_config('TimeZone', 'UTC', false),"
    " set_config('enable_seqscan', 'off', false), set_config('jit', 'off', false)"
)


class ArchiveBusy(Trouble):
    """Somebody else moves events, or works on the archive's tables."""


@dataclass(frozen=True, slots=True)
class Aim:
    """Positions after `floor` up to `upto` are to move, of a log that stands at `head`. `upto` is a signed checkpoint's
    size, and `floor` where there is nothing to do. `wanted` is what was asked for."""

    floor: int
    upto: int
    wanted: int
    head: int

    @property
    def events(self) -> int:
        return self.upto - self.floor


def aim(
    dsn: str,
    folder: Path,
    *,
    upto: int | None = None,
    older_than: timedelta | None = None,
    keys: Mapping[str, bytes] | None = None,
) -> Aim:
    """What `archive` with the same arguments would do now. Raises `ValueError` unless one of `upto` and `older_than` is
    given, and `psycopg.Error`."""
    with _connected(dsn) as connection:
        return _aim(connection, _signed(folder, keys), upto, older_than)


def archive(
    dsn: str,
    folder: Path,
    *,
    upto: int | None = None,
    older_than: timedelta | None = None,
    keys: Mapping[str, bytes] | None = None,
    tablespace: str = "",
    range_size: int = RANGE,
    rest: float = 0.0,
    patience: float = 600.0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Aim:
    """Move every event up to the last signed checkpoint at or before position `upto`, or before what was recorded less
    than `older_than` ago; the newest event always stays. Returns what was done.

    `folder` holds the checkpoints, `keys` the public keys that may have signed them (None: those in the folder).
    `tablespace` takes new partitions. `rest` seconds lie between ranges of `range_size` events, for others' sake.
    `patience` is how many seconds a new part waits for those who read the archive when it was made. It may be stopped
    or killed at any time and goes on where it was. Raises `LogAltered` where the rows are not what was signed,
    `ArchiveBusy`, `ValueError` as `aim`, and `psycopg.Error`.
    """
    checkpoints = _signed(folder, keys)
    with _connected(dsn) as connection:
        found = _aim(connection, checkpoints, upto, older_than)
        done = found.floor
        while done < found.upto:
            try:
                _prepare(connection, tablespace, patience)
                with connection.transaction():
                    done = _move(connection, found.upto, range_size, checkpoints)
            except psycopg.errors.LockNotAvailable as error:
                raise ArchiveBusy("The archive is being worked on by somebody else; try again later.") from error
            progress(min(done, found.upto) - found.floor, found.events)
            if rest and done < found.upto:
                time.sleep(rest)
        return found


@contextmanager
def _connected(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(dsn, autocommit=True, connect_timeout=5, application_name="daybook archivist") as connection:
        connection.execute(_SETTINGS)
        yield connection


def _signed(folder: Path, keys: Mapping[str, bytes] | None) -> dict[int, Checkpoint]:
    trusted = public_keys(folder) if keys is None else keys
    whole = (checkpoint for checkpoint in read_checkpoints(folder) if checkpoint is not None)
    return {checkpoint.size: checkpoint for checkpoint in whole if is_signed(checkpoint, trusted)}


def _aim(
    connection: psycopg.Connection[Any],
    checkpoints: Mapping[int, Checkpoint],
    upto: int | None,
    older_than: timedelta | None,
) -> Aim:
    if (upto is None) == (older_than is None):
        raise ValueError("either a position or an age says what is old")
    row = connection.execute(_HEAD).fetchone()
    if row is None:
        raise psycopg.OperationalError("the log has no head")
    head, floor = int(row[0]), int(row[1])
    if older_than is not None:
        old = connection.execute(_OLD, (older_than,)).fetchone()
        upto = int(old[0]) if old else 0
    wanted = min(upto or 0, head - 1)
    reached = max((size for size in checkpoints if size <= wanted), default=0)
    return Aim(floor, max(reached, floor), max(upto or 0, 0), head)


def _prepare(connection: psycopg.Connection[Any], tablespace: str, patience: float) -> None:
    """Make the partition that the next range goes to, and let nobody be left who does not know it.

    A statement finds its partitions a moment before it takes its snapshot. One that found them before this one was
    there, and looks after events have moved into it, would meet them nowhere; so whoever holds the archive now is
    waited for. Each later statement knows the partition.
    """
    row = connection.execute("SELECT position, part_size FROM archive_floor").fetchone()
    if row is None or row[0] % row[1]:
        return
    connection.execute("SELECT next_archive_part(%s)", (tablespace,))
    earlier = _readers(connection)
    give_up = time.monotonic() + patience
    while earlier := earlier & _readers(connection):
        if time.monotonic() > give_up:
            raise ArchiveBusy(
                "A new part of the archive waits for those who read the log since before it was made, such as a "
                "verification or a dump; try again when they are done."
            )
        time.sleep(_LOOK_AGAIN)


def _readers(connection: psycopg.Connection[Any]) -> set[str]:
    """The transactions that hold the archive. A name is never used again."""
    return {str(name) for (name,) in connection.execute(_HOLDING)}


def _move(
    connection: psycopg.Connection[Any],
    target: int,
    range_size: int,
    checkpoints: Mapping[int, Checkpoint],
) -> int:
    """One range, in the caller's transaction. Returns where the archive ends then."""
    row = connection.execute(_FLOOR, binary=True).fetchone()
    if row is None:
        raise psycopg.OperationalError("the archive has no floor")
    floor, part_size = int(row[0]), int(row[3])
    if floor >= target:
        return floor
    tree = _Tree(floor, bytes(row[1]), [bytes(root) for root in row[2]], part_size)
    end = (floor // part_size + 1) * part_size
    upto = min(target, floor + range_size, end)
    tree.read(connection, upto, checkpoints)
    taken = connection.execute(_TAKE, (floor, upto)).rowcount
    left = connection.execute(_LEAVE, (floor, upto)).rowcount
    if not taken == left == upto - floor:
        raise LogAltered(floor + 1, "the rows changed while they were moved")
    if (root := tree.finished()) is not None:
        connection.execute(_FULL, (root, end))
    connection.execute(_FRONTIER, (tree.frontier().roots,))
    return upto


class _Tree:
    """The chain and the Merkle tree as rows join the archive. The roots of whole parts are apart from those within the
    present one, since a part's own root is kept."""

    def __init__(self, floor: int, hash: bytes, roots: Sequence[bytes], part_size: int) -> None:
        within = floor % part_size
        of_parts = len(roots) - within.bit_count()
        self._parts = Frontier(floor - within, roots[:of_parts])
        self._part = Frontier(within, roots[of_parts:])
        self._hash = hash
        self._position = floor
        self._level = part_size.bit_length() - 1

    def read(self, connection: psycopg.Connection[Any], upto: int, checkpoints: Mapping[int, Checkpoint]) -> None:
        """Raises `LogAltered` at the first row that does not continue the chain, and where the tree is not the signed
        one."""
        for data in list(tuples(connection, self._position, upto, "events")):
            row, hash = row_and_hash(data)
            expected = self._position + 1
            if position_in(row) != expected:
                raise LogAltered(expected, "gone")
            leaf = leaf_of(row)
            if link(self._hash, leaf) != hash:
                raise LogAltered(expected, "does not continue the chain")
            self._part.append(leaf)
            self._hash, self._position = hash, expected
            signed = checkpoints.get(expected)
            if signed is not None and (signed.hash, signed.root) != (hash, self.frontier().root()):
                raise LogAltered(expected, "is not what was signed")
        if self._position != upto:
            raise LogAltered(self._position + 1, "gone")

    def finished(self) -> bytes | None:
        """The root of the present part, if it is full."""
        return self._part.roots[0] if self._part.size == 1 << self._level else None

    def frontier(self) -> Frontier:
        """The tree over everything up to here."""
        if (root := self.finished()) is None:
            return Frontier(self._parts.size + self._part.size, [*self._parts.roots, *self._part.roots])
        whole = self._parts.copy()
        whole.append_subtree(root, self._level)
        return whole
