"""Checks the whole log: every row, the chain, the versions, the head, the archive and the signed checkpoints.

In: the database and the folder of checkpoints. Out: a report that names the position of the first fault. One row's
check needs only the stored hash before it, so ranges of the log are checked side by side in several processes. Parts of
the archive that were detached are not read here (`parts.verify_part` does); what follows them is checked from the roots
that they left behind, which every later signed checkpoint proves.
"""

from __future__ import annotations

import os
import time
from bisect import bisect
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any, Final

import psycopg

from infra.event_log.checkpoints import Checkpoint, is_signed, public_keys, read_checkpoints
from infra.event_log.merkle import Frontier, consistency_path, inclusion_path
from infra.event_log.ranges import MOST_FAULTS, Fault, FaultKind, Range, Suspect, Task, Worker, check, snapshot_of
from infra.event_log.rows import FIRST_HASH, leaf_of, link
from infra.event_log.scan import row_and_hash, tuples, with_position

__all__ = ["Fault", "FaultKind", "Report", "prove", "prove_continuation", "verify"]

# Ranges start at multiples of this, so that each is one perfect subtree of the Merkle tree.
_RANGE: Final = 1 << 15
# A process takes a while to start; a short log is checked sooner without.
_WORTH_A_PROCESS: Final = 10 * _RANGE

_VERSIONS = (
    "SELECT min((SELECT min(e.position) FROM all_events AS e WHERE e.stream = v.stream AND e.version = v.version)) FROM"
    " (SELECT stream, version, lag(version) OVER (PARTITION BY stream ORDER BY version) AS before FROM all_events) AS v"
    " WHERE v.version <> v.before + 1 OR (v.before IS NULL AND v.version NOT IN (0, 1) AND v.version <>"
    " coalesce((SELECT s.gone + 1 FROM archived_streams AS s WHERE s.stream = v.stream AND s.gone >= 0), 0))"
)
# Were the ledger behind what is archived of a stream, a version could be taken twice.
_LEDGER = (
    "SELECT min(coalesce(s.last_position,"
    " (SELECT min(e.position) FROM archived_events AS e WHERE e.stream = a.stream)))"
    " FROM (SELECT stream, max(version) AS version FROM archived_events GROUP BY stream) AS a"
    " FULL JOIN archived_streams AS s USING (stream)"
    " WHERE a.version IS DISTINCT FROM s.version AND NOT (a.version IS NULL AND s.version = s.gone)"
)
_ASIDE: Final = (
    (_VERSIONS, FaultKind.VERSIONS),
    (_LEDGER, FaultKind.ARCHIVE),
)
_ARCHIVE = (
    "SELECT f.position, f.hash, f.frontier, f.part_size, coalesce((SELECT max(p.upto) FROM archive_parts AS p"
    " WHERE p.detached_at IS NOT NULL), 0) FROM archive_floor AS f"
)
_PARTS = "SELECT after, upto, root, detached_at IS NOT NULL FROM archive_parts WHERE root IS NOT NULL ORDER BY upto"


@dataclass(frozen=True, slots=True)
class Report:
    """`events` were read, `checkpoints` compared; the first `elsewhere` positions lie in detached parts. `faults` are
    in the order of their positions, the first hundred."""

    events: int
    checkpoints: int
    faults: Sequence[Fault]
    seconds: float
    elsewhere: int = 0

    @property
    def ok(self) -> bool:
        return not self.faults

    @property
    def first(self) -> Fault | None:
        return self.faults[0] if self.faults else None


