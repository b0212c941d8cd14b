"""What occupies a resource on one UTC day: visits, holds that end by the clock, blocks, outside busy time.

A resource is a provider, a room, a device or a patient. One page per resource and UTC day; whatever crosses midnight
stands on both pages in full length. Two bookings that want the same time write the same version of the same page, so
the log lets one in. In: what a decision wants to occupy. Out: page events, or the entries that stand in the way.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from enum import StrEnum
from functools import lru_cache
from itertools import accumulate
from typing import ClassVar
from uuid import UUID

from domain.events import Event
from domain.refusals import Refusal
from domain.time import Instant, Period

PageId = tuple[UUID, date]


class BlockReason(StrEnum):
    """Why a time is not to be booked though nobody is being seen. `EXTERNAL` is busy time of an outside calendar."""

    BREAK = "break"
    MEETING = "meeting"
    MAINTENANCE = "maintenance"
    ADMINISTRATION = "administration"
    EXTERNAL = "external"
    OTHER = "other"


class ReleaseReason(StrEnum):
    CANCELLED = "cancelled"
    MOVED = "moved"
    LAPSED = "lapsed"
    DECLINED = "declined"
    ENTERED_IN_ERROR = "entered_in_error"


class PageEvent(Event):
    """What every event of a page says: whose page it is, and of which UTC day."""

    resource_id: UUID
    day: date


class TimeReserved(PageEvent):
    """A visit takes time. `occupied` is the visit with its buffers. Visits of one `session` (a group visit) share the
    time, up to `seats`; a visit alone is its own session. With `held_until` it is a hold."""

    NAME: ClassVar[str] = "TimeReserved.v1"
    appointment_id: UUID
    visit: Period
    occupied: Period
    session_id: UUID
    seats: int = 1
    held_until: Instant | None = None


class ReservationConfirmed(PageEvent):
    """A hold became firm: it no longer ends by the clock."""

    NAME: ClassVar[str] = "ReservationConfirmed.v1"
    appointment_id: UUID


class TimeReleased(PageEvent):
    NAME: ClassVar[str] = "TimeReleased.v1"
    appointment_id: UUID
    reason: ReleaseReason


class TimeBlocked(PageEvent):
    NAME: ClassVar[str] = "TimeBlocked.v1"
    block_id: UUID
    period: Period
    reason: BlockReason


class TimeUnblocked(PageEvent):
    NAME: ClassVar[str] = "TimeUnblocked.v1"
    block_id: UUID


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing on a page. A block has no session and a `block` reason; a hold has an end, `held_until`."""

    id: UUID
    visit: Period
    occupied: Period
    session_id: UUID | None = None
    seats: int = 1
    held_until: datetime | None = None
    block: BlockReason | None = None

    def live(self, now: datetime) -> bool:
        return self.held_until is None or now < self.held_until


@dataclass(frozen=True, slots=True)
class Page:
    resource_id: UUID
    day: date
    entries: Mapping[UUID, Entry] = field(default_factory=dict)


@lru_cache(maxsize=100_000)
def page_stream(resource_id: UUID, day: date) -> str:
    return f"page/{resource_id}/{day.isoformat()}"


def evolve(state: Page | None, event: Event) -> Page:
    if not isinstance(event, PageEvent):
        raise TypeError(f"{type(event).__name__} is not an event of a page")
    page = state or Page(event.resource_id, event.day)
    entries = dict(page.entries)
    match event:
        case TimeReserved():
            entries[event.appointment_id] = Entry(
                event.appointment_id,
                event.visit,
                event.occupied,
                event.session_id,
                event.seats,
                event.held_until,
            )
        case ReservationConfirmed():
            entries[event.appointment_id] = replace(entries[event.appointment_id], held_until=None)
        case TimeReleased():
            entries.pop(event.appointment_id, None)
        case TimeBlocked():
            entries[event.block_id] = Entry(event.block_id, event.period, event.period, block=event.reason)
        case TimeUnblocked():
            entries.pop(event.block_id, None)
    return replace(page, entries=entries)


