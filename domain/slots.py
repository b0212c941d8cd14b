"""Which times can be booked, and why the others can't.

One list of rules serves three askers: a booking raises the first rule that stands against it, a free slot is a time
that none stands against, and `explain` names them all. So a slot that is shown can be booked, as long as nobody was
faster.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from enum import StrEnum
from uuid import UUID, uuid5

from domain.availability import Entry, PageId, Shelf, SortedShelf, in_the_way, places
from domain.provider import (
    Location,
    Mode,
    Opening,
    Provider,
    VisitType,
    away,
    horizon,
    location_of,
    opening,
    visit_type_of,
)
from domain.refusals import Refusal, Unknown
from domain.resource import Resource
from domain.time import DAY, MINUTE, Period, day_bounds, is_skipped, local_day, week_bounds, zone

# How far a search for alternatives looks, in local days from the day that was wanted.
ALTERNATIVE_DAYS = 14
ALTERNATIVES = 3
LONGEST_RANGE_DAYS = 62

_SESSIONS = UUID("7d2c9a4e-3c1b-5f0a-9b0e-5a1f2c3d4e5f")


class BookingRefused(Refusal):
    """A rule stands against this time. Staff may set an `overridable` one aside, with a coded reason."""

    overridable = True


class InThePast(BookingRefused):
    code = "in_the_past"


class TooSoon(BookingRefused):
    code = "too_soon"


class BeyondHorizon(BookingRefused):
    code = "beyond_horizon"


class OutsideOpeningHours(BookingRefused):
    code = "outside_opening_hours"


class PublicHoliday(BookingRefused):
    code = "public_holiday"


class ProviderAway(BookingRefused):
    code = "provider_away"


class OffSlotStep(BookingRefused):
    code = "off_slot_step"


class DayCapReached(BookingRefused):
    code = "day_cap_reached"


class WeekCapReached(BookingRefused):
    code = "week_cap_reached"


class NotSelfBookable(BookingRefused):
    code = "not_self_bookable"


class ModeNotOffered(BookingRefused):
    code = "mode_not_offered"
    overridable = False


class ResourceMissing(BookingRefused):
    """The visit type needs a kind of resource that the request does not name."""

    code = "resource_missing"
    overridable = False


class ResourceRetired(BookingRefused):
    code = "resource_retired"
    overridable = False


class LostTime(BookingRefused):
    """Something occupies the time. The answer carries periods, never another patient.

    Overridable only where the provider's overbooking allowance still has room."""

    overridable = False

    def __init__(self, message: str, occupied: Sequence[Period] = (), *, overridable: bool = False) -> None:
        super().__init__(message, occupied=[{"start": one.start, "end": one.end} for one in occupied])
        self.overridable = overridable


class SlotTaken(LostTime):
    code = "slot_taken"


class SessionFull(LostTime):
    code = "session_full"


class TimeIsBlocked(LostTime):
    code = "time_blocked"


class PatientBusy(LostTime):
    """The patient has another visit then."""

    code = "patient_busy"


class ResourceBusy(LostTime):
    code = "resource_busy"


class OverrideReason(StrEnum):
    """Why staff set a rule aside."""

    URGENT_NEED = "urgent_need"
    PATIENT_REQUEST = "patient_request"
    PROVIDER_AGREED = "provider_agreed"
    RECORDED_AFTERWARDS = "recorded_afterwards"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Wish:
    """A time that somebody wants. `moving` is the appointment that would leave its old time for it."""

    visit_type_id: UUID
    location_id: UUID
    start: datetime
    mode: Mode = Mode.IN_PERSON
    patient_id: UUID | None = None
    resources: tuple[UUID, ...] = ()
    moving: UUID | None = None
    by_patient: bool = False


@dataclass(frozen=True, slots=True)
class Diary:
    """Everything that a question about one provider's time looks at, read at one moment. `now` is UTC."""

    provider: Provider
    shelf: Shelf
    now: datetime
    resources: Mapping[UUID, Resource] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Slot:
    """A free time: the visit's own period, without buffers. `seats_left` counts a group visit's free places."""

    period: Period
    location_id: UUID
    visit_type_id: UUID
    seats_left: int = 1


def session_of(
    provider_id: UUID, location_id: UUID, visit_type: VisitType, start: datetime, appointment_id: UUID
) -> UUID:
    """A group visit's session is known by provider, place, visit type and start, so that everybody finds the same."""
    if visit_type.seats == 1:
        return appointment_id
    return uuid5(_SESSIONS, f"{provider_id}/{location_id}/{visit_type.id}/{start.isoformat()}")


