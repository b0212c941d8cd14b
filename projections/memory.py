"""A store in memory: for a look at the past, and for tests. In and out: what `projections.documents.Store` says."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Mapping, Sequence
from typing import Self

from projections.documents import Change, Span
from projections.model import OutOfStep


class MemoryStore:
    """Everything it keeps is in `kept` and `lists`, for whoever wants to compare."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}
        self.lists: dict[str, list[str]] = {}
        self._positions: dict[str, int] = {}

    async def positions(self) -> Mapping[str, int]:
        return dict(self._positions)

    async def documents(self, names: Sequence[str]) -> Sequence[bytes | None]:
        return [self.kept.get(name) for name in names]

    async def lines(self, spans: Sequence[Span]) -> Sequence[Sequence[str]]:
        return [self._between(span) for span in spans]

    def _between(self, span: Span) -> Sequence[str]:
        lines = self.lists.get(span.name, [])
        found = lines[bisect_left(lines, span.low) : bisect_right(lines, span.high)]
        if span.backwards:
            found.reverse()
        return found[: span.limit] if span.limit else found

    async def write(self, change: Change, part: str, at: int, upto: int, floor: int) -> None:
        for name, thought in ((part, at), ("", floor)):
            if thought != (found := self._positions.get(name, 0)):
                raise OutOfStep(found)
        self.kept |= change.documents
        for name, line in change.removed:
            lines = self.lists[name]
            del lines[bisect_left(lines, line)]
            if not lines:
                del self.lists[name]
        for name, line in change.added:
            lines = self.lists.setdefault(name, [])
            where = bisect_left(lines, line)
            if lines[where : where + 1] != [line]:
                insort(lines, line)
        self._positions[part] = upto

    async def next_generation(self) -> Self:
        return type(self)()

    async def go_live(self) -> None:
        pass

    async def clean(self) -> None:
        pass