def verify(
    dsn: str,
    folder: Path | None = None,
    *,
    keys: Mapping[str, bytes] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    processes: int | None = None,
) -> Report:
    """Check the log as it stands at this moment; it may go on being written.

    `folder` holds the checkpoints; `keys` the public keys that may have signed them, by `checkpoints.key_id`, and where
    it is None those that lie in the folder count. `progress` hears how many events of how many are done. Raises
    `psycopg.Error` when the database can't be read.
    """
    started = time.perf_counter()
    checkpoints = read_checkpoints(folder) if folder else []
    trusted = keys if keys is not None else public_keys(folder) if folder else {}
    if processes is None:
        processes = min(4, os.cpu_count() or 1)
    with snapshot_of(dsn) as (connection, snapshot):
        head = connection.execute("SELECT position, hash FROM log_head", binary=True).fetchone()
        archive = Archive.of(connection)
        top = connection.execute("SELECT max(position) FROM all_events").fetchone()
        if head is None or top is None:
            raise psycopg.OperationalError("the log has no head")
        start, end = archive.gone, max(int(top[0] or 0), archive.gone)
        versions = _Aside(dsn, snapshot)
        whole = [checkpoint for checkpoint in checkpoints if checkpoint is not None]
        sizes = sorted({*(checkpoint.size for checkpoint in whole), *archive.sizes()})
        step = min(_RANGE, archive.part_size)
        tasks = [
            Task(
                dsn, snapshot, first, min(first + step, end), sizes[bisect(sizes, first) : bisect(sizes, first + step)]
            )
            for first in range(start, end, step)
        ]
        ranges: list[Range] = []
        for part in _checked(tasks, processes):
            ranges.append(part)
            progress(part.last - start, end - start)
        faults = [fault for part in ranges for fault in part.faults]
        faults += _explained([suspect for part in ranges for suspect in part.suspects])
        faults += versions.result()
    faults += _end_faults(int(head[0]), bytes(head[1]), end, ranges[-1].hash if ranges else FIRST_HASH)
    sound = min((fault.position - 1 for fault in faults), default=end)
    faults += archive.faults(ranges, sound)
    faults += _checkpoint_faults(checkpoints, trusted, archive, ranges, sound)
    faults.sort(key=lambda fault: fault.position)
    return Report(
        sum(part.count for part in ranges),
        len(whole),
        tuple(faults[:MOST_FAULTS]),
        time.perf_counter() - started,
        start,
    )


@dataclass(frozen=True, slots=True)
class Archive:
    """What the archive's ledgers say. Positions up to `gone` lie in detached parts; `roots` are those of the parts that
    are full, by their last positions."""

    position: int
    hash: bytes
    frontier: Sequence[bytes]
    part_size: int
    gone: int
    roots: Mapping[int, bytes]

    @classmethod
    def of(cls, connection: psycopg.Connection[Any]) -> Archive:
        row = connection.execute(_ARCHIVE, binary=True).fetchone()
        if row is None:
            raise psycopg.OperationalError("the archive has no floor")
        roots = {upto: bytes(root) for _, upto, root, _ in connection.execute(_PARTS, binary=True)}
        return cls(row[0], bytes(row[1]), [bytes(root) for root in row[2]], row[3], row[4], roots)

    @property
    def level(self) -> int:
        """A part is a perfect subtree of two to this power leaves."""
        return self.part_size.bit_length() - 1

    def before(self) -> Frontier:
        """The tree that the detached parts leave to go on from."""
        frontier = Frontier()
        for upto in range(self.part_size, self.gone + 1, self.part_size):
            frontier.append_subtree(self.roots[upto], self.level)
        return frontier

    def sizes(self) -> list[int]:
        """Where the rows' tree is to be what the ledgers say."""
        return [size for size in (*self.roots, self.position) if size > self.gone]

    def faults(self, ranges: Sequence[Range], sound: int) -> list[Fault]:
        """Where the ledgers do not fit the rows, as far as these are sound."""
        hash_at = {size: hash for part in ranges for size, (_, hash) in part.trees.items()}
        frontier = self.before()
        faults: list[Fault] = []
        for part in ranges:
            for size, (roots, _) in part.trees.items():
                grown = _grown(frontier, size - part.first, roots) if size <= sound else None
                if grown and size == self.position and (grown.roots, hash_at[size]) != (self.frontier, self.hash):
                    faults.append(Fault(size, FaultKind.ARCHIVE, "the floor"))
                if grown and size in self.roots and size > self.gone and not self._is_of_part(grown, size):
                    faults.append(Fault(size, FaultKind.ARCHIVE, "the part's root"))
            if part.last > sound:
                break
            frontier = _grown(frontier, part.last - part.first, part.trees[part.last][0])
        return faults

    def _is_of_part(self, tree: Frontier, size: int) -> bool:
        """Whether the tree of that size is the one before the part, with the part's root."""
        before = Frontier()
        for upto in range(self.part_size, size + 1, self.part_size):
            before.append_subtree(self.roots[upto], self.level)
        return before.roots == tree.roots