class TimeInUse(Refusal):
    """A block would cover live visits. They are named, so that staff can move them first or insist."""

    code = "time_in_use"


class UnknownBlock(Refusal):
    code = "unknown_block"
    status = 404


class Shelf:
    """The pages that a question looks at, read once. A page never written is empty."""

    __slots__ = ("_pages",)

    def __init__(self, pages: Mapping[PageId, Page | None]) -> None:
        self._pages = dict(pages)

    def holds(self, page: PageId) -> bool:
        return page in self._pages

    def entries(self, resource_id: UUID, period: Period) -> Iterator[Entry]:
        """Every entry that touches the period, each once. Raises `KeyError` for a page that was not read: a rule must
        not take unread for empty."""
        days = list(period.utc_days())
        seen: set[UUID] = set()
        for day in days:
            page = self._pages[resource_id, day]
            if page is None:
                continue
            for entry in page.entries.values():
                if entry.id not in seen and entry.occupied.overlaps(period):
                    if len(days) > 1:
                        seen.add(entry.id)
                    yield entry

    def on(self, resource_id: UUID, day: date) -> Iterator[Entry]:
        """Every entry of one page. Raises `KeyError` for a page that was not read."""
        page = self._pages[resource_id, day]
        return iter(() if page is None else page.entries.values())

    def page(self, page: PageId) -> Page | None:
        """One page as it stands; None for one never written. Raises `KeyError` for a page that was not read."""
        return self._pages[page]

    def apply(self, event: Event) -> None:
        """Fold a page event in, so that the next decision of the same save sees it."""
        if isinstance(event, PageEvent):
            key = (event.resource_id, event.day)
            self._pages[key] = evolve(self._pages[key], event)


class SortedShelf(Shelf):
    """The same pages, sorted once, for a question that looks at them many times."""

    __slots__ = ("_sorted",)

    def __init__(self, shelf: Shelf) -> None:
        super().__init__(shelf._pages)
        self._sorted: dict[UUID, tuple[list[datetime], list[Entry], list[datetime]]] = {}

    def entries(self, resource_id: UUID, period: Period) -> Iterator[Entry]:
        for day in period.utc_days():
            self._pages[resource_id, day]
        starts, entries, latest = self._sorted.get(resource_id) or self._sort(resource_id)
        at = bisect_left(starts, period.end)
        # `latest[n]` is when all up to the n-th are over: before it, nothing touches the period any more.
        while at and latest[at - 1] > period.start:
            at -= 1
            if entries[at].occupied.end > period.start:
                yield entries[at]

    def apply(self, event: Event) -> None:
        super().apply(event)
        self._sorted.clear()

    def _sort(self, resource_id: UUID) -> tuple[list[datetime], list[Entry], list[datetime]]:
        found = {
            key: entry
            for (owner, _), page in self._pages.items()
            if owner == resource_id and page is not None
            for key, entry in page.entries.items()
        }
        entries = sorted(found.values(), key=lambda entry: entry.occupied.start)
        starts = [entry.occupied.start for entry in entries]
        latest = list(accumulate((entry.occupied.end for entry in entries), max))
        self._sorted[resource_id] = (starts, entries, latest)
        return self._sorted[resource_id]


def in_the_way(
    shelf: Shelf,
    resource_id: UUID,
    occupied: Period,
    *,
    now: datetime,
    session_id: UUID | None = None,
    seats: int | None = None,
    allowance: int = 0,
    ignoring: UUID | None = None,
) -> Sequence[Entry]:
    """The live entries that keep `occupied` from being taken; empty when it is free.

    Blocks always stand in the way. A session with a free seat takes one more visit at its own time; `seats` is how many
    the visit type has now, which may be fewer than when the first were taken. Other sessions may overlap up to
    `allowance` at any instant (overbooking). `ignoring` is an appointment on the move, which does not stand in its own
    way.
    """
    others: list[Entry] = []
    mates: list[Entry] = []
    for entry in shelf.entries(resource_id, occupied):
        if entry.id == ignoring or not entry.live(now):
            continue
        if entry.block is not None:
            return [entry]
        if session_id is not None and entry.session_id == session_id:
            mates.append(entry)
        else:
            others.append(entry)
    if mates and len(mates) >= places(mates, seats):
        return mates
    if len(others) <= allowance:
        return ()
    for part in _beyond(occupied, mates):
        near = [entry for entry in others if entry.occupied.overlaps(part)]
        if len(near) > allowance and (allowance == 0 or _depth(near, part) > allowance):
            return near
    return ()


