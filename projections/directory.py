"""A directory of providers: who they are, and when they are next free.

In: events, as a sign that something about a provider changed; what is true then is asked of the free time, and the
times are found by the domain's own rules. Out: one entry a provider in an index, written whole, and its questions.

An entry is derived, never folded: whatever order parts of the log arrive in, the entry that knows more wins. Its
version is the position at which the free time stood before the entry was made, so an entry holds all that was recorded
up to its version, and one whose version has passed an event need not be made again for it. Next free times also pass
with the clock: an entry is good until an instant that it names, and `refresh` makes anew what is no longer good.

A visit type that needs a room or a device shows when the provider is free for it: a room stands nowhere in particular,
so which of them is free is asked when the time is booked (docs/decisions/0061-directory.md).
"""

from __future__ import annotations

import asyncio
import time
import unicodedata
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from itertools import islice
from typing import Final, NamedTuple, Protocol, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from domain.availability import Page, PageId, Shelf
from domain.ports import Clock, Recorded
from domain.provider import Location, Mode, Opening, Provider, Specialty, VisitType, horizon, opening
from domain.slots import LONGEST_RANGE_DAYS, Diary, Wish, days_between, free_slots, pages_between, starts
from domain.time import DAY, MINUTE, day_bounds, local_day, zone
from projections.documents import Kept
from projections.free_time import FreeTime
from projections.model import Model, Poison, Portion

# How many of the earliest free times an entry lists for each visit type and location, and how many local days ahead it
# looks for them: as many as one question for free times may span.
OPENINGS: Final = 5
DAYS_AHEAD: Final = LONGEST_RANGE_DAYS

# In `Found.at`, seconds since 1970: later than any time that can be booked.
NEVER: Final = 2**40

# Pages are read for so many days, then for as many more, while free times are still missing.
_STRETCHES: Final = (7, 14, DAYS_AHEAD)
# A week whose cap counts a day may start this many days before it, wherever the place; no page before matters.
_BACK: Final = 8 * DAY
_PATIENCE: Final = 5.0
_AT_ONCE: Final = 100
# How long the event loop may be kept from others, seconds.
_BREATH: Final = 0.001
# A directory that has much to do rests so many times as long as it worked.
_REST: Final = 3.0
_LONGEST_REST: Final = 0.5
_OTHERS: Final = 100_000
_REMEMBERED: Final = 50_000
_TRIES: Final = 20

Key = tuple[str, UUID]


class FreeTimeBehind(Exception):
    """The free time has not come as far as the events in hand. It may later."""


class IndexAway(Exception):
    """The index does not answer, or not in time. It may later. `code` is a status that it gave, if it gave one."""

    def __init__(self, why: str, code: int | None = None) -> None:
        super().__init__(why)
        self.code = code


class Restless(Exception):
    """A provider's pages change faster than the entry can be made. They may not later."""


class Openings(BaseModel):
    """The earliest free times of a visit type at a location, as UTC instants in order; none within the days that are
    looked at."""

    model_config = ConfigDict(frozen=True)

    visit_type_id: UUID
    location_id: UUID
    starts: tuple[datetime, ...]


class Entry(BaseModel):
    """A provider as the directory shows them. One who is `gone` stays as a mark, so that nothing older comes back."""

    model_config = ConfigDict(frozen=True)

    organization: str
    provider_id: UUID
    name: str = ""
    specialties: tuple[Specialty, ...] = ()
    languages: tuple[str, ...] = ()
    insurers: tuple[str, ...] = ()
    locations: tuple[Location, ...] = ()
    visit_types: tuple[VisitType, ...] = ()
    openings: tuple[Openings, ...] = ()
    gone: bool = False

    @property
    def key(self) -> Key:
        return self.organization, self.provider_id

    def offers(self) -> Iterator[tuple[VisitType, Openings]]:
        """Every visit type at every location, with its free times."""
        kinds = {one.id: one for one in self.visit_types}
        for times in self.openings:
            yield kinds[times.visit_type_id], times

    def specialty_terms(self) -> set[str]:
        return {term for one in self.specialties for term in (folded(one.code), folded(one.name))}

    def language_terms(self) -> set[str]:
        """Each language as it is tagged, and without script and region (BCP 47)."""
        return {term for tag in self.languages for term in (folded(tag), folded(tag.partition("-")[0]))}

    def insurer_terms(self) -> set[str]:
        return {folded(name) for name in self.insurers}