class _Aside:
    """Whether every stream counts on by one, and the archive's ledger fits: questions for the database alone, asked
    while the rows are hashed."""

    def __init__(self, dsn: str, snapshot: str) -> None:
        self._faults: list[Fault] = []
        self._error: BaseException | None = None
        self._thread = Thread(target=self._ask, args=(dsn, snapshot), daemon=True)
        self._thread.start()

    def result(self) -> list[Fault]:
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._faults

    def _ask(self, dsn: str, snapshot: str) -> None:
        try:
            with snapshot_of(dsn, snapshot) as (connection, _):
                # The index on streams and versions has the answer in order; sorting the table would take its room.
                connection.execute("SET LOCAL enable_sort = off")
                connection.execute("SET LOCAL enable_seqscan = off")
                for question, kind in _ASIDE:
                    row = connection.execute(question.encode()).fetchone()
                    if row is not None and row[0] is not None:
                        self._faults.append(Fault(int(row[0]), kind))
        except BaseException as error:
            self._error = error


def _checked(tasks: Sequence[Task], processes: int) -> Iterator[Range]:
    """Every range of the log, checked, in order."""
    if processes < 2 or not tasks or tasks[-1].last < _WORTH_A_PROCESS:
        yield from map(check, tasks)
        return
    idle: Queue[Worker] = Queue()
    workers = [Worker() for _ in range(processes)]
    for worker in workers:
        idle.put(worker)

    def by_a_worker(task: Task) -> Range:
        worker = idle.get()
        try:
            return worker.check(task)
        finally:
            idle.put(worker)

    # A thread for each process waits for its answers; the work is theirs.
    pool = ThreadPoolExecutor(processes)
    try:
        yield from pool.map(by_a_worker, tasks)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in workers:
            worker.close()


def _explained(suspects: Sequence[Suspect]) -> list[Fault]:
    """What became of the rows that break the chain. A row that changed places breaks it at both, and, where its hash
    went along, after both."""
    faults: list[Fault] = []
    explained: set[int] = set()
    for place, suspect in enumerate(suspects):
        if suspect.position in explained:
            continue
        partner = next((other for other in suspects[place + 1 :] if _belongs_at(other, suspect)), None)
        if partner is None:
            faults.append(Fault(suspect.position, FaultKind.ALTERED))
        else:
            faults.append(Fault(suspect.position, FaultKind.SWAPPED, f"with position {partner.position}"))
            explained |= {partner.position, suspect.position + 1, partner.position + 1}
    return faults


def _belongs_at(row: Suspect, place: Suspect) -> bool:
    """Whether what now stands in one place continues the chain in the other."""
    leaf = leaf_of(with_position(row.row, place.position))
    return link(place.previous, leaf) in (place.stored, row.stored)


def _end_faults(position: int, hash: bytes, end: int, final: bytes) -> list[Fault]:
    """Whether `log_head` stands where the rows end."""
    if position > end:
        return [Fault(end + 1, FaultKind.TAIL, f"the head stands at {position}")]
    if position < end:
        return [Fault(position + 1, FaultKind.HEAD, "rows stand beyond it")]
    return [] if hash == final else [Fault(end, FaultKind.HEAD, "it carries another hash")]


