"""A plain clinic to tell stories about: one provider, a room, some patients, weekday hours, and short ways to ask.

Monday is 2 March 2026 in Berlin (UTC+1), four weeks before its clocks change; the clock stands at that Monday's 07:00
UTC, an hour before the doors open.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from uuid import UUID

from domain import appointment, availability, series, slots
from domain.appointment import (
    AppointmentBooked,
    CancellationReason,
    MoveReason,
    Override,
    Party,
    Request,
)
from domain.availability import BlockReason
from domain.events import Event
from domain.provider import (
    BookingRules,
    BookingRulesSet,
    HoursExceptionSet,
    Location,
    LocationSet,
    Mode,
    Money,
    ProviderRegistered,
    ResourceKind,
    TimeOffPlanned,
    TimeOffReason,
    VisitType,
    VisitTypeSet,
    WallInterval,
    WeeklyHours,
    WeeklyHoursPublished,
)
from domain.resource import ResourceRegistered
from domain.series import Recurrence
from domain.slots import OverrideReason, Wish
from domain.time import Period, instant_of, zone
from tests.given import Book, Decision, Given, given


def uid(number: int) -> UUID:
    return UUID(int=number)


DOCTOR, COLLEAGUE = uid(0xD0C), uid(0xD0D)
CLINIC, BRANCH = uid(0xC11), uid(0xC12)
ANNA, BEN, CARL, DORA = uid(0xA), uid(0xB), uid(0xC), uid(0xD)
ROOM, OTHER_ROOM, SCANNER = uid(0x100), uid(0x101), uid(0x102)
CHECKUP, LONG, BUFFERED, GROUP, SCAN, REQUESTABLE, CLINIC_ONLY, REMOTE = (uid(0x200 + number) for number in range(8))
FIRST, SECOND, THIRD, FOURTH = (uid(0x300 + number) for number in range(1, 5))
BLOCK, SERIES, TIME_OFF = uid(0x400), uid(0x500), uid(0x600)

MONDAY = date(2026, 3, 2)
NOW = datetime(2026, 3, 2, 7, 0, tzinfo=UTC)
TICK = timedelta(microseconds=1)
BERLIN = "Europe/Berlin"


def wall(text: str) -> time:
    return time.fromisoformat(text)


def hours(*spans: str) -> tuple[WallInterval, ...]:
    """`hours("09:00-12:00", "13:00-17:00")`"""
    return tuple(WallInterval(start=wall(span.split("-")[0]), end=wall(span.split("-")[1])) for span in spans)


def every_day(*spans: str) -> WeeklyHours:
    days = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
    return WeeklyHours(**{day: hours(*spans) for day in days})


def at(clock: str, day: date = MONDAY, place: str = BERLIN) -> datetime:
    """The instant of a wall time, as the design's rules read it."""
    return instant_of(day, wall(clock), zone(place))


def span(start: str, end: str, day: date = MONDAY, place: str = BERLIN) -> Period:
    return Period(at(start, day, place), at(end, day, place))


VISIT_TYPES = (
    VisitType(id=CHECKUP, name="check-up", duration_minutes=30, modes=(Mode.IN_PERSON, Mode.TELEMEDICINE)),
    VisitType(
        id=LONG,
        name="first visit",
        duration_minutes=60,
        fee=Money.model_validate({"amount": "80.00", "currency": "EUR"}),
    ),
    VisitType(
        id=BUFFERED, name="minor surgery", duration_minutes=30, buffer_before_minutes=15, buffer_after_minutes=30
    ),
    VisitType(id=GROUP, name="back school", duration_minutes=60, seats=3),
    VisitType(id=SCAN, name="scan", duration_minutes=30, needs=(ResourceKind.ROOM, ResourceKind.DEVICE)),
    VisitType(id=REQUESTABLE, name="second opinion", duration_minutes=30, approval_needed=True),
    VisitType(id=CLINIC_ONLY, name="infusion", duration_minutes=30, self_bookable=False),
    VisitType(id=REMOTE, name="video visit", duration_minutes=30, modes=(Mode.TELEMEDICINE,)),
)