def at(times: Openings) -> int:
    """When a visit type is next free, in seconds since 1970."""
    return int(times.starts[0].timestamp()) if times.starts else NEVER


# Letters that no decomposition takes apart.
_LETTERS: Final = str.maketrans({"ø": "o", "đ": "d", "ð": "d", "ł": "l", "æ": "ae", "œ": "oe", "þ": "th", "ı": "i"})


def folded(text: str) -> str:
    """Words as they are compared: without accents, capitals and spare spaces."""
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", text).casefold())
    bare = "".join(letter for letter in plain if not unicodedata.combining(letter))
    return " ".join(bare.translate(_LETTERS).split())


class Standing(NamedTuple):
    """What an entry rests on. `version` is a position of the log, `reaches` the last UTC day whose page may change it,
    `good_until` the instant from which on the clock may have changed it; None for one that no clock changes."""

    version: int
    reaches: date
    good_until: datetime | None


class Made(NamedTuple):
    """An entry to be written. `good_until` may lie in the past of whoever looks; then it is made anew."""

    entry: Entry
    standing: Standing


class Spoilt(NamedTuple):
    """An entry that can't be made or that the index can't take, however often it is tried."""

    key: Key
    error: Exception


@dataclass(frozen=True, slots=True)
class Question:
    """Whom somebody looks for; what is None does not matter. `specialty` is a code or our word for it. `after` is the
    place (`Found.at` and provider) of the last one known. `for_patients` leaves out what only the clinic books."""

    specialty: str | None = None
    language: str | None = None
    insurer: str | None = None
    visit_type_id: UUID | None = None
    location_id: UUID | None = None
    mode: Mode | None = None
    for_patients: bool = False
    after: tuple[int, UUID] | None = None
    limit: int = 50

    @property
    def about_offers(self) -> bool:
        return self.for_patients or any(one is not None for one in (self.visit_type_id, self.location_id, self.mode))

    def wants(self, kind: VisitType, times: Openings) -> bool:
        """Whether a visit type at a location is one that was asked for."""
        return (
            self.visit_type_id in (None, kind.id)
            and self.location_id in (None, times.location_id)
            and (self.mode is None or self.mode in kind.modes)
            and (kind.self_bookable or not self.for_patients)
        )


class Found(NamedTuple):
    """An entry, and when the earliest of what was asked for is free, in seconds since 1970; `NEVER` for none."""

    entry: Entry
    at: int


class Index(Protocol):
    """Where entries are kept, in generations of which one is live. What is written can be found when `write` returns.

    Every method raises `IndexAway`."""

    async def positions(self) -> Mapping[str, int]:
        """How far each part of the log is in it; empty when nothing is kept, or no longer."""

    async def standing(self, keys: Sequence[Key]) -> Sequence[Standing | None]:
        """As it was last written, though it may not be found by a question yet."""

    async def write(self, made: Sequence[Made]) -> Sequence[Spoilt]:
        """Write each entry unless a later version is there, and return those that can't be."""

    async def stand(self, positions: Mapping[str, tuple[int, int]]) -> None:
        """For each part, from a position to another. Raises `OutOfStep` where one is not where it should be."""

    async def stale(self, now: datetime, limit: int) -> Sequence[Key]:
        """Entries that are no longer good, of every organization, the longest first."""

    async def find(self, organization: str, question: Question) -> Sequence[Found]:
        """Earliest first, then by provider; those who are gone are not found."""

    async def next_generation(self) -> Self: ...

    async def go_live(self) -> None: ...

    async def clean(self) -> None: ...


