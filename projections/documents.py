"""Read models made of one document a stream, with sorted lists of lines that lead to them.

In: events. Out: one JSON document for each stream, named as the stream is (`organization/kind/id`), and lists of text
lines in code point order, from which ranges are read. Where they are kept is a store's affair: Redis or memory.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

from domain.ports import Recorded
from projections.model import Model, Poison

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

    async def write(self, change: Change, part: str, at: int, upto: int) -> None:
        """All or nothing, and only while the part stands at `at`; from then on at `upto`. Raises `OutOfStep`."""

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

    def lines(self, organization: str, value: T) -> Iterable[Line]:
        """The lines that lead to the document as it stands; those that led to it before are removed."""


class DocumentModel(Model):
    """`SHAPES` are by kind, the first part of a stream's name. Streams of other kinds pass by."""

    SHAPES: ClassVar[Mapping[str, Shape[Any]]]
    REMEMBERED: ClassVar[int] = 20_000

    def __init__(self, store: Store) -> None:
        super().__init__()
        self.store = store
        self._known: dict[str, Kept[Any]] = {}

    @abstractmethod
    def notes(self, recorded: Recorded) -> Iterable[Line]:
        """Lines that an event adds for good, whatever its stream."""

    async def positions(self) -> Mapping[str, int]:
        return await self.store.positions()

    def forget(self) -> None:
        super().forget()
        self._known.clear()

    async def _apply(self, fresh: Sequence[Recorded], part: str, at: int) -> None:
        before = await self._before(fresh)
        now: dict[str, Kept[Any]] = {}
        change = Change()
        poison: Poison | None = None
        upto = at
        for recorded in fresh:
            try:
                kept = self._folded(recorded, now, before)
                notes = list(self.notes(recorded))
            except Exception as error:  # a fault of ours or of the event: either way this model stops here, in the open
                poison = Poison(recorded.position, recorded.event.NAME, error)
                break
            if kept is not None:
                now[f"{recorded.organization}/{recorded.stream}"] = kept
            change.added += notes
            upto = recorded.position
        for name, kept in now.items():
            self._rewrite(name, before.get(name), kept, change)
        if upto > at:
            await self.store.write(change, part, at, upto)
            self._remember(now)
        if poison is not None:
            raise poison

    def _folded(
        self, recorded: Recorded, now: Mapping[str, Kept[Any]], before: Mapping[str, Kept[Any]]
    ) -> Kept[Any] | None:
        """The stream's document after the event; None where it stays as it is."""
        shape = self.SHAPES.get(recorded.stream.partition("/")[0])
        if shape is None:
            return None
        name = f"{recorded.organization}/{recorded.stream}"
        known = now.get(name) or before.get(name)
        if known is None:
            return Kept(shape.fold(None, recorded), recorded.version, recorded.position)
        if recorded.version > known.version:
            return Kept(shape.fold(known.value, recorded), recorded.version, recorded.position)
        return None

    async def _before(self, fresh: Sequence[Recorded]) -> dict[str, Kept[Any]]:
        before: dict[str, Kept[Any]] = {}
        missing: dict[str, Shape[Any]] = {}
        for recorded in fresh:
            shape = self.SHAPES.get(recorded.stream.partition("/")[0])
            if shape is None:
                continue
            name = f"{recorded.organization}/{recorded.stream}"
            if name in before or name in missing:
                continue
            known = self._known.get(name)
            if known is not None:
                before[name] = known
            else:
                missing[name] = shape
        for (name, shape), document in zip(
            missing.items(), await self.store.documents(list(missing)) if missing else (), strict=True
        ):
            if document is not None:
                before[name] = shape.decode(name, document)
        return before

    def _rewrite(self, name: str, before: Kept[Any] | None, kept: Kept[Any], change: Change) -> None:
        organization, kind, _ = name.split("/", 2)
        shape = self.SHAPES[kind]
        change.documents[name] = shape.encode(kept)
        lines = shape.lines(organization, kept.value)
        if before is None:
            change.added += lines
        else:
            new, old = set(lines), set(shape.lines(organization, before.value))
            change.added += sorted(new - old)
            change.removed += sorted(old - new)

    def _remember(self, now: Mapping[str, Kept[Any]]) -> None:
        known = self._known
        for name, kept in now.items():
            known.pop(name, None)
            known[name] = kept
        for name in list(known)[: max(0, len(known) - self.REMEMBERED)]:
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
