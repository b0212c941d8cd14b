"""Checks a range of the log, row by row: the one part of verification that takes time.

In: a range of positions as of one moment. Out: what is wrong in it, and its Merkle subtrees. Long logs are checked by
several processes; each runs this module, which therefore imports little: tasks come in and results go out pickled.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha256
from typing import Any, Final

import psycopg

from infra.event_log.rows import FIRST_HASH, microseconds
from infra.event_log.scan import INT8, POSITION_AT, recorded_at_in, row_and_hash, tuples

MOST_FAULTS: Final = 100
_LONG_AGO: Final = -(2**63)
# Where the rows begin after a detached part, its last hash and time are what the ledger kept.
_DETACHED: Final = "SELECT hash, recorded_at FROM archive_parts WHERE upto = %s AND detached_at IS NOT NULL"


class FaultKind(StrEnum):
    GAP = "gap"
    TWICE = "row stands twice"
    ALTERED = "altered row"
    SWAPPED = "rows swapped"
    BACKWARDS = "recorded_at runs backwards"
    VERSIONS = "versions not continuous"
    TAIL = "tail cut off"
    HEAD = "head does not fit the rows"
    REWRITTEN = "rewritten since it was signed"
    SIGNATURE = "checkpoint not signed by a known key"
    CHECKPOINT = "checkpoint damaged"
    ARCHIVE = "archive does not fit its ledger"


@dataclass(frozen=True, slots=True)
class Fault:
    """`position` is the first row that is not as it was, or not there."""

    position: int
    kind: FaultKind
    detail: str = ""

    def __str__(self) -> str:
        return f"position {self.position}: {self.kind.value}" + (f" ({self.detail})" if self.detail else "")


@dataclass(frozen=True, slots=True)
class Suspect:
    """A row that does not continue the chain: kept to find out whether it changed places with another."""

    position: int
    row: bytes
    stored: bytes
    previous: bytes


@dataclass(frozen=True, slots=True)
class Task:
    """Positions (first, last] as of a snapshot. `first` is a multiple of the size of a perfect subtree; `sizes` are
    positions in the range at which the tree is wanted."""

    dsn: str
    snapshot: str
    first: int
    last: int
    sizes: Sequence[int]


@dataclass(slots=True)
class Range:
    """What was found. `trees` maps sizes to the roots of the perfect subtrees within the range, largest first, and the
    chain's hash, at that size and at the range's end."""

    first: int
    last: int
    count: int = 0
    hash: bytes = b""
    faults: list[Fault] = field(default_factory=list)
    suspects: list[Suspect] = field(default_factory=list)
    trees: dict[int, tuple[list[bytes], bytes]] = field(default_factory=dict)


@contextmanager
def snapshot_of(dsn: str, snapshot: str | None = None) -> Iterator[tuple[psycopg.Connection[Any], str]]:
    """A connection that sees one moment, and the name under which others come to see the same."""
    with psycopg.connect(dsn, autocommit=True, application_name="daybook verify") as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        if snapshot is None:
            row = connection.execute("SELECT pg_export_snapshot()").fetchone()
            snapshot = str(row[0]) if row else ""
        else:
            connection.execute(f"SET TRANSACTION SNAPSHOT '{snapshot}'".encode())
        yield connection, snapshot


def check(task: Task) -> Range:
    part = Range(task.first, task.last)
    wanted = set(task.sizes)
    faults, suspects = part.faults, part.suspects
    roots: list[bytes] = []
    count, number = 0, INT8.unpack_from
    with snapshot_of(task.dsn, task.snapshot) as (connection, _):
        previous, recorded = _before(connection, task.first)
        expected = task.first + 1
        for data in tuples(connection, task.first, task.last):
            row, stored = row_and_hash(data)
            (position,) = number(row, POSITION_AT)
            if position != expected:
                if position < expected:
                    faults.append(Fault(position, FaultKind.TWICE))
                    continue
                faults.append(Fault(expected, FaultKind.GAP, _missing(position - expected)))
                expected, previous = position, b""
            # As rows.leaf_of, rows.link and merkle.Frontier.append do, without their calls: this is the hot loop.
            leaf = sha256(b"\x00" + row).digest()
            if sha256(previous + leaf).digest() != stored and previous and len(suspects) < MOST_FAULTS:
                suspects.append(Suspect(position, row, stored, previous))
            (moment,) = number(row, len(row) - 8)
            if moment < recorded and len(faults) < MOST_FAULTS:
                faults.append(Fault(position, FaultKind.BACKWARDS))
            previous, recorded = stored, moment
            expected += 1
            pairs = count
            while pairs & 1:
                leaf = sha256(b"\x01" + roots.pop() + leaf).digest()
                pairs >>= 1
            roots.append(leaf)
            count += 1
            if position in wanted:
                part.trees[position] = (roots.copy(), stored)
        if expected <= task.last:
            faults.append(Fault(expected, FaultKind.GAP, _missing(task.last + 1 - expected)))
    part.count, part.hash = count, previous
    part.trees.setdefault(task.last, (roots, previous))
    return part


def _before(connection: psycopg.Connection[Any], first: int) -> tuple[bytes, int]:
    """The hash and the recorded_at that a range starts from; no hash where that row is missing."""
    if first == 0:
        return FIRST_HASH, _LONG_AGO
    for data in list(tuples(connection, first - 1, first)):
        row, stored = row_and_hash(data)
        return stored, recorded_at_in(row)
    part = connection.execute(_DETACHED, (first,), binary=True).fetchone()
    return (part[0], microseconds(part[1])) if part else (b"", _LONG_AGO)


def _missing(count: int) -> str:
    return "a row is missing" if count == 1 else f"{count} rows are missing"


class Worker:
    """A process that checks one range after another."""

    def __init__(self) -> None:
        # Not multiprocessing's: it would import the whole programme again before the first row.
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def check(self, task: Task) -> Range:
        """Raises what the check raised, and `EOFError` when the process died."""
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise EOFError
        pickle.dump(task, stdin)
        stdin.flush()
        answer = pickle.load(stdout)  # noqa: S301
        if isinstance(answer, BaseException):
            raise answer
        if not isinstance(answer, Range):
            raise TypeError("a worker answered with something else")
        return answer

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


def main() -> None:
    while True:
        try:
            task = pickle.load(sys.stdin.buffer)  # noqa: S301
        except EOFError:
            return
        try:
            answer: Any = check(task)
        except psycopg.Error as error:
            answer = psycopg.OperationalError(str(error))
        pickle.dump(answer, sys.stdout.buffer)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    # Under its own name, so that what is pickled here is known there.
    from infra.event_log.ranges import main as run

    run()