def pages_for(provider: Provider, wish: Wish) -> Sequence[PageId]:
    """The pages that decide about one wish: those it would occupy, and those that its caps count."""
    visit_type = visit_type_of(provider, wish.visit_type_id)
    occupied = visit_type.occupied(wish.start)
    pages = [(resource, day) for resource in (provider.id, *wish.resources) for day in occupied.utc_days()]
    if wish.patient_id is not None:
        pages += [(wish.patient_id, day) for day in visit_type.visit(wish.start).utc_days()]
    place = zone(location_of(provider, wish.location_id).time_zone)
    pages += _cap_pages(provider, local_day(wish.start, place), wish.location_id)
    return list(dict.fromkeys(pages))


def pages_between(provider: Provider, wish: Wish, first: date, last: date) -> Sequence[PageId]:
    """The pages that decide about every start on the local days from `first` to `last`."""
    visit_type = visit_type_of(provider, wish.visit_type_id)
    place = zone(location_of(provider, wish.location_id).time_zone)
    # A day's hours may run past midnight, and a visit past the hours that it started in.
    span = Period(day_bounds(first, place).start, day_bounds(last + DAY, place).end).widened(
        visit_type.buffer_before_minutes * MINUTE,
        (visit_type.duration_minutes + visit_type.buffer_after_minutes) * MINUTE,
    )
    days = list(span.utc_days())
    owners = [provider.id, *wish.resources, *([wish.patient_id] if wish.patient_id else [])]
    pages = [(owner, day) for owner in owners for day in days]
    for day in days_between(first, last + DAY):
        pages += _cap_pages(provider, day, wish.location_id)
    return list(dict.fromkeys(pages))


def _cap_pages(provider: Provider, day: date, location_id: UUID) -> Iterator[PageId]:
    place = zone(location_of(provider, location_id).time_zone)
    if provider.rules.cap_per_week is not None:
        counted = week_bounds(day, place)
    elif provider.rules.cap_per_day is not None:
        counted = day_bounds(day, place)
    else:
        return
    for utc_day in counted.utc_days():
        yield provider.id, utc_day


def refusals(diary: Diary, wish: Wish) -> Iterator[Refusal]:
    """Every rule that stands against a wish, the plainest first; none means that it can be booked.

    Raises `UnknownVisitType`, `UnknownLocation`, and `Unknown` for a resource that is none.
    """
    yield from _refusals(diary, wish, None)


def _refusals(
    diary: Diary, wish: Wish, hours: Sequence[Opening] | None, count: Callable[[Period], int] | None = None
) -> Iterator[BookingRefused]:
    provider = diary.provider
    visit_type = visit_type_of(provider, wish.visit_type_id)
    location = location_of(provider, wish.location_id)
    visit, occupied = visit_type.visit(wish.start), visit_type.occupied(wish.start)
    yield from _request(diary, wish, visit_type)
    yield from _notice(diary, visit)
    yield from _hours(provider, location, visit, _openings(provider, location, visit) if hours is None else hours)
    yield from _caps(diary, location, visit, count or (lambda counted: _booked_in(diary, counted, wish.moving)))
    yield from _conflicts(diary, wish, visit_type, visit, occupied)


def _request(diary: Diary, wish: Wish, visit_type: VisitType) -> Iterator[BookingRefused]:
    if wish.mode not in visit_type.modes:
        yield ModeNotOffered(
            "this visit type is not offered this way", offered=[mode.value for mode in visit_type.modes]
        )
    if wish.by_patient and not visit_type.self_bookable:
        yield NotSelfBookable("this visit type is booked by the clinic; please call")
    if visit_type.needs or wish.resources:
        named = {key: resource_of(diary, key) for key in wish.resources}
        missing = Counter(visit_type.needs) - Counter(resource.kind for resource in named.values())
        for kind in missing:
            yield ResourceMissing(f"this visit type needs a {kind.value}; name one in `resources`", kind=kind.value)
        for key, resource in named.items():
            if resource.retired:
                yield ResourceRetired("this resource is no longer in use", resource_id=str(key))


def resource_of(diary: Diary, resource_id: UUID) -> Resource:
    """Only rooms and devices are taken along: any other id would fill a page that is not theirs to fill."""
    try:
        return diary.resources[resource_id]
    except KeyError:
        raise Unknown("unknown id", id=str(resource_id)) from None


def _notice(diary: Diary, visit: Period) -> Iterator[BookingRefused]:
    rules, now = diary.provider.rules, diary.now
    if visit.start < now:
        yield InThePast("this time is past")
    elif visit.start < now + rules.minimum_notice_minutes * MINUTE:
        earliest = now + rules.minimum_notice_minutes * MINUTE
        yield TooSoon(f"{rules.minimum_notice_minutes} minutes of notice are needed", earliest=earliest)
    if visit.start > horizon(diary.provider, now):
        yield BeyondHorizon(f"bookings open {rules.horizon_days} days ahead", latest=horizon(diary.provider, now))