def clinic(
    *,
    place: str = BERLIN,
    weekly: WeeklyHours | None = None,
    rules: BookingRules | None = None,
    visit_types: Sequence[VisitType] = VISIT_TYPES,
    provider_id: UUID = DOCTOR,
) -> list[Event]:
    """The events that set the clinic up: hours are 09:00 to 17:00 every day unless told otherwise."""
    return [
        ProviderRegistered(provider_id=provider_id, name="Dr. Example"),
        LocationSet(provider_id=provider_id, location=Location(id=CLINIC, name="Clinic", time_zone=place)),
        *(VisitTypeSet(provider_id=provider_id, visit_type=one) for one in visit_types),
        WeeklyHoursPublished(
            provider_id=provider_id,
            location_id=CLINIC,
            valid_from=date(2000, 1, 1),
            hours=weekly or every_day("09:00-17:00"),
        ),
        BookingRulesSet(provider_id=provider_id, rules=rules or BookingRules()),
    ]


def rooms() -> list[Event]:
    return [
        ResourceRegistered(resource_id=ROOM, kind=ResourceKind.ROOM, name="Room 1"),
        ResourceRegistered(resource_id=OTHER_ROOM, kind=ResourceKind.ROOM, name="Room 2"),
        ResourceRegistered(resource_id=SCANNER, kind=ResourceKind.DEVICE, name="Scanner"),
    ]


def a_clinic(*happened: object, now: datetime = NOW, **setup: Any) -> Given:
    """Given the clinic, its rooms and whatever else happened, decisions among it: each is asked as the book stands."""
    told = given(clinic(**setup), rooms(), now=now)
    for part in happened:
        told.book.apply(part(told.book) if callable(part) else part)
    return told


def wish(start: datetime, **asked: Any) -> Wish:
    told: dict[str, Any] = {"visit_type_id": CHECKUP, "location_id": CLINIC, "start": start, "patient_id": ANNA}
    return Wish(**(told | asked))


def asking(appointment_id: UUID = FIRST, patient_id: UUID = ANNA, by: Party = Party.PATIENT, **more: Any) -> Request:
    return Request(appointment_id=appointment_id, patient_id=patient_id, by=by, **more)


def setting_aside(*rules: str, reason: OverrideReason = OverrideReason.URGENT_NEED) -> Override:
    return Override(rules=rules, reason=reason)


def hold(start: datetime, patient_id: UUID = ANNA, as_: UUID = FIRST, **asked: Any) -> Decision:
    return _arrange(appointment.hold, start, patient_id, as_, **asked)


def book(start: datetime, patient_id: UUID = ANNA, as_: UUID = FIRST, **asked: Any) -> Decision:
    """`by`, `override`, `reason` and `video_url` belong to the request, `provider_id` to the diary, the rest to the
    wish."""
    return _arrange(appointment.book, start, patient_id, as_, **asked)


def _arrange(decide: Any, start: datetime, patient_id: UUID, as_: UUID, **asked: Any) -> Decision:
    provider_id = asked.pop("provider_id", DOCTOR)
    request = asking(
        as_,
        patient_id,
        **{name: asked.pop(name) for name in ("by", "override", "reason", "video_url") if name in asked},
    )
    wanted = wish(start, patient_id=patient_id, by_patient=request.by is Party.PATIENT, **asked)
    return lambda seen: decide(seen.diary(provider_id, wanted), wanted, request)


def book_held(as_: UUID = FIRST, by: Party = Party.PATIENT, approval_needed: bool = False) -> Decision:
    def decide(seen: Book) -> object:
        state = seen.appointment(as_)
        diary = slots.Diary(seen.provider(state.provider_id), seen.shelf(state.pages()), seen.now)
        return appointment.book_held(state, by, approval_needed, seen.now, diary)

    return decide