@dataclass(slots=True)
class _Touched:
    """What happened to one who may be a provider, in a batch: `about` events of the provider's own, `days` of pages."""

    about: list[Recorded] = field(default_factory=list)
    days: list[tuple[str, Recorded]] = field(default_factory=list)

    def events(self) -> list[Recorded]:
        return [*self.about, *(one for _, one in self.days)]

    def first(self, standing: Standing | None) -> Recorded | None:
        """The first event that the entry does not hold and that may change it."""
        fresh = self.events()
        if standing is not None:
            reaches = standing.reaches.isoformat()
            fresh = [*self.about, *(one for day, one in self.days if day <= reaches)]
            fresh = [one for one in fresh if one.position > standing.version]
        return min(fresh, key=lambda one: one.position, default=None)


class Directory(Model):
    """`free_time` may be filled by another process; `clock` says from when on times are looked for."""

    name = "directory"
    batch = 10_000
    linger = 0.03

    def __init__(self, index: Index, free_time: FreeTime, clock: Clock) -> None:
        super().__init__()
        self.index = index
        self._free_time = free_time
        self._clock = clock
        # Patients, rooms and devices: their pages are no provider's.
        self._others: dict[tuple[str, str], None] = {}
        # The last looks, each with the position of the profile that it was at, and how many days they hold.
        self._seen: dict[Key, tuple[int, _Days]] = {}
        self._days = 0
        self._turn = asyncio.Lock()
        self._rested = 0.0

    async def positions(self) -> Mapping[str, int]:
        return await self.index.positions()

    async def find(self, organization: str, question: Question) -> Sequence[Found]:
        """Providers, the one who is free earliest first. Raises `IndexAway`."""
        return await self.index.find(organization, question)

    async def _apply(self, fresh: Sequence[Recorded], part: str, at: int, upto: int) -> None:
        poison = await self._take_in(fresh, alone=not part)
        if poison is not None:
            before = [one.position for one in fresh if one.position < poison.position]
            upto = max(at, before[-1] if before else 0) if upto > at else at
        if upto > at:
            await self.index.stand({part: (at, upto)})
        if poison is not None:
            raise poison

    async def apply_parts(self, portions: Mapping[str, Portion]) -> int:
        """All parts together, so that a provider whom several of them touch is looked at once."""
        fresh: list[Recorded] = []
        moves: dict[str, tuple[int, int]] = {}
        began = time.monotonic()
        for part, (events, upto) in portions.items():
            reached = await self._reached(part)
            if upto > reached:
                fresh += [one for one in events if one.position > reached]
                moves[part] = (self._kept(part), upto)
        fresh.sort(key=lambda one: one.position)
        try:
            if await self._take_in(fresh, alone=False) is not None:
                # Which part stops at it is told by applying each alone.
                return await super().apply_parts(portions)
            if moves:
                await self.index.stand(moves)
        except Poison:
            raise
        except BaseException:
            self.forget()
            raise
        for part, (_, upto) in moves.items():
            self._note(part, upto)
        self._tell(fresh, began)
        return len(fresh)

    async def refresh(self, now: datetime | None = None) -> int:
        """Make anew what is no longer good; return how many entries that was. `now` is the clock's otherwise.

        Any number of processes may do so at a time. Raises `IndexAway` and what the free time's store raises; it may be
        asked again."""
        now = now or self._clock.now()
        done: set[Key] = set()
        async with self._turn:
            while keys := [key for key in await self.index.stale(now, _AT_ONCE) if key not in done]:
                await self._make(dict.fromkeys(keys), now, alone=False)
                done |= set(keys)
        return len(done)

    async def mend(self, stream: Sequence[Recorded], part: str = "") -> int:
        """Look anew at whom the stream is about: what the free time knew of it then may have been amiss."""
        at = await self._reached(part)
        events = [one for one in stream if one.position <= at]
        if (poison := await self._take_in(events, alone=False, anyway=True)) is not None:
            raise poison
        return len(events)

    async def _take_in(self, events: Sequence[Recorded], *, alone: bool, anyway: bool = False) -> Poison | None:
        """Bring every entry up to date that the events change. `alone` says that nobody else fills this index; `anyway`
        that an entry is made even if it seems to hold them."""
        now = self._clock.now()
        touched = _touched(events, (now - _BACK).date().isoformat())
        touched = {key: one for key, one in touched.items() if one.about or key not in self._others}
        if not touched:
            return None
        if len(events) < self.batch:
            await self._rest()
        # Of this thread, since a machine that is busy with others makes everything take long.
        began = time.thread_time()
        async with self._turn:
            last = max(event.position for one in touched.values() for event in one.events())
            if not await self._free_time.wait_until(last, _PATIENCE):
                raise FreeTimeBehind
            because = await self._to_make(touched, anyway)
            spoilt = await self._make(because, now, alone=alone)
        if because:
            self._rested = time.perf_counter() + min(_LONGEST_REST, _REST * (time.thread_time() - began))
        if not spoilt:
            return None
        event, error = min(((because[one.key], one.error) for one in spoilt), key=lambda found: found[0].position)
        return Poison(event.position, event.event.NAME, error)

    async def _rest(self) -> None:
        """Coalesce: the more there is to do, the more events are taken together, and bookings come first."""
        if (left := self._rested - time.perf_counter()) > 0:
            await asyncio.sleep(left)

    async def _to_make(self, touched: Mapping[tuple[str, str], _Touched], anyway: bool) -> dict[Key, Recorded]:
        """The entries that need to be made, each with the first event that says so."""
        keys = [(organization, UUID(key)) for organization, key in touched]
        because: dict[Key, Recorded] = {}
        unknown: dict[str, list[UUID]] = {}
        for key, one, standing in zip(keys, touched.values(), await self.index.standing(keys), strict=True):
            if (first := one.first(None if anyway else standing)) is not None:
                because[key] = first
                if standing is None and not one.about:
                    unknown.setdefault(key[0], []).append(key[1])
        for organization, ids in unknown.items():
            known = await self._free_time.known(organization, ids)
            for provider_id in ids:
                if provider_id not in known:
                    del because[organization, provider_id]
                    self._others[organization, str(provider_id)] = None
        for other in list(islice(self._others, max(0, len(self._others) - _OTHERS))):
            del self._others[other]
        return because

    async def _make(self, keys: Mapping[Key, object], now: datetime, *, alone: bool) -> Sequence[Spoilt]:
        left, spoilt = list(keys), list[Spoilt]()
        for _ in range(_TRIES):
            again: list[Key] = []
            for start in range(0, len(left), _AT_ONCE):
                again += await self._make_some(left[start : start + _AT_ONCE], now, spoilt, alone=alone)
            if not again:
                return spoilt
            left = again
        raise Restless

    async def _make_some(self, keys: Sequence[Key], now: datetime, spoilt: list[Spoilt], *, alone: bool) -> list[Key]:
        """Write these entries; return those that changed meanwhile in a way that nobody else may have noticed."""
        version = await self._free_time.position()
        looks: list[_Look] = []
        by_organization: dict[str, list[UUID]] = {}
        for organization, provider_id in keys:
            by_organization.setdefault(organization, []).append(provider_id)
        for organization, ids in by_organization.items():
            known = await self._free_time.known(organization, ids)
            for provider_id in ids:
                kept = known.get(provider_id)
                before = self._seen.get((organization, provider_id))
                days = before[1] if before is not None and before[0] == _position(kept) else {}
                look = _Look(self._free_time, organization, provider_id, kept, days, now)
                await look.around()
                looks.append(look)
                self._remember(look.key, _position(kept), look.seen)
        if await self._free_time.position() < version:
            # It was emptied meanwhile, and what was read of it is less than the version says.
            raise FreeTimeBehind
        spoilt += [Spoilt(look.key, look.fault) for look in looks if look.fault is not None]
        looks = [look for look in looks if look.fault is None]
        spoilt += await self.index.write([look.made(version) for look in looks])
        if alone:
            return []
        # Whoever met a later event for this provider may have looked at the entry before this one, which that event
        # could not change. What it changed in this one is seen now, since its page was there before.
        return [look.key for look in looks if await look.changed()]

    def _remember(self, key: Key, profile: int, days: _Days) -> None:
        """Full days need not be gone through again until something happens on them."""
        forgotten = self._seen.pop(key, (0, {}))
        self._seen[key] = (profile, days)
        self._days += len(days) - len(forgotten[1])
        while self._days > _REMEMBERED:
            oldest = next(iter(self._seen))
            self._days -= len(self._seen.pop(oldest)[1])

    async def next_generation(self) -> Self:
        return type(self)(await self.index.next_generation(), self._free_time, self._clock)

    async def take_over(self, filled: Self) -> None:
        async with self._turn:
            await filled.index.go_live()
            self.index = filled.index
            self._at = filled._at

    async def clean(self) -> None:
        await self.index.clean()