def _openings(provider: Provider, location: Location, visit: Period) -> Sequence[Opening]:
    """The hours that could hold a visit: of its local day, and of the day before, which may run past midnight."""
    place = zone(location.time_zone)
    day = local_day(visit.start, place)
    before = day - DAY
    while is_skipped(before, place):
        before -= DAY
    return [opening(provider, location, day), opening(provider, location, before)]


def _hours(
    provider: Provider, location: Location, visit: Period, openings: Sequence[Opening]
) -> Iterator[BookingRefused]:
    around = [one for hours in openings for one in hours.periods if one.contains(visit)]
    step = provider.rules.slot_step_minutes * MINUTE
    if not around:
        if openings[0].closed_because == "public_holiday":
            name = provider.holidays.get((location.id, openings[0].day), "")
            yield PublicHoliday(f"closed for a public holiday: {name}", holiday=name)
        else:
            yield OutsideOpeningHours(
                "outside opening hours",
                open=[{"start": one.start, "end": one.end} for one in openings[0].periods],
                because=openings[0].closed_because,
            )
    elif all((visit.start - one.start) % step for one in around):
        yield OffSlotStep(
            f"visits start every {provider.rules.slot_step_minutes} minutes from the opening on",
            step_minutes=provider.rules.slot_step_minutes,
            opening=around[0].start,
        )
    if (absence := away(provider, visit)) is not None:
        yield ProviderAway("the provider is away", until=absence[0].end)


def _caps(diary: Diary, location: Location, visit: Period, count: Callable[[Period], int]) -> Iterator[BookingRefused]:
    rules = diary.provider.rules
    if rules.cap_per_day is None and rules.cap_per_week is None:
        return
    place = zone(location.time_zone)
    day = local_day(visit.start, place)
    if rules.cap_per_day is not None and count(day_bounds(day, place)) >= rules.cap_per_day:
        yield DayCapReached(f"at most {rules.cap_per_day} visits a day", day=day)
    if rules.cap_per_week is not None and count(week_bounds(day, place)) >= rules.cap_per_week:
        yield WeekCapReached(f"at most {rules.cap_per_week} visits a week", day=day)


def _booked_in(diary: Diary, counted: Period, moving: UUID | None) -> int:
    return sum(
        1
        for entry in diary.shelf.entries(diary.provider.id, counted)
        if entry.block is None
        and entry.id != moving
        and entry.live(diary.now)
        and counted.start <= entry.visit.start < counted.end
    )


def _conflicts(
    diary: Diary, wish: Wish, visit_type: VisitType, visit: Period, occupied: Period
) -> Iterator[BookingRefused]:
    alone = visit_type.seats == 1
    return conflicts(
        diary,
        visit=visit,
        occupied=occupied,
        session_id=None
        if alone
        else session_of(diary.provider.id, wish.location_id, visit_type, wish.start, diary.provider.id),
        seats=visit_type.seats,
        resources=wish.resources,
        patient_id=wish.patient_id,
        ignoring=wish.moving,
    )


def conflicts(
    diary: Diary,
    *,
    visit: Period,
    occupied: Period,
    session_id: UUID | None,
    seats: int,
    resources: Sequence[UUID],
    patient_id: UUID | None,
    ignoring: UUID | None,
) -> Iterator[LostTime]:
    """What occupies the time of the provider, of the resources, or of the patient. `session_id` is a group visit's.

    A provider's time that is taken, but not beyond the overbooking allowance, is one that staff may override."""
    provider, shelf, now = diary.provider, diary.shelf, diary.now

    def stands_with(allowance: int) -> Sequence[Entry]:
        return in_the_way(
            shelf,
            provider.id,
            occupied,
            now=now,
            session_id=session_id,
            seats=seats,
            allowance=allowance,
            ignoring=ignoring,
        )

    if stands := stands_with(0):
        allowance = provider.rules.overbooking_allowance
        yield _lost(stands, session_id, overridable=allowance > 0 and not stands_with(allowance))
    for key in resources:
        if entries := in_the_way(shelf, key, occupied, now=now, session_id=session_id, seats=seats, ignoring=ignoring):
            yield ResourceBusy("a room or device is in use then", _periods(entries))
    if patient_id is not None and (entries := in_the_way(shelf, patient_id, visit, now=now, ignoring=ignoring)):
        yield PatientBusy("the patient has another visit then", _periods(entries))


def _lost(stands: Sequence[Entry], session: UUID | None, *, overridable: bool) -> LostTime:
    if stands[0].block is not None:
        return TimeIsBlocked("this time is not open for visits", _periods(stands))
    if session is not None and all(entry.session_id == session for entry in stands):
        return SessionFull("every place of this group visit is taken", _periods(stands))
    return SlotTaken("this time is taken", _periods(stands), overridable=overridable)


