"""Proofs of many events at once: one walk over the log, however many are to be proved.

In: positions and the size of a signed checkpoint. Out: for each position the hashes that lead from its leaf to the
checkpoint's root (RFC 9162 §2.1.3.1), as `verify.prove` makes them one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any, Final

import psycopg

from infra.event_log.merkle import inclusion_path, node
from infra.event_log.rows import leaf_of
from infra.event_log.scan import row_and_hash, tuples
from infra.event_log.verify import Archive

_STEP: Final = 1 << 15

Span = tuple[int, int]


class Paths:
    """`nodes` are the roots over leaves [start, end) that the wanted paths, and the checkpoint's root, are made of."""

    def __init__(self, size: int, positions: Collection[int]) -> None:
        """Raises `ValueError` for a position that is not below the size."""
        self.size = size
        self.nodes: dict[Span, bytes] = {}
        self._wanted: set[Span] = set(_perfect(0, size))
        for position in positions:
            inclusion_path(position - 1, size, self._want)

    def path(self, position: int) -> list[bytes]:
        return inclusion_path(position - 1, self.size, self._root)

    def root(self) -> bytes:
        """The root of the whole tree, as the checkpoint should have it."""
        return self._root(0, self.size)

    def keep(self, start: int, end: int, root: bytes) -> None:
        if (start, end) in self._wanted:
            self.nodes[start, end] = root

    def _want(self, start: int, end: int) -> bytes:
        self._wanted.update(_perfect(start, end))
        return b""

    def _root(self, start: int, end: int) -> bytes:
        """From its perfect parts, the right ones first (RFC 9162 §2.1.1)."""
        parts = [self.nodes[span] for span in _perfect(start, end)]
        root = parts[-1]
        for left in reversed(parts[:-1]):
            root = node(left, root)
        return root


def prove_all(
    connection: psycopg.Connection[Any],
    positions: Collection[int],
    size: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Paths:
    """Walk over the log once, up to `size`. Raises `ValueError` where it does not reach there, or where a position lies
    in a detached part."""
    archive = Archive.of(connection)
    if positions and min(positions) <= archive.gone:
        raise ValueError("some of it lies in a detached part")
    paths = Paths(size, positions)
    tree: list[tuple[Span, bytes]] = []
    for upto in range(archive.part_size, archive.gone + 1, archive.part_size):
        _grow(tree, paths, (upto - archive.part_size, upto), archive.roots[upto])
    at = archive.gone
    while at < size:
        stop = min(at + _STEP, size)
        for data in tuples(connection, at, stop):
            _grow(tree, paths, (at, at + 1), leaf_of(row_and_hash(data)[0]))
            at += 1
        if at != stop:
            raise ValueError("the log does not reach that far")
        progress(at, size)
    return paths


def _grow(tree: list[tuple[Span, bytes]], paths: Paths, span: Span, root: bytes) -> None:
    """Add a perfect subtree at the right, and join what is of one size."""
    paths.keep(*span, root)
    while tree:
        (start, end), left = tree[-1]
        if end - start != span[1] - span[0] or start % (2 * (end - start)):
            break
        tree.pop()
        span, root = (start, span[1]), node(left, root)
        paths.keep(*span, root)
    tree.append((span, root))


def _perfect(start: int, end: int) -> Iterator[Span]:
    """The perfect subtrees of a node of a Merkle tree, largest first."""
    while start < end:
        step = 1 << ((end - start).bit_length() - 1)
        yield start, start + step
        start += step