def _checkpoint_faults(
    checkpoints: Sequence[Checkpoint | None],
    keys: Mapping[str, bytes],
    archive: Archive,
    ranges: Sequence[Range],
    sound: int,
) -> list[Fault]:
    """Compare what was signed with what stands there. Rows after position `sound` are known to be at fault."""
    faults: list[Fault] = []
    end = ranges[-1].last if ranges else archive.gone
    found = _trees(archive.before(), ranges, sound)
    last = 0
    for checkpoint in checkpoints:
        if checkpoint is None or checkpoint.size < last:
            faults.append(Fault(last + 1, FaultKind.CHECKPOINT))
        elif not is_signed(checkpoint, keys):
            faults.append(Fault(checkpoint.size, FaultKind.SIGNATURE, f"key {checkpoint.key[:16]}"))
        elif checkpoint.size > end:
            faults.append(Fault(end + 1, FaultKind.TAIL, f"signed up to {checkpoint.size}"))
            break
        elif checkpoint.size in found and found[checkpoint.size] != (checkpoint.root, checkpoint.hash):
            between = f"somewhere from here to {checkpoint.size}"
            faults.append(Fault(last + 1, FaultKind.REWRITTEN, between))
            break
        else:
            last = checkpoint.size
    return faults


def _trees(before: Frontier, ranges: Sequence[Range], sound: int) -> dict[int, tuple[bytes, bytes]]:
    """Root and chain hash at every size that was asked for, as far as the rows are sound."""
    found: dict[int, tuple[bytes, bytes]] = {}
    for part in ranges:
        for size, (roots, hash) in part.trees.items():
            if size <= sound:
                found[size] = (_grown(before, size - part.first, roots).root(), hash)
        if part.last > sound:
            break
        before = _grown(before, part.last - part.first, part.trees[part.last][0])
    return found


def _grown(frontier: Frontier, count: int, roots: Sequence[bytes]) -> Frontier:
    """The frontier with `count` more leaves, given by the roots of their perfect subtrees, largest first."""
    grown = frontier.copy()
    levels = [level for level in reversed(range(count.bit_length())) if count >> level & 1]
    for level, root in zip(levels, roots, strict=True):
        grown.append_subtree(root, level)
    return grown


def prove(dsn: str, position: int, size: int) -> tuple[bytes, list[bytes]]:
    """The row v1 at a position, and the path from its leaf to the root of the checkpoint of that size. Who has both and
    the checkpoint checks them with `merkle.is_included(leaf_of(row), position - 1, size, path, root)`.

    Reads the log once to give O(log n) hashes, but for the full parts of the archive, whose roots are kept. Raises
    `ValueError` when the log does not reach there, or the position lies in a detached part.
    """
    with snapshot_of(dsn) as (connection, _):
        row = next((row_and_hash(data)[0] for data in list(tuples(connection, position - 1, position))), None)
        if row is None:
            raise ValueError("the log has no such position, or it lies in a detached part")
        return row, inclusion_path(position - 1, size, _subtrees(connection))


def prove_continuation(dsn: str, first: int, second: int) -> list[bytes]:
    """The path that shows the checkpoint of size `second` to continue that of size `first`, for
    `merkle.is_consistent`. Raises `ValueError` when the log does not reach there, or `first` lies inside a detached
    part."""
    with snapshot_of(dsn) as (connection, _):
        return consistency_path(first, second, _subtrees(connection))


def _subtrees(connection: psycopg.Connection[Any]) -> Callable[[int, int], bytes]:
    archive = Archive.of(connection)

    def root(start: int, end: int) -> bytes:
        frontier = Frontier()
        at = start
        while at < end:
            # `start` is a multiple of what fits below `end`, so a part's root finds its place.
            if (upto := at + archive.part_size) <= end and at % archive.part_size == 0 and upto in archive.roots:
                frontier.append_subtree(archive.roots[upto], archive.level)
                at = upto
            else:
                stop = min(end, (at // archive.part_size + 1) * archive.part_size)
                for data in tuples(connection, at, stop):
                    frontier.append(leaf_of(row_and_hash(data)[0]))
                at = stop
        if frontier.size != end - start:
            raise ValueError("the log does not reach that far, or lies in a detached part there")
        return frontier.root()

    return root
