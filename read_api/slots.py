"""Free times, and why another time is not one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import islice
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field
from starlette.responses import Response

from domain.access import Role
from domain.look import Screen
from domain.provider import Location, Mode, Provider, location_of, visit_type_of
from domain.refusals import Invalid
from domain.slots import LONGEST_RANGE_DAYS, Diary, Wish, free_slots, refusals
from domain.time import local_day, zone
from infra.http.problems import InvalidParameter
from read_api.asking import Asked, Asking, Book, unknown
from read_api.describing import answers
from read_api.parameters import AsOf, Cursor, DayOrInstant, When

router = APIRouter(tags=["slots"])

# How many days are looked at when nobody says.
USUAL_DAYS = 7
PROVIDERS = 50
# In one answer: three megabytes of JSON.
MOST_SLOTS = 10_000


class TooManySlots(Invalid):
    """More free times than one answer holds."""

    code = "too_many_slots"


class FreeSlot(BaseModel):
    """A time that can be booked: the visit's own, without buffers. Instants are UTC; `time_zone` is the location's.
    `seats_left` counts a group visit's free places."""

    provider_id: UUID
    location_id: UUID
    visit_type_id: UUID
    start: datetime
    end: datetime
    time_zone: str
    mode: Mode
    seats_left: int


class Objection(BaseModel):
    """A rule that stands against a time, or what occupies it; `details` depend on the `code` and name nobody."""

    code: str = Field(examples=["outside_opening_hours"])
    message: str
    overridable: bool = Field(description="whether staff may set it aside, with a reason")
    details: dict[str, Any]


class Explanation(BaseModel):
    """Why a time is offered or not. Without objections it can be booked."""

    provider_id: UUID
    location_id: UUID
    visit_type_id: UUID
    start: datetime
    free: bool
    objections: list[Objection]


class Slots(BaseModel):
    """In order of time. `next` is the cursor for the free times of further providers, when all of the organization's
    are asked for. `explanation` answers `explain=true`."""

    slots: list[FreeSlot]
    next: str | None
    explanation: Explanation | None = None


@dataclass(frozen=True, slots=True)
class Range:
    """What is looked at: local days or instants, the end of days included and that of instants not."""

    first: date | datetime
    last: date | datetime

    def days(self, location: Location) -> tuple[date, date]:
        """The local days of a location that the range touches."""
        place = zone(location.time_zone)
        first, last = self.first, self.last
        return (
            local_day(first, place) if isinstance(first, datetime) else first,
            local_day(last - timedelta.resolution, place) if isinstance(last, datetime) else last,
        )

    def holds(self, start: datetime) -> bool:
        """Whether an instant lies between the instants, where the range is told in such."""
        return not (isinstance(self.first, datetime) and start < self.first) and not (
            isinstance(self.last, datetime) and start >= self.last
        )


From = Annotated[
    DayOrInstant | None, Query(alias="from", description="a local day, or an instant (RFC 3339); now otherwise")
]
To = Annotated[
    DayOrInstant | None,
    Query(
        alias="to",
        description=f"a local day (included) or an instant (not included), at most {LONGEST_RANGE_DAYS} days after "
        f"`from`; {USUAL_DAYS} days after it otherwise",
    ),
]


