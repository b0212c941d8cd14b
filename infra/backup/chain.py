"""Follows the log's rows, wherever they come from: positions, hashes, the Merkle tree, the versions of streams.

In: COPY tuples, in order. Out: where the chain stands after them, or the first position that does not continue it.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from enum import StrEnum
from hashlib import sha256
from struct import error as MalformedRow
from typing import Final

from infra.event_log.merkle import EMPTY_ROOT, Frontier
from infra.event_log.rows import FIRST_HASH
from infra.event_log.scan import INT8, POSITION_AT, row_and_hash

_LONG_AGO: Final = -(2**63)
_INT8_FIELD: Final = 12


class Fault(StrEnum):
    """What may be wrong with a row."""

    GAP = "gap"
    ALTERED = "altered row"
    BACKWARDS = "recorded_at runs backwards"
    VERSIONS = "versions not continuous"


class Broken(Exception):
    """The row at `position` does not continue the log."""

    def __init__(self, position: int, fault: Fault) -> None:
        super().__init__(f"position {position}: {fault.value}")
        self.position = position
        self.fault = fault


class Chain:
    """A log up to `position`: its chain's `hash`, and its `frontier` in the Merkle tree. `recorded_at` is the last
    row's, in microseconds since 2000-01-01Z."""

    def __init__(
        self, hash: bytes = FIRST_HASH, frontier: Frontier | None = None, recorded_at: int = _LONG_AGO
    ) -> None:
        self.hash = hash
        self.frontier = frontier.copy() if frontier else Frontier()
        self.recorded_at = recorded_at
        self.position = self.frontier.size
        # Roots by size, at the sizes that somebody asked for.
        self.trees: dict[int, tuple[bytes, bytes]] = {}
        self._versions: dict[bytes, int] | None = None

    def watch_versions(self) -> None:
        """Remember the version of every stream from here on: some 150 bytes a stream."""
        self._versions = {}

    def extend(self, items: Iterable[bytes], wanted: Container[int] = ()) -> None:
        """Raises `Broken`; what came before the row at fault is taken, and nothing after it."""
        position, previous, recorded = self.position, self.hash, self.recorded_at
        roots, versions, number = self.frontier.roots, self._versions, INT8.unpack_from
        try:
            for item in items:
                row, stored = row_and_hash(item)
                if number(row, POSITION_AT)[0] != position + 1:
                    raise Broken(position + 1, Fault.GAP)
                # As rows.leaf_of, rows.link and merkle.Frontier.append do, without their calls: this is the hot loop.
                leaf = sha256(b"\x00" + row).digest()
                if sha256(previous + leaf).digest() != stored:
                    raise Broken(position + 1, Fault.ALTERED)
                (moment,) = number(row, len(row) - 8)
                if moment < recorded:
                    raise Broken(position + 1, Fault.BACKWARDS)
                if versions is not None:
                    self._count(versions, row, position + 1)
                previous, recorded = stored, moment
                pairs = position
                while pairs & 1:
                    leaf = sha256(b"\x01" + roots.pop() + leaf).digest()
                    pairs >>= 1
                roots.append(leaf)
                position += 1
                if position in wanted:
                    self.trees[position] = (Frontier(position, roots).root(), stored)
        except (MalformedRow, IndexError) as malformed:
            raise Broken(position + 1, Fault.ALTERED) from malformed
        finally:
            self.position = self.frontier.size = position
            self.hash, self.recorded_at = previous, recorded

    def _count(self, versions: dict[bytes, int], row: bytes, position: int) -> None:
        # Behind the position stand the organization, the stream and its version, each with its length before it.
        start = _INT8_FIELD + 4 + int.from_bytes(row[_INT8_FIELD : _INT8_FIELD + 4])
        end = start + 4 + int.from_bytes(row[start : start + 4])
        stream = row[start + 4 : end]
        (version,) = INT8.unpack_from(row, end + 4)
        before = versions.get(stream)
        if (version not in (0, 1)) if before is None else (version != before + 1):
            raise Broken(position, Fault.VERSIONS)
        versions[stream] = version

    def root(self) -> bytes:
        return self.frontier.root() if self.position else EMPTY_ROOT

    def resume(self, position: int, hash: bytes) -> None:
        """Go on behind a stretch that is at fault. Roots mean nothing from here on, and versions are not watched."""
        self.position, self.hash, self._versions = position, hash, None
        self.frontier.size = position
        self.frontier.roots = [bytes(32)] * position.bit_count()