def places(mates: Sequence[Entry], seats: int | None) -> int:
    """How many a session takes: the fewest that anyone in it was told, or that the visit type has now."""
    return min([mate.seats for mate in mates] + ([] if seats is None else [seats]))


def _beyond(occupied: Period, mates: Sequence[Entry]) -> Sequence[Period]:
    """What of `occupied` a session does not take yet. A visit type that grew longer reaches beyond its first seats."""
    if not mates:
        return [occupied]
    start, end = min(mate.occupied.start for mate in mates), max(mate.occupied.end for mate in mates)
    parts = [Period(occupied.start, min(start, occupied.end)), Period(max(end, occupied.start), occupied.end)]
    return [part for part in parts if part.start < part.end]


def _depth(entries: Iterable[Entry], within: Period) -> int:
    """The largest number of different sessions under way at one instant inside `within`."""
    sessions: dict[UUID, Period] = {}
    for entry in entries:
        key = entry.session_id or entry.id
        known = sessions.get(key)
        span = entry.occupied
        sessions[key] = Period(min(known.start, span.start), max(known.end, span.end)) if known else span
    starts = [max(span.start, within.start) for span in sessions.values()]
    return max(sum(span.start <= at < span.end for span in sessions.values()) for at in starts)


def reserve(
    resource_id: UUID,
    *,
    appointment_id: UUID,
    visit: Period,
    occupied: Period,
    session_id: UUID,
    seats: int = 1,
    held_until: datetime | None = None,
) -> Iterator[TimeReserved]:
    """One event for each page that the time touches. Ask `in_the_way` first."""
    for day in occupied.utc_days():
        yield TimeReserved(
            resource_id=resource_id,
            day=day,
            appointment_id=appointment_id,
            visit=visit,
            occupied=occupied,
            session_id=session_id,
            seats=seats,
            held_until=held_until,
        )


def confirm(resource_id: UUID, occupied: Period, appointment_id: UUID) -> Iterator[ReservationConfirmed]:
    for day in occupied.utc_days():
        yield ReservationConfirmed(resource_id=resource_id, day=day, appointment_id=appointment_id)


def release(resource_id: UUID, occupied: Period, appointment_id: UUID, reason: ReleaseReason) -> Iterator[TimeReleased]:
    for day in occupied.utc_days():
        yield TimeReleased(resource_id=resource_id, day=day, appointment_id=appointment_id, reason=reason)


def block(
    shelf: Shelf,
    resource_id: UUID,
    period: Period,
    *,
    block_id: UUID,
    reason: BlockReason,
    over_visits: bool,
    now: datetime,
) -> Iterator[TimeBlocked]:
    """Keep a time from being booked. Refuses with `TimeInUse` over live visits, unless staff insist; the visits then
    stand until they are moved or cancelled."""
    visits = [entry for entry in shelf.entries(resource_id, period) if entry.block is None and entry.live(now)]
    if visits and not over_visits:
        raise TimeInUse(
            "visits are booked in this time; move them first, or block over them",
            appointments=[str(entry.id) for entry in visits],
        )
    for day in period.utc_days():
        yield TimeBlocked(resource_id=resource_id, day=day, block_id=block_id, period=period, reason=reason)


def unblock(shelf: Shelf, resource_id: UUID, block_id: UUID, around: Period) -> Iterator[TimeUnblocked]:
    """Take a block away from every page that it stands on. `around` is a time that the block covers."""
    for entry in shelf.entries(resource_id, around):
        if entry.id == block_id and entry.block is not None:
            for day in entry.occupied.utc_days():
                yield TimeUnblocked(resource_id=resource_id, day=day, block_id=block_id)
            return
    raise UnknownBlock("no such block at this time", block_id=str(block_id))