def move(
    start: datetime,
    as_: UUID = FIRST,
    by: Party = Party.PATIENT,
    override: Override | None = None,
    provider_id: UUID | None = None,
    video_url: str | None = None,
    **asked: Any,
) -> Decision:
    def decide(seen: Book) -> object:
        state = seen.appointment(as_)
        target = provider_id or state.provider_id
        wanted = wish(
            start,
            **{
                "visit_type_id": state.visit_type_id,
                "location_id": state.location_id,
                "mode": state.mode,
                "resources": state.resources,
                "patient_id": state.patient_id,
                "moving": state.id,
                "by_patient": by is Party.PATIENT,
            }
            | asked,
        )
        return appointment.move(
            state,
            seen.diary(target, wanted),
            wanted,
            by=by,
            reason=MoveReason.PATIENT_REQUEST,
            notice_minutes=seen.provider(state.provider_id).rules.move_notice_minutes,
            override=override,
            video_url=video_url,
        )

    return decide


def cancel(
    as_: UUID = FIRST, by: Party = Party.PATIENT, override: Override | None = None, note: str | None = None
) -> Decision:
    def decide(seen: Book) -> object:
        state = seen.appointment(as_)
        return appointment.cancel(
            state,
            by=by,
            reason=CancellationReason.PATIENT_REQUEST,
            notice_minutes=seen.provider(state.provider_id).rules.cancel_notice_minutes,
            now=seen.now,
            note=note,
            override=override,
        )

    return decide


def lapse(as_: UUID = FIRST) -> Decision:
    return lambda seen: appointment.lapse(seen.appointment(as_), seen.now)


def block(period: Period, *, over_visits: bool = False, resource_id: UUID = DOCTOR, block_id: UUID = BLOCK) -> Decision:
    return lambda seen: list(
        availability.block(
            seen.shelf_over(resource_id, period),
            resource_id,
            period,
            block_id=block_id,
            reason=BlockReason.MEETING,
            over_visits=over_visits,
            now=seen.now,
        )
    )


def unblock(around: Period, *, resource_id: UUID = DOCTOR, block_id: UUID = BLOCK) -> Decision:
    return lambda seen: list(availability.unblock(seen.shelf_over(resource_id, around), resource_id, block_id, around))


def book_series(start: datetime, recurrence: Recurrence, by: Party = Party.PATIENT, **asked: Any) -> Decision:
    def decide(seen: Book) -> object:
        asked_first = wish(start, **asked)
        wishes = series.wishes(seen.provider(DOCTOR), asked_first, recurrence)
        requests = [asking(uid(0x700 + number), by=by, series_id=SERIES) for number in range(len(wishes))]
        diary = seen.diary_for(DOCTOR, wishes)

        try:
            return series.book(diary, wishes, requests, recurrence, SERIES)
        except series.SeriesClashes as refusal:
            days = [day for one in wishes for day in slots.days_around(diary.provider, one, seen.now)]
            around = seen.diary_between(DOCTOR, asked_first, min(days), max(days))
            for _ in series.offer(around, wishes, refusal.clashes):
                pass
            raise

    return decide


def away(period: Period) -> TimeOffPlanned:
    return TimeOffPlanned(provider_id=DOCTOR, time_off_id=TIME_OFF, period=period, reason=TimeOffReason.VACATION)


def open_on(day: date, *spans: str) -> HoursExceptionSet:
    return HoursExceptionSet(provider_id=DOCTOR, location_id=CLINIC, day=day, hours=hours(*spans))


def free(book_: Book, asked: Wish, first: date = MONDAY, last: date = MONDAY) -> list[datetime]:
    """The starts of the free slots."""
    diary = book_.diary_between(DOCTOR, asked, first, last)
    return [slot.period.start for slot in slots.free_slots(diary, asked, first, last)]


def booked_of(events: Sequence[Event]) -> AppointmentBooked:
    return next(event for event in events if isinstance(event, AppointmentBooked))