def _touched(events: Iterable[Recorded], since: str) -> dict[tuple[str, str], _Touched]:
    """By organization and resource. Pages before the day `since` are past, and are left out."""
    touched: dict[tuple[str, str], _Touched] = {}
    for one in events:
        kind, _, rest = one.stream.partition("/")
        if kind == "page":
            resource, _, day = rest.partition("/")
            if day >= since:
                touched.setdefault((one.organization, resource), _Touched()).days.append((day, one))
        elif kind == "provider":
            touched.setdefault((one.organization, rest), _Touched()).about.append(one)
    return touched


@dataclass(slots=True)
class _Offer:
    """A visit type at a location, while its free times are looked for. `day` is the next local day to look at."""

    kind: VisitType
    location: Location
    day: date
    last: date
    starts: set[datetime] = field(default_factory=set)

    def full(self) -> bool:
        """Whether no later day can say anything earlier: hours may run past midnight into the next day's."""
        if len(self.starts) < OPENINGS:
            return False
        return sorted(self.starts)[OPENINGS - 1] < day_bounds(self.day, zone(self.location.time_zone)).start

    def kind_of_time(self) -> Hashable:
        """Visit types that are alike in this are free at the same times. A group visit is looked at by itself, since
        others join it."""
        if self.kind.seats > 1:
            return self.kind.id
        return self.kind.duration_minutes, self.kind.buffer_before_minutes, self.kind.buffer_after_minutes

    def wish(self, now: datetime) -> Wish:
        return Wish(self.kind.id, self.location.id, now, self.kind.modes[0])