@router.get("/slots", response_model=Slots, **answers(404))
async def read_slots(
    asked: Asked,
    visit_type_id: UUID,
    provider_id: Annotated[
        list[UUID],
        Query(max_length=PROVIDERS, description="repeat it for several; without, everybody who offers the visit type"),
    ] = [],  # noqa: B006 - FastAPI copies it
    location_id: Annotated[UUID | None, Query(description="every location of the provider otherwise")] = None,
    first: From = None,
    last: To = None,
    mode: Annotated[Mode | None, Query(description="the visit type's first one otherwise")] = None,
    patient_id: Annotated[
        UUID | None, Query(description="whose other visits stand in the way too; a patient's own id otherwise")
    ] = None,
    resource_ids: Annotated[list[UUID], Query(max_length=8, description="rooms and devices to be free as well")] = [],  # noqa: B006
    moving: Annotated[
        UUID | None, Query(description="an appointment that would leave its time: it does not stand in its own way")
    ] = None,
    explain: Annotated[bool, Query(description="say of `start`, with one provider, why it is not free")] = False,
    start: Annotated[When | None, Query(description="the time to be explained")] = None,
    limit: Annotated[int, Query(ge=1, le=PROVIDERS, description="How many providers to look at in one page.")] = 20,
    cursor: Cursor = None,
    as_of: AsOf = None,
) -> Response:
    """Free times for a visit type, by the same rules that booking applies: a slot that is shown can be booked, as long
    as nobody is faster.

    Local days are read at each location. More than 10,000 free times are refused with `too_many_slots`: ask for fewer
    days. With `explain=true`, one `provider_id` and a `start`, the answer says which rules or which occupied times
    stand against it, without anybody's name.
    """
    asked.may("read_slots")
    if asked.actor.role is Role.PATIENT:
        patient_id = patient_id or asked.actor.patient_id
    await asked.reach(patient_id=patient_id)
    book = await asked.book(as_of, asked.library.free_time, *([asked.library.diary] if moving else []))
    if patient_id is not None:
        await asked.registered(patient_id, book)
        if patient_id != asked.actor.patient_id:
            asked.shows(Screen.FREE_TIMES, patient_id)
    if moving is not None:
        await asked.own(await book.appointment(moving), moving)
    resources = tuple(dict.fromkeys(resource_ids))
    wanted = Wanted(visit_type_id, location_id, mode, patient_id, resources, moving, asked)
    if explain:
        found = await _explain(book, wanted, provider_id, start)
        return asked.answer(Slots(slots=[], next=None, explanation=found), book.position)
    if start is not None:
        raise InvalidParameter("`start` goes with explain=true; `from` and `to` say where to look")
    within = _range(first, last, book.now)
    if provider_id:
        providers, following = await _named(book, dict.fromkeys(provider_id), visit_type_id), None
    else:
        providers, following = await _everybody(asked, as_of is not None, visit_type_id, limit, cursor)
    found_slots = await _free(book, wanted, providers, within)
    return asked.answer(Slots(slots=found_slots, next=following), book.position)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked for, whoever the provider is."""

    visit_type_id: UUID
    location_id: UUID | None
    mode: Mode | None
    patient_id: UUID | None
    resources: tuple[UUID, ...]
    moving: UUID | None
    asked: Asking

    def wish(self, provider: Provider, location: Location, start: datetime) -> Wish:
        """Raises `UnknownVisitType`."""
        return Wish(
            visit_type_id=self.visit_type_id,
            location_id=location.id,
            start=start,
            mode=self.mode or visit_type_of(provider, self.visit_type_id).modes[0],
            patient_id=self.patient_id,
            resources=self.resources,
            moving=self.moving,
            by_patient=self.asked.actor.role is Role.PATIENT,
        )

    def locations(self, provider: Provider) -> list[Location]:
        known = provider.locations
        if self.location_id is None:
            return list(known.values())
        return [known[self.location_id]] if self.location_id in known else []


def _range(first: date | datetime | None, last: date | datetime | None, now: datetime) -> Range:
    start = now if first is None else first
    end = start + timedelta(days=USUAL_DAYS) if last is None else last
    if isinstance(start, datetime) and isinstance(end, datetime):
        if end <= start:
            raise Invalid("`to` is after `from`")
        longest = end - start > timedelta(days=LONGEST_RANGE_DAYS)
    else:
        days = _day(end) - _day(start)
        if days < timedelta(0):
            raise Invalid("`to` is not before `from`")
        longest = days >= timedelta(days=LONGEST_RANGE_DAYS)
    if longest:
        raise Invalid(f"at most {LONGEST_RANGE_DAYS} days are looked at", longest_days=LONGEST_RANGE_DAYS)
    return Range(start, end)


def _day(one: date | datetime) -> date:
    return one.date() if isinstance(one, datetime) else one


async def _named(book: Book, provider_ids: Mapping[UUID, None], visit_type_id: UUID) -> list[Provider]:
    """Raises `Unknown` and `UnknownVisitType`."""
    known = await asyncio.gather(*(book.provider(key) for key in provider_ids))
    providers = []
    for key, kept in zip(provider_ids, known, strict=True):
        if kept is None:
            raise unknown(key)
        visit_type_of(kept.value, visit_type_id)
        providers.append(kept.value)
    return providers


async def _everybody(
    asked: Asking, past: bool, visit_type_id: UUID, limit: int, cursor: str | None
) -> tuple[list[Provider], str | None]:
    """Those of the organization's providers who offer the visit type, a page at a time."""
    if past:
        raise InvalidParameter("with as_of, name the providers by provider_id")
    library = asked.library
    listing = f"slots/{visit_type_id}"
    after = None
    if cursor is not None:
        after = UUID(library.cursors.read(listing, asked.organization, cursor)[0])
    found, last = await library.free_time.providers(asked.organization, after=after, limit=limit)
    following = None if last is None else library.cursors.make(listing, asked.organization, [last])
    return [kept.value for kept in found if visit_type_id in kept.value.visit_types], following