def _periods(entries: Sequence[Entry]) -> Sequence[Period]:
    return sorted({entry.occupied for entry in entries})


def starts(provider: Provider, location: Location, day: date) -> Iterator[tuple[Opening, datetime]]:
    """Every instant of a local day at which a visit may start by the step alone."""
    hours = opening(provider, location, day)
    step = provider.rules.slot_step_minutes * MINUTE
    for period in hours.periods:
        at = period.start
        while at < period.end:
            yield hours, at
            at += step


def days_between(first: date, last: date) -> Iterator[date]:
    """Both included."""
    for offset in range((last - first).days + 1):
        yield first + offset * DAY


def free_slots(diary: Diary, wish: Wish, first: date, last: date) -> Iterator[Slot]:
    """The free times that start in hours of the local days from `first` to `last`, in order.

    `wish.start` is not looked at. The diary must hold `pages_between` the days.
    """
    open_at = _open_at(diary.provider, wish, first, last)
    free_at = _asker(diary, wish)
    for at in sorted(open_at):
        if (slot := free_at(at, open_at[at])) is not None:
            yield slot


def _open_at(provider: Provider, wish: Wish, first: date, last: date) -> Mapping[datetime, Sequence[Opening]]:
    """Every start on the grid of the days, with the hours that name it."""
    location = location_of(provider, wish.location_id)
    # Hours that run past midnight may reach into the next day's, and both may name a time.
    open_at: dict[datetime, list[Opening]] = {}
    for day in days_between(first, last):
        for hours, at in starts(provider, location, day):
            open_at.setdefault(at, []).append(hours)
    return open_at


def _asker(diary: Diary, wish: Wish) -> Callable[[datetime, Sequence[Opening]], Slot | None]:
    """Asks about one start after another. Pages are sorted and days counted once for all."""
    visit_type = visit_type_of(diary.provider, wish.visit_type_id)
    diary = replace(diary, shelf=SortedShelf(diary.shelf))
    counted: dict[Period, int] = {}

    def count(period: Period) -> int:
        if period not in counted:
            counted[period] = _booked_in(diary, period, wish.moving)
        return counted[period]

    def free_at(at: datetime, hours: Sequence[Opening]) -> Slot | None:
        if next(_refusals(diary, replace(wish, start=at), hours, count), None) is not None:
            return None
        left = _seats_left(diary, wish.location_id, visit_type, at)
        return Slot(visit_type.visit(at), wish.location_id, wish.visit_type_id, left)

    return free_at


def _seats_left(diary: Diary, location_id: UUID, visit_type: VisitType, start: datetime) -> int:
    if visit_type.seats == 1:
        return 1
    session = session_of(diary.provider.id, location_id, visit_type, start, diary.provider.id)
    entries = diary.shelf.entries(diary.provider.id, visit_type.occupied(start))
    mates = [entry for entry in entries if entry.session_id == session and entry.live(diary.now)]
    return places(mates, visit_type.seats) - len(mates)


def days_around(provider: Provider, wish: Wish, now: datetime) -> tuple[date, date]:
    """The local days in which alternatives to a wish are looked for: its own, and those that follow."""
    place = zone(location_of(provider, wish.location_id).time_zone)
    first = max(local_day(wish.start, place), local_day(now, place))
    return first, first + timedelta(days=ALTERNATIVE_DAYS)


def nearest(diary: Diary, wish: Wish, *, wanted: int = ALTERNATIVES, but: Collection[datetime] = ()) -> Sequence[Slot]:
    """The free times nearest to the wished one, in time order. The diary must hold `pages_between(*days_around)`.

    `but` are starts that the same asker wants besides: what would overlap a visit then is left out.
    """
    visit_type = visit_type_of(diary.provider, wish.visit_type_id)
    besides = [visit_type.occupied(start) for start in but if start != wish.start]
    first, last = days_around(diary.provider, wish, diary.now)
    free_at = _asker(diary, wish)
    found: dict[datetime, Slot] = {}
    # What is nearest is near: the days after the next two are gone through only where these hold too little.
    near = min(first + 2 * DAY, last)
    for since, until in ((first, near), (near + DAY, last)):
        open_at = _open_at(diary.provider, wish, since, until)
        for at in sorted(open_at, key=lambda at: (abs(at - wish.start), at)):
            if len(found) == wanted:
                break
            occupied = visit_type.occupied(at)
            if at in found or at in but or any(other.overlaps(occupied) for other in besides):
                continue
            if (slot := free_at(at, open_at[at])) is not None:
                found[at] = slot
    return [found[at] for at in sorted(found)]
