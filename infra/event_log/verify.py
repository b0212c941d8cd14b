"""Checks the whole log: every row, the chain, the versions, the head and the signed checkpoints.

In: the database and the folder of checkpoints. Out: a report that names the position of the first fault. One row's
check needs only the stored hash before it, so ranges of the log are checked side by side in several processes.
"""

from __future__ import annotations

import os
import time
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
    "SELECT min((SELECT e.position FROM events AS e WHERE e.stream = v.stream AND e.version = v.version)) FROM"
    " (SELECT stream, version, lag(version) OVER (PARTITION BY stream ORDER BY version) AS before FROM events) AS v"
    " WHERE v.version <> v.before + 1 OR (v.before IS NULL AND v.version NOT IN (0, 1))"
)


@dataclass(frozen=True, slots=True)
class Report:
    """`events` were read, `checkpoints` compared. `faults` are in the order of their positions, the first hundred."""

    events: int
    checkpoints: int
    faults: Sequence[Fault]
    seconds: float

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
        top = connection.execute("SELECT max(position) FROM events").fetchone()
        if head is None or top is None:
            raise psycopg.OperationalError("the log has no head")
        end = int(top[0] or 0)
        versions = _Aside(dsn, snapshot)
        whole = [checkpoint for checkpoint in checkpoints if checkpoint is not None]
        sizes = sorted({checkpoint.size for checkpoint in whole})
        tasks = [
            Task(dsn, snapshot, first, min(first + _RANGE, end), [s for s in sizes if first < s <= first + _RANGE])
            for first in range(0, end, _RANGE)
        ]
        ranges: list[Range] = []
        for part in _checked(tasks, processes):
            ranges.append(part)
            progress(part.last, end)
        faults = [fault for part in ranges for fault in part.faults]
        faults += _explained([suspect for part in ranges for suspect in part.suspects])
        faults += versions.result()
    faults += _end_faults(int(head[0]), bytes(head[1]), end, ranges[-1].hash if ranges else FIRST_HASH)
    sound = min((fault.position - 1 for fault in faults), default=end)
    faults += _checkpoint_faults(checkpoints, trusted, ranges, sound)
    faults.sort(key=lambda fault: fault.position)
    return Report(
        sum(part.count for part in ranges), len(whole), tuple(faults[:MOST_FAULTS]), time.perf_counter() - started
    )


class _Aside:
    """Whether every stream counts on by one: a question for the database alone, asked while the rows are hashed."""

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
                row = connection.execute(_VERSIONS.encode()).fetchone()
            if row is not None and row[0] is not None:
                self._faults.append(Fault(int(row[0]), FaultKind.VERSIONS))
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
    checkpoints: Sequence[Checkpoint | None], keys: Mapping[str, bytes], ranges: Sequence[Range], sound: int
) -> list[Fault]:
    """Compare what was signed with what stands there. Rows after position `sound` are known to be at fault."""
    faults: list[Fault] = []
    end = ranges[-1].last if ranges else 0
    found = _trees(ranges, sound)
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


def _trees(ranges: Sequence[Range], sound: int) -> dict[int, tuple[bytes, bytes]]:
    """Root and chain hash at every size that was asked for, as far as the rows are sound."""
    found: dict[int, tuple[bytes, bytes]] = {}
    before = Frontier()
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

    Reads the log once to give O(log n) hashes. Raises `ValueError` when the log does not reach there.
    """
    with snapshot_of(dsn) as (connection, _):
        row = next((row_and_hash(data)[0] for data in list(tuples(connection, position - 1, position))), None)
        if row is None:
            raise ValueError("the log has no such position")
        return row, inclusion_path(position - 1, size, _subtrees(connection))


def prove_continuation(dsn: str, first: int, second: int) -> list[bytes]:
    """The path that shows the checkpoint of size `second` to continue that of size `first`, for
    `merkle.is_consistent`. Raises `ValueError` when the log does not reach there."""
    with snapshot_of(dsn) as (connection, _):
        return consistency_path(first, second, _subtrees(connection))


def _subtrees(connection: psycopg.Connection[Any]) -> Callable[[int, int], bytes]:
    def root(start: int, end: int) -> bytes:
        frontier = Frontier()
        for data in tuples(connection, start, end):
            frontier.append(leaf_of(row_and_hash(data)[0]))
        if frontier.size != end - start:
            raise ValueError("the log does not reach that far")
        return frontier.root()

    return root