async def _free(book: Book, wanted: Wanted, providers: Sequence[Provider], within: Range) -> list[FreeSlot]:
    found: list[FreeSlot] = []
    # A provider has a diary for each location; the n-th locations of all are asked for together.
    rounds = [wanted.locations(provider) for provider in providers]
    if wanted.location_id is not None and not any(rounds):
        for provider in providers:
            location_of(provider, wanted.location_id)
    for number in range(max(map(len, rounds), default=0)):
        places = {
            provider.id: (provider, locations[number])
            for provider, locations in zip(providers, rounds, strict=True)
            if len(locations) > number
        }
        days = [within.days(location) for _, location in places.values()]
        first, last = min(one for one, _ in days), max(one for _, one in days)
        wishes = {key: wanted.wish(*place, start=book.now) for key, place in places.items()}
        diaries = await book.diaries(wishes, first, last)
        for key, diary in diaries.items():
            found += islice(_slots(diary, wishes[key], places[key][1], within), MOST_SLOTS + 1 - len(found))
            if len(found) > MOST_SLOTS:
                raise TooManySlots(
                    f"more than {MOST_SLOTS} times are free; look at fewer days or providers", most=MOST_SLOTS
                )
            # Many providers and days take a while to look through, and others wait for their turn.
            await asyncio.sleep(0)
    return sorted(found, key=lambda slot: (slot.start, slot.provider_id, slot.location_id))


def _slots(diary: Diary, wish: Wish, location: Location, within: Range) -> Iterator[FreeSlot]:
    return (
        FreeSlot(
            provider_id=diary.provider.id,
            location_id=slot.location_id,
            visit_type_id=slot.visit_type_id,
            start=slot.period.start,
            end=slot.period.end,
            time_zone=location.time_zone,
            mode=wish.mode,
            seats_left=slot.seats_left,
        )
        for slot in free_slots(diary, wish, *within.days(location))
        if within.holds(slot.period.start)
    )


async def _explain(book: Book, wanted: Wanted, provider_ids: Sequence[UUID], start: datetime | None) -> Explanation:
    if start is None or len(set(provider_ids)) != 1:
        raise InvalidParameter("explain=true needs one provider_id and a start")
    (provider,) = await _named(book, dict.fromkeys(provider_ids), wanted.visit_type_id)
    if wanted.location_id is not None:
        location = location_of(provider, wanted.location_id)
    elif len(provider.locations) == 1:
        (location,) = provider.locations.values()
    else:
        raise InvalidParameter("this provider has several locations: say which by location_id")
    wish = wanted.wish(provider, location, start)
    against = list(refusals(await book.diary_at(provider.id, wish), wish))
    return Explanation(
        provider_id=provider.id,
        location_id=location.id,
        visit_type_id=wanted.visit_type_id,
        start=start,
        free=not against,
        objections=[
            Objection(
                code=one.code,
                message=one.message,
                overridable=getattr(one, "overridable", False),
                details=one.details,
            )
            for one in against
        ],
    )
