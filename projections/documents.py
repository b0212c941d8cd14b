"""Read models made of one document a stream, with sorted lists of lines that lead to them.

In: events. Out: one JSON document for each stream, named as the stream is (`organization/kind/id`), and lists of text
lines in code point order, from which ranges are read. Where they are kept is a store's affair: Redis or memory.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

from domain.ports import Recorded
from projections.model import Model, Poison, follows

T = TypeVar("T")

# Sorts after every character that a line may hold.
LAST = "\U0010ffff"


@dataclass(frozen=True, slots=True)
class Kept(Generic[T]):
    """What is known of one stream: its folded `value`, the stream's `version` and the `position` of its last event."""

    value: T
    version: int
    position: int


@dataclass(frozen=True, slots=True)
class Span:
    """The lines of a list from `low` to `high`, both included. `limit` 0 is all; `backwards` starts at `high`."""

    name: str
    low: str = ""
    high: str = LAST
    limit: int = 0
    backwards: bool = False


Line = tuple[str, str]


@dataclass(slots=True)
class Change:
    """What one batch changes: documents by name, and lines (list, line) that come and go."""

    documents: dict[str, bytes] = field(default_factory=dict)
    added: list[Line] = field(default_factory=list)
    removed: list[Line] = field(default_factory=list)


class Store(Protocol):
    """Where documents and lists of one model are kept, in generations of which one is live."""

    async def positions(self) -> Mapping[str, int]:
        """How far each part of the log is in it; empty when nothing is kept, or no longer."""

    async def documents(self, names: Sequence[str]) -> Sequence[bytes | None]: ...

    async def lines(self, spans: Sequence[Span]) -> Sequence[Sequence[str]]: ...

    async def write(self, change: Change, part: str, at: int, upto: int, floor: int) -> None:
        """All or nothing, and only while `at` is written beside the part's name, and `floor` beside "", the whole log's
        (0 for nothing); from then on `upto`. Raises `OutOfStep`.

        The floor is asked for too because a part that has written nothing yet rests on it alone: another generation
        has another floor, and an emptied store has none."""

    async def next_generation(self) -> Self: ...

    async def go_live(self) -> None: ...

    async def clean(self) -> None: ...


class Shape(Protocol[T]):
    """How the streams of one kind become documents."""

    def fold(self, known: T | None, recorded: Recorded) -> T:
        """Pure: never alters `known`."""

    def encode(self, kept: Kept[T]) -> bytes:
        """The same value always gives the same bytes."""

    def decode(self, name: str, document: bytes) -> Kept[T]: ...

    def lines(self, organization: str, value: T) -> Sequence[Line]:
        """The lines that lead to the document as it stands; those that led to it before are removed."""

    def led_alike(self, before: T, now: T) -> bool:
        """Whether the lines of both are surely the same, said without making them."""


class DocumentModel(Model):
    """`SHAPES` are by kind, the first part of a stream's name. Streams of other kinds pass by."""

    SHAPES: ClassVar[Mapping[str, Shape[Any]]]
    REMEMBERED: ClassVar[int] = 20_000

    def __init__(self, store: Store) -> None:
        super().__init__()
        self.store = store
        self._known: dict[str, Kept[Any]] = {}

    @property
    def shapes(self) -> Mapping[str, Shape[Any]]:
        """`SHAPES`, but for a model whose shapes need something from outside."""
        return self.SHAPES

    @abstractmethod
    def notes(self, recorded: Recorded) -> Sequence[Line]:
        """Lines that an event adds for good, whatever its stream."""

    async def positions(self) -> Mapping[str, int]:
        return await self.store.positions()

    def forget(self) -> None:
        super().forget()
        self._known.clear()

    async def _apply(self, fresh: Sequence[Recorded], part: str, at: int, upto: int) -> None:
        shapes = self.shapes
        told: list[tuple[Recorded, str, Shape[Any] | None]] = []
        wanted: dict[str, Shape[Any]] = {}
        for recorded in fresh:
            name, shape = "", shapes.get(recorded.stream.partition("/")[0])
            if shape is not None:
                name = f"{recorded.organization}/{recorded.stream}"
                wanted[name] = shape
            told.append((recorded, name, shape))
        before = await self._before(wanted)
        now: dict[str, Kept[Any]] = {}
        change = Change()
        poison: Poison | None = None
        last = at
        for recorded, name, shape in told:
            try:
                kept = None
                if shape is not None:
                    known = now.get(name) or before.get(name)
                    if follows(known.version if known else 0, recorded):
                        value = shape.fold(known.value if known else None, recorded)
                        kept = Kept(value, recorded.version, recorded.position)
                notes = self.notes(recorded)
            except Exception as error:  # a fault of ours or of the event: either way this model stops here, in the open
                poison = Poison(recorded.position, recorded.event.NAME, error)
                break
            if kept is not None:
                now[name] = kept
            change.added += notes
            last = recorded.position
        for name, kept in now.items():
            self._rewrite(name, before.get(name), kept, change)
        if poison is not None:
            # A stream that is mended stands before where its part is.
            upto = max(at, last) if upto > at else at
        if upto > at or now or change.added:
            await self.store.write(change, part, at, upto, self._kept(""))
            self._remember(now)
        if poison is not None:
            raise poison

    async def _before(self, wanted: Mapping[str, Shape[Any]]) -> dict[str, Kept[Any]]:
        known = self._known
        before = {name: known[name] for name in wanted if name in known}
        missing = [name for name in wanted if name not in known]
        if missing:
            for name, document in zip(missing, await self.store.documents(missing), strict=True):
                if document is not None:
                    before[name] = wanted[name].decode(name, document)
        return before

    def _rewrite(self, name: str, before: Kept[Any] | None, kept: Kept[Any], change: Change) -> None:
        organization, kind, _ = name.split("/", 2)
        shape = self.shapes[kind]
        change.documents[name] = shape.encode(kept)
        if before is None:
            change.added += shape.lines(organization, kept.value)
        elif not shape.led_alike(before.value, kept.value):
            new, old = shape.lines(organization, kept.value), shape.lines(organization, before.value)
            change.added += [line for line in new if line not in old]
            change.removed += [line for line in old if line not in new]

    def _remember(self, now: Mapping[str, Kept[Any]]) -> None:
        known = self._known
        for name, kept in now.items():
            known.pop(name, None)
            known[name] = kept
        for name in list(islice(known, max(0, len(known) - self.REMEMBERED))):
            del known[name]

    async def next_generation(self) -> Self:
        return type(self)(await self.store.next_generation())

    async def take_over(self, filled: Self) -> None:
        await filled.store.go_live()
        self.store = filled.store
        self._known = filled._known
        self._at = filled._at

    async def clean(self) -> None:
        await self.store.clean()
