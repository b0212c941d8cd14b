"""Stories of read models: given events, projected, show this.

In: decisions of the clinic in `tests/domain/clinic.py`, or bare events. Out: what the log would hold of them, and what
read models say of it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid5

from domain.events import Event
from domain.ports import LogError, Recorded, Save, Saved
from domain.refusals import Refusal
from projections.diary import AppointmentDiary, AppointmentRow
from projections.free_time import FreeTime
from projections.memory import MemoryStore
from tests.given import Book, Decision, events_of, stream_of

ORGANIZATION = "elm"
_IDS = UUID("6f0c1d1e-0000-5000-8000-000000000000")


class MemoryLog:
    """An `EventLog` that only reads: what tests put into it. `broken` is raised by every read until it is None."""

    def __init__(self) -> None:
        self.events: list[Recorded] = []
        self.broken: LogError | None = None
        self.reads = 0
        self._versions: dict[tuple[str, str], int] = {}
        self._more = asyncio.Event()

    def put(
        self,
        event: Event,
        at: datetime,
        *,
        organization: str = ORGANIZATION,
        actor: str = "desk-1",
        recorded_at: datetime | None = None,
    ) -> Recorded:
        stream = stream_of(event)
        version = self._versions.get((organization, stream), 0) + 1
        self._versions[organization, stream] = version
        position = len(self.events) + 1
        recorded = Recorded(
            position=position,
            organization=organization,
            stream=stream,
            version=version,
            event_id=uuid5(_IDS, str(position)),
            event=event,
            occurred_at=at,
            recorded_at=recorded_at or at,
            actor=actor,
            command_id=uuid5(_IDS, "command"),
            correlation_id=uuid5(_IDS, "command"),
        )
        self.events.append(recorded)
        self._more.set()
        return recorded

    async def read(self, after: int, limit: int) -> Sequence[Recorded]:
        self.reads += 1
        if self.broken is not None:
            raise self.broken
        return self.events[after : after + limit]

    async def head(self) -> int:
        return len(self.events)

    async def wait(self, after: int, timeout: float) -> int:
        if len(self.events) <= after:
            self._more.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._more.wait(), timeout)
        return len(self.events)

    async def load(
        self, organization: str, after: Mapping[str, int], *, upto: int | None = None
    ) -> Mapping[str, Sequence[Recorded]]:
        found: dict[str, list[Recorded]] = {stream: [] for stream in after}
        for one in self.events:
            wanted = one.organization == organization and one.stream in found and (upto is None or one.position <= upto)
            if wanted and one.version > after[one.stream]:
                found[one.stream].append(one)
        return found

    async def streams(
        self, organization: str, first: str, last: str, *, limit: int | None = None, backwards: bool = False
    ) -> Sequence[str]:
        within = {s for o, s in self._versions if o == organization and first <= s <= last}
        return sorted(within, reverse=backwards)[:limit]

    async def position_at(self, instant: datetime) -> int:
        return max((one.position for one in self.events if one.recorded_at <= instant), default=0)

    async def append(self, save: Save) -> Saved:
        raise NotImplementedError

    async def remembered(self, organization: str, actor: str, key: str, body_hash: bytes) -> Saved | None:
        raise NotImplementedError


class Chronicle:
    """A clinic in which things happen, and the log of it."""

    def __init__(self, book: Book, log: MemoryLog | None = None, organization: str = ORGANIZATION) -> None:
        self.book = book
        self.log = log or MemoryLog()
        self.organization = organization

    def happens(self, *told: Any, actor: str = "desk-1") -> Chronicle:
        """Events and decisions, each asked as the book stands; a refusal is a fault of the test."""
        for part in told:
            self._put(part(self.book) if callable(part) else part, actor)
        return self

    def may_happen(self, decision: Decision) -> None:
        """What is refused does not happen."""
        try:
            told = list(events_of(decision(self.book)))
        except (Refusal, KeyError):
            return
        self._put(told, "desk-1")

    def _put(self, told: object, actor: str) -> None:
        for event in events_of(told):
            self.book.apply(event)
            self.log.put(event, self.book.now, organization=self.organization, actor=actor)

    def later(self, by: timedelta) -> Chronicle:
        self.book.now += by
        return self

    async def project(self, *, each: int = 10_000) -> Shown:
        return await project(self.log.events, each=each)


class Shown:
    """The diary and the free time, filled in memory."""

    def __init__(self) -> None:
        self.diary = AppointmentDiary(MemoryStore())
        self.free_time = FreeTime(MemoryStore())

    async def shows(self, appointment_id: UUID, **expected: Any) -> AppointmentRow:
        row = await self.diary.appointment(ORGANIZATION, appointment_id)
        assert row is not None
        assert {name: getattr(row, name) for name in expected} == expected
        return row

    async def tells(self, appointment_id: UUID) -> list[str]:
        return [line.sentence for line in await self.diary.history(ORGANIZATION, appointment_id)]


async def project(events: Sequence[Recorded], *, each: int = 10_000) -> Shown:
    shown = Shown()
    for batch in batches(events, [each] * (len(events) // each + 1)):
        await shown.diary.apply(batch)
        await shown.free_time.apply(batch)
    return shown


def batches(events: Sequence[Recorded], sizes: Iterable[int]) -> Iterable[Sequence[Recorded]]:
    """The events cut into pieces of these sizes; whatever is left over makes the last."""
    start = 0
    for size in sizes:
        if start >= len(events):
            return
        yield events[start : start + size]
        start += size
    if start < len(events):
        yield events[start:]


def at_utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)
