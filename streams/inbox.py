"""A part's messages on their way to being a batch: gathered, put in order, repeats dropped, checked by their manifest.

In: messages of one partition, as they come. Out: batches that say whether they are whole. Nothing here trusts the
topic: a batch of which something is missing says so, and is then read from the log.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, NamedTuple, Self

from domain.ports import Recorded
from streams.deadletters import Unreadable, from_json
from streams.parts import part_of

# More than this many events without a manifest is no batch of any relay; the log has them.
_LONGEST = 200_000


@dataclass(frozen=True, slots=True)
class Manifest:
    """ "Of the positions after `after` up to `upto`, exactly `events` events went to this partition.\""""

    after: int
    upto: int
    events: int

    def to_json(self) -> bytes:
        return b'{"after":%d,"upto":%d,"events":%d}' % (self.after, self.upto, self.events)

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Raises `ValueError` for what is none."""
        known = from_json(data)
        if not isinstance(known, dict) or known.keys() != {"after", "upto", "events"}:
            raise ValueError("not a manifest")
        after, upto, events = known["after"], known["upto"], known["events"]
        if not all(type(value) is int for value in (after, upto, events)) or not 0 <= after < upto or events < 0:
            raise ValueError("not a manifest")
        return cls(after, upto, events)


class Arrived(NamedTuple):
    """What arrived at one place of a partition: a `row` of the log with its position and its stream's full name, or a
    manifest, or neither, which is junk. `at` is when it was sent, in seconds since 1970 (UTC)."""

    offset: int
    at: float
    position: int
    stream: str
    row: Any
    manifest: Manifest | None


@dataclass(slots=True, eq=False)
class Batch:
    """The events of one manifest, by position. Not `whole` means that some are missing, or more came than were sent.

    `offset` is the place behind the manifest, `at` when the first of it was sent, in seconds since 1970 (UTC). `events`
    is what the rows hold, once they are opened."""

    after: int
    upto: int
    rows: Sequence[Arrived]
    whole: bool
    offset: int
    at: float
    events: Sequence[Recorded | Unreadable] | None = None


class Inbox:
    """One part of the topic."""

    def __init__(self, number: int, parts: int) -> None:
        self._number = number
        self._parts = parts
        self._pile: dict[int, Arrived] = {}

    def take(self, arrived: Iterable[Arrived]) -> Iterator[Batch | Arrived]:
        """The batches that these complete, and what among these is junk: no row, or of another part."""
        for one in arrived:
            if one.row is not None and part_of(one.stream, self._parts) == self._number:
                if len(self._pile) >= _LONGEST:
                    self._pile.clear()
                self._pile[one.position] = one
            elif one.manifest is not None:
                yield self._batch(one, one.manifest)
            else:
                yield one

    def _batch(self, end: Arrived, manifest: Manifest) -> Batch:
        rows = [one for position, one in self._pile.items() if manifest.after < position <= manifest.upto]
        # What comes after may have overtaken its manifest; what came before is a repeat, or came too late.
        self._pile = {position: one for position, one in self._pile.items() if position > manifest.upto}
        rows.sort(key=attrgetter("position"))
        return Batch(
            after=manifest.after,
            upto=manifest.upto,
            rows=rows,
            whole=len(rows) == manifest.events,
            offset=end.offset + 1,
            at=min((one.at for one in rows), default=end.at),
        )