class _Seen(NamedTuple):
    """What a look at one local day saw: its first free times, until when (a hold may end), and on which pages, each by
    the position of its last event. One that `lasts` is as true by a later clock, but for what has passed."""

    at: datetime
    starts: tuple[datetime, ...]
    until: datetime | None
    pages: tuple[tuple[date, int], ...]
    lasts: bool


# By what decides about times besides the provider, by location and local day.
_Days = dict[tuple[Hashable, UUID, date], _Seen]


class _Look:
    """One look at one provider's next free times. `before` is what an earlier look saw of the same profile, `seen` what
    this one does."""

    def __init__(
        self,
        free_time: FreeTime,
        organization: str,
        provider_id: UUID,
        kept: Kept[Provider] | None,
        before: _Days,
        now: datetime,
    ) -> None:
        self._before = before
        self.seen: _Days = {}
        self.key: Key = (organization, provider_id)
        self._free_time = free_time
        self._kept = kept
        self._now = now
        self._pages: dict[date, Kept[Page] | None] = {}
        self._openings: dict[tuple[UUID, date], Opening] = {}
        self._offers: list[_Offer] = []
        self._reaches = now.date()
        self._good_until: list[datetime] = []
        self.fault: Exception | None = None

    async def around(self) -> None:
        """Look at as many days as are needed. What the rules stumble over is the `fault`; reading may raise."""
        if self._kept is None:
            return
        steps = self._steps(self._kept.value)
        while self.fault is None:
            try:
                wanted = next(steps, None)
            except Exception as error:  # of the rules alone: nothing is read in there
                self.fault = error
                return
            if wanted is None:
                return
            if not wanted:
                await asyncio.sleep(0)
                continue
            for (_, day), page in (await self._free_time.pages(self.key[0], wanted)).items():
                self._pages[day] = page

    def _steps(self, known: Provider) -> Iterator[Sequence[PageId]]:
        """Yields which pages to read before it goes on; none where others should have their turn."""
        # Rooms and devices are named when booking; here the provider's own time is meant.
        kinds = {key: one.model_copy(update={"needs": ()}) for key, one in known.visit_types.items()}
        provider = replace(known, visit_types=kinds)
        for kind in kinds.values():
            for location in provider.locations.values():
                place = zone(location.time_zone)
                today = local_day(self._now, place)
                last = min(today + DAYS_AHEAD * DAY, local_day(horizon(provider, self._now), place))
                # Hours of yesterday may run past midnight.
                self._offers.append(_Offer(kind, location, today - DAY, last))
        for stretch in _STRETCHES:
            missing = [offer for offer in self._offers if offer.day <= offer.last and not offer.full()]
            ends = [min(offer.day + stretch * DAY, offer.last) for offer in missing]
            wanted = dict.fromkeys(
                page
                for offer, end in zip(missing, ends, strict=True)
                for page in pages_between(provider, offer.wish(self._now), offer.day, end)
                if page[1] not in self._pages
            )
            if wanted:
                yield list(wanted)
            for offer, end in zip(missing, ends, strict=True):
                yield from self._look(provider, offer, end)
        for offer in self._offers:
            self._note_end(provider, offer)

    def _look(self, provider: Provider, offer: _Offer, until: date) -> Iterator[Sequence[PageId]]:
        breath = time.perf_counter()
        while offer.day <= until and not offer.full():
            day = offer.day
            offer.day += DAY
            key = (offer.kind_of_time(), offer.location.id, day)
            seen = self.seen.get(key) or self._before.get(key)
            if seen is None or not self._holds_still(provider, seen):
                seen = self._day(provider, offer, day)
            self.seen[key] = seen
            soonest = self._now + provider.rules.minimum_notice_minutes * MINUTE
            offer.starts.update(start for start in seen.starts if start >= soonest)
            if seen.until is not None:
                self._good_until.append(seen.until)
            if time.perf_counter() - breath > _BREATH:
                yield ()
                breath = time.perf_counter()

    def _holds_still(self, provider: Provider, seen: _Seen) -> bool:
        """Whether a look at a day by an earlier clock is what a look would be now."""
        if seen.at > self._now or (seen.until is not None and seen.until <= self._now):
            return False
        soonest = self._now + provider.rules.minimum_notice_minutes * MINUTE
        if len(seen.starts) == OPENINGS and seen.starts[0] < soonest:
            # Only so many were looked for, and others may follow now.
            return False
        return seen.lasts and all(_position(self._pages[day]) == position for day, position in seen.pages)

    def _day(self, provider: Provider, offer: _Offer, day: date) -> _Seen:
        place = zone(offer.location.time_zone)
        # A day of which the horizon cuts something off has more to show soon.
        lasts = day_bounds(day + DAY, place).end <= horizon(provider, self._now)
        if all(one.end <= self._now for one in self._hours(provider, offer.location, day).periods):
            return _Seen(self._now, (), None, (), lasts)
        wish = offer.wish(self._now)
        pages, until = self._shelf(provider, wish, day)
        free = free_slots(Diary(provider, Shelf(pages), self._now), wish, day, day)
        starts = tuple(slot.period.start for slot in islice(free, OPENINGS))
        return _Seen(self._now, starts, until, tuple((day, _position(self._pages[day])) for _, day in pages), lasts)

    def _hours(self, provider: Provider, location: Location, day: date) -> Opening:
        key = (location.id, day)
        if key not in self._openings:
            self._openings[key] = opening(provider, location, day)
        return self._openings[key]

    def _shelf(self, provider: Provider, wish: Wish, day: date) -> tuple[dict[PageId, Page | None], datetime | None]:
        """The pages that decide about a local day, and when the first hold on them ends by the clock."""
        pages: dict[PageId, Page | None] = {}
        ends: list[datetime] = []
        for page in pages_between(provider, wish, day, day):
            kept = self._pages[page[1]]
            pages[page] = kept.value if kept is not None else None
            if kept is not None:
                ends += [
                    entry.held_until
                    for entry in kept.value.entries.values()
                    if entry.held_until is not None and entry.live(self._now)
                ]
        return pages, min(ends, default=None)

    def _note_end(self, provider: Provider, offer: _Offer) -> None:
        """How far the free times of an offer reach, and how long they are good."""
        place, wish = zone(offer.location.time_zone), offer.wish(self._now)
        listed = sorted(offer.starts)[:OPENINGS]
        if listed:
            self._good_until.append(listed[0] - provider.rules.minimum_notice_minutes * MINUTE)
        if offer.full():
            last = offer.day - DAY
        else:
            last = offer.last
            # Tomorrow a day more is looked at, and with every minute the horizon is a minute further.
            self._good_until.append(day_bounds(local_day(self._now, place), place).end)
            latest = horizon(provider, self._now)
            if offer.last == local_day(latest, place):
                coming = (
                    at
                    for day in days_between(offer.last - DAY, offer.last + 2 * DAY)
                    for _, at in starts(provider, offer.location, day)
                    if at > latest
                )
                if (first := min(coming, default=None)) is not None:
                    self._good_until.append(self._now + (first - latest))
        pages = pages_between(provider, wish, last, last)
        self._reaches = max(self._reaches, *(day for _, day in pages))

    def made(self, version: int) -> Made:
        organization, provider_id = self.key
        if self._kept is None:
            gone = Entry(organization=organization, provider_id=provider_id, gone=True)
            return Made(gone, Standing(version, self._reaches, None))
        value = self._kept.value
        entry = Entry(
            organization=organization,
            provider_id=provider_id,
            name=value.name,
            specialties=value.specialties,
            languages=value.languages,
            insurers=value.insurers,
            locations=tuple(value.locations.values()),
            visit_types=tuple(value.visit_types.values()),
            openings=tuple(
                Openings(
                    visit_type_id=offer.kind.id,
                    location_id=offer.location.id,
                    starts=tuple(sorted(offer.starts)[:OPENINGS]),
                )
                for offer in self._offers
            ),
        )
        return Made(entry, Standing(version, self._reaches, min(self._good_until, default=None)))

    async def changed(self) -> bool:
        """Whether anything that was looked at is another by now."""
        organization, provider_id = self.key
        known = await self._free_time.known(organization, [provider_id])
        if _position(known.get(provider_id)) != _position(self._kept):
            return True
        pages = await self._free_time.pages(organization, [(provider_id, day) for day in self._pages])
        return any(_position(page) != _position(self._pages[day]) for (_, day), page in pages.items())


def _position(kept: Kept[Provider] | Kept[Page] | None) -> int:
    return kept.position if kept is not None else 0
