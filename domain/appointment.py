"""A patient's appointment: what can happen to it, and when it may.

In: decisions asked for by commands, with the provider's diary as it was read. Out: changes, each an event and the
stream that it belongs to: the appointment's own event and one on every page that gains or loses time, saved together or
not at all. Nothing is read or written here.

FHIR R4 words: held is `pending`, requested `proposed`, checked in `checked-in`, in progress and completed
`fulfilled`, entered in error `entered-in-error`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, ClassVar
from uuid import UUID

from pydantic import Field

from domain import availability
from domain.availability import ReleaseReason
from domain.events import ERASED, Erased, Event, Personal
from domain.provider import Mode, Money, Value, visit_type_of
from domain.refusals import Refusal
from domain.slots import (
    BookingRefused,
    Diary,
    NotSelfBookable,
    OverrideReason,
    Wish,
    conflicts,
    refusals,
    session_of,
)
from domain.time import DAY, MINUTE, Instant, Period

Change = tuple[str, Event]


class Status(StrEnum):
    HELD = "held"
    REQUESTED = "requested"
    BOOKED = "booked"
    CHECKED_IN = "checked_in"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    NO_SHOW = "no_show"
    CANCELLED = "cancelled"
    DECLINED = "declined"
    LAPSED = "lapsed"
    ENTERED_IN_ERROR = "entered_in_error"


FHIR_STATUS = {
    Status.HELD: "pending",
    Status.REQUESTED: "proposed",
    Status.BOOKED: "booked",
    Status.CHECKED_IN: "checked-in",
    Status.IN_PROGRESS: "fulfilled",
    Status.COMPLETED: "fulfilled",
    Status.NO_SHOW: "noshow",
    Status.CANCELLED: "cancelled",
    Status.DECLINED: "cancelled",
    Status.LAPSED: "cancelled",
    Status.ENTERED_IN_ERROR: "entered-in-error",
}

# In these the appointment has given its time back.
RELEASED = frozenset({Status.CANCELLED, Status.DECLINED, Status.LAPSED, Status.ENTERED_IN_ERROR})


class Party(StrEnum):
    PATIENT = "patient"
    PROVIDER = "provider"
    FRONT_DESK = "front_desk"
    SYSTEM = "system"


class CancellationReason(StrEnum):
    PATIENT_REQUEST = "patient_request"
    PATIENT_ILL = "patient_ill"
    PROVIDER_UNAVAILABLE = "provider_unavailable"
    CLINIC_CLOSED = "clinic_closed"
    DUPLICATE = "duplicate"
    OTHER = "other"


class DeclineReason(StrEnum):
    NOT_SUITABLE = "not_suitable"
    NO_CAPACITY = "no_capacity"
    MORE_INFORMATION_NEEDED = "more_information_needed"
    OTHER = "other"


class MoveReason(StrEnum):
    PATIENT_REQUEST = "patient_request"
    PROVIDER_UNAVAILABLE = "provider_unavailable"
    CLINIC_CLOSED = "clinic_closed"
    OTHER = "other"


class Outcome(StrEnum):
    DONE = "done"
    FOLLOW_UP = "follow_up"
    REFERRED = "referred"
    LEFT_BEFORE_SEEN = "left_before_seen"


class OverridableRule(StrEnum):
    """The codes of the rules that yield to staff. `slot_taken` yields within the overbooking allowance alone."""

    IN_THE_PAST = "in_the_past"
    TOO_SOON = "too_soon"
    BEYOND_HORIZON = "beyond_horizon"
    OUTSIDE_OPENING_HOURS = "outside_opening_hours"
    PUBLIC_HOLIDAY = "public_holiday"
    PROVIDER_AWAY = "provider_away"
    OFF_SLOT_STEP = "off_slot_step"
    DAY_CAP_REACHED = "day_cap_reached"
    WEEK_CAP_REACHED = "week_cap_reached"
    NOT_SELF_BOOKABLE = "not_self_bookable"
    TOO_LATE_TO_CANCEL = "too_late_to_cancel"
    TOO_LATE_TO_MOVE = "too_late_to_move"
    SLOT_TAKEN = "slot_taken"


class Override(Value):
    """Rules that staff ask to set aside, by their codes, and why."""

    rules: Annotated[tuple[OverridableRule, ...], Field(min_length=1, max_length=12)]
    reason: OverrideReason


# Events


class AppointmentEvent(Event):
    PERSON: ClassVar[str] = "patient_id"
    appointment_id: UUID
    patient_id: UUID
    provider_id: UUID


class Visit(AppointmentEvent):
    """Where, when and how a visit is to be, all of it. `occupied` is the visit with its buffers, on the provider's and
    the resources' pages; the patient's page gets the visit alone."""

    location_id: UUID
    visit_type_id: UUID
    mode: Mode
    period: Period
    occupied: Period
    time_zone: str
    session_id: UUID
    seats: int = 1
    resources: tuple[UUID, ...] = ()
    fee: Money | None = None
    by: Party
    override: Override | None = None
    video_url: Personal[str] | None = None


class Arranged(Visit):
    """What is said of a visit when it is held, requested or booked."""

    series_id: UUID | None = None
    reason: Personal[str] | None = None


class AppointmentHeld(Arranged):
    NAME: ClassVar[str] = "AppointmentHeld.v1"
    held_until: Instant


class AppointmentRequested(Arranged):
    """A patient asked for a visit that the clinic approves first. It holds its time until it is answered."""

    NAME: ClassVar[str] = "AppointmentRequested.v1"


class AppointmentBooked(Arranged):
    """Firm, at once or after a hold or a request; complete in itself either way."""

    NAME: ClassVar[str] = "AppointmentBooked.v1"


class AppointmentDeclined(AppointmentEvent):
    NAME: ClassVar[str] = "AppointmentDeclined.v1"
    reason: DeclineReason
    by: Party


class HoldLapsed(AppointmentEvent):
    """Written after the fact, so that others hear of it: the hold had ended by the clock."""

    NAME: ClassVar[str] = "HoldLapsed.v1"
    held_until: Instant


class AppointmentRescheduled(Visit):
    NAME: ClassVar[str] = "AppointmentRescheduled.v1"
    previous: Period
    previous_provider_id: UUID
    reason: MoveReason


class AppointmentCancelled(AppointmentEvent):
    NAME: ClassVar[str] = "AppointmentCancelled.v1"
    reason: CancellationReason
    by: Party
    note: Personal[str] | None = None
    override: Override | None = None


class PatientCheckedIn(AppointmentEvent):
    NAME: ClassVar[str] = "PatientCheckedIn.v1"


class VisitStarted(AppointmentEvent):
    NAME: ClassVar[str] = "VisitStarted.v1"


class VisitCompleted(AppointmentEvent):
    NAME: ClassVar[str] = "VisitCompleted.v1"
    outcome: Outcome
    note: Personal[str] | None = None


class PatientDidNotCome(AppointmentEvent):
    NAME: ClassVar[str] = "PatientDidNotCome.v1"


class AppointmentEnteredInError(AppointmentEvent):
    NAME: ClassVar[str] = "AppointmentEnteredInError.v1"
    by: Party


# State


@dataclass(frozen=True, slots=True)
class Appointment:
    id: UUID
    status: Status
    patient_id: UUID
    provider_id: UUID
    location_id: UUID
    visit_type_id: UUID
    mode: Mode
    period: Period
    occupied: Period
    time_zone: str
    session_id: UUID
    seats: int
    resources: tuple[UUID, ...]
    fee: Money | None
    series_id: UUID | None
    held_until: datetime | None
    video_url: str | Erased | None
    arranged: Arranged

    def occupies(self) -> Iterator[tuple[UUID, Period]]:
        """Whose pages the visit stands on, and how long it takes there."""
        yield self.provider_id, self.occupied
        for resource in self.resources:
            yield resource, self.occupied
        yield self.patient_id, self.period

    def pages(self) -> list[availability.PageId]:
        return [(owner, day) for owner, period in self.occupies() for day in period.utc_days()]


def stream(appointment_id: UUID) -> str:
    return f"appointment/{appointment_id}"


# Which status an event leaves; a move leaves the one that was.
STATUS_AFTER: Mapping[type[Event], Status] = {
    AppointmentHeld: Status.HELD,
    AppointmentRequested: Status.REQUESTED,
    AppointmentBooked: Status.BOOKED,
    AppointmentDeclined: Status.DECLINED,
    HoldLapsed: Status.LAPSED,
    AppointmentCancelled: Status.CANCELLED,
    PatientCheckedIn: Status.CHECKED_IN,
    VisitStarted: Status.IN_PROGRESS,
    VisitCompleted: Status.COMPLETED,
    PatientDidNotCome: Status.NO_SHOW,
    AppointmentEnteredInError: Status.ENTERED_IN_ERROR,
}


def evolve(state: Appointment | None, event: Event) -> Appointment:
    match event:
        case AppointmentHeld():
            return _arranged(event, Status.HELD, event.held_until)
        case AppointmentRequested() | AppointmentBooked():
            return _arranged(event, STATUS_AFTER[type(event)])
    if state is None:
        raise TypeError(f"{type(event).__name__} before an appointment was made")
    match event:
        case AppointmentRescheduled():
            return replace(state, **_told(event))
        case _ if type(event) in STATUS_AFTER:
            return replace(state, status=STATUS_AFTER[type(event)])
    raise TypeError(f"{type(event).__name__} is not an event of an appointment")


def _arranged(event: Arranged, status: Status, held_until: datetime | None = None) -> Appointment:
    return Appointment(
        id=event.appointment_id,
        status=status,
        patient_id=event.patient_id,
        series_id=event.series_id,
        held_until=held_until,
        arranged=event,
        **_told(event),
    )


def _told(event: Visit) -> dict[str, Any]:
    """What a state takes over from an event that says all of a visit."""
    return {
        "provider_id": event.provider_id,
        "location_id": event.location_id,
        "visit_type_id": event.visit_type_id,
        "mode": event.mode,
        "period": event.period,
        "occupied": event.occupied,
        "time_zone": event.time_zone,
        "session_id": event.session_id,
        "seats": event.seats,
        "resources": event.resources,
        "fee": event.fee,
        "video_url": event.video_url,
    }


# Refusals


class WrongStatus(Refusal):
    """What was asked does not follow from what the appointment is now."""

    code = "wrong_status"

    def __init__(self, state: Appointment, wanted: str) -> None:
        words = state.status.value.replace("_", " ")
        super().__init__(f"an appointment that is {words} can't be {wanted}", appointment_status=state.status.value)


class HoldEnded(Refusal):
    code = "hold_ended"


class HoldStillRuns(Refusal):
    code = "hold_still_runs"


class TooLateToCancel(BookingRefused):
    code = "too_late_to_cancel"


class TooLateToMove(BookingRefused):
    code = "too_late_to_move"


class NothingToMove(Refusal):
    """The new time is the old one."""

    code = "nothing_to_move"


class TooEarly(Refusal):
    """Nobody has come, or failed to come, to a visit that is not due yet."""

    code = "too_early"


# Decisions


@dataclass(frozen=True, slots=True)
class Request:
    """Who asks for a visit, and what comes with it. `reason` is the patient's own words, sealed in the log."""

    appointment_id: UUID
    patient_id: UUID
    by: Party
    override: Override | None = None
    reason: str | None = None
    series_id: UUID | None = None
    video_url: str | None = None


def hold(diary: Diary, wish: Wish, request: Request) -> list[Change]:
    """Keep a time for a patient while they make up their mind. It ends by the clock."""
    arranged = _arrange(diary, wish, request)
    until = diary.now + diary.provider.rules.hold_minutes * MINUTE
    return _take(AppointmentHeld(**arranged, held_until=until), until)


def book(diary: Diary, wish: Wish, request: Request) -> list[Change]:
    """Book at once. Where the visit type needs approval and a patient asks, take the time and request the visit."""
    arranged = _arrange(diary, wish, request)
    visit_type = visit_type_of(diary.provider, wish.visit_type_id)
    if visit_type.approval_needed and request.by is Party.PATIENT:
        return _take(AppointmentRequested(**arranged), None)
    return _take(AppointmentBooked(**arranged), None)


def book_held(
    state: Appointment, by: Party, approval_needed: bool, now: datetime, diary: Diary | None = None
) -> list[Change]:
    """Make a hold firm. Refuses with `HoldEnded` once it has run out, free or not: the time must be asked for again.

    Clocks of two processes differ a little, so the time may have been given away though `now` says that the hold runs:
    with the `diary` of the hold's own pages it is looked at again, and lost as any other time is.
    """
    if state.status is not Status.HELD:
        raise WrongStatus(state, "booked from a hold")
    if state.held_until is None or now >= state.held_until:
        raise HoldEnded("the hold has ended; look for a free time again", held_until=state.held_until)
    if diary is not None:
        for lost in conflicts(
            diary,
            visit=state.period,
            occupied=state.occupied,
            session_id=None if state.seats == 1 else state.session_id,
            seats=state.seats,
            resources=state.resources,
            patient_id=state.patient_id,
            ignoring=state.id,
        ):
            # A hold within the overbooking allowance was let in as one.
            if not lost.overridable:
                raise lost
    kind = AppointmentRequested if approval_needed and by is Party.PATIENT else AppointmentBooked
    return [(stream(state.id), _again(kind, state, by)), *_confirmed(state)]


def accept(state: Appointment, by: Party) -> list[Change]:
    if state.status is not Status.REQUESTED:
        raise WrongStatus(state, "accepted")
    return [(stream(state.id), _again(AppointmentBooked, state, by))]


def decline(state: Appointment, by: Party, reason: DeclineReason) -> list[Change]:
    if state.status is not Status.REQUESTED:
        raise WrongStatus(state, "declined")
    return [
        (stream(state.id), AppointmentDeclined(**_who(state), reason=reason, by=by)),
        *_released(state, ReleaseReason.DECLINED),
    ]


def lapse(state: Appointment, now: datetime) -> list[Change]:
    """Say that a hold has ended by the clock. Nobody depends on it; the time has been free since."""
    if state.status is not Status.HELD:
        raise WrongStatus(state, "lapsed")
    if state.held_until is None or now < state.held_until:
        raise HoldStillRuns("the hold has not ended yet", held_until=state.held_until)
    return [
        (stream(state.id), HoldLapsed(**_who(state), held_until=state.held_until)),
        *_released(state, ReleaseReason.LAPSED),
    ]


def move(
    state: Appointment,
    diary: Diary,
    wish: Wish,
    *,
    by: Party,
    reason: MoveReason,
    notice_minutes: int,
    override: Override | None = None,
    video_url: str | None = None,
) -> list[Change]:
    """Free the old time and take the new one, in one save.

    `diary` is of the provider that the visit moves to, `notice_minutes` the rule of the one that it leaves. The fee
    changes with the visit type alone. `video_url` is for a visit that had no link before.
    """
    if state.status is not Status.BOOKED:
        raise WrongStatus(state, "moved")
    visit_type = visit_type_of(diary.provider, wish.visit_type_id)
    wish = replace(wish, moving=state.id, patient_id=state.patient_id, by_patient=by is Party.PATIENT)
    same_kind = (state.provider_id, state.visit_type_id) == (diary.provider.id, wish.visit_type_id)
    if wish.by_patient and visit_type.approval_needed and not same_kind:
        raise NotSelfBookable("this visit type is approved by the clinic first; ask for it anew")
    visit, occupied = visit_type.visit(wish.start), visit_type.occupied(wish.start)
    asked = (diary.provider.id, wish.location_id, wish.visit_type_id, wish.mode, visit, wish.resources)
    if asked == (
        state.provider_id,
        state.location_id,
        state.visit_type_id,
        state.mode,
        state.period,
        state.resources,
    ):
        raise NothingToMove("the appointment is at this time already")
    broken = _notice(state, by, diary.now, notice_minutes, TooLateToMove, "moving", override)
    broken += check(diary, wish, override)
    event = AppointmentRescheduled(
        appointment_id=state.id,
        patient_id=state.patient_id,
        provider_id=diary.provider.id,
        location_id=wish.location_id,
        visit_type_id=wish.visit_type_id,
        mode=wish.mode,
        period=visit,
        occupied=occupied,
        time_zone=diary.provider.locations[wish.location_id].time_zone,
        session_id=session_of(diary.provider.id, wish.location_id, visit_type, wish.start, state.id),
        seats=visit_type.seats,
        resources=wish.resources,
        fee=state.fee if same_kind else visit_type.fee,
        previous=state.period,
        previous_provider_id=state.provider_id,
        reason=reason,
        by=by,
        override=_used(override, broken),
        video_url=_link(state, video_url) if wish.mode is Mode.TELEMEDICINE else None,
    )
    moved = evolve(state, event)
    return [(stream(state.id), event), *_released(state, ReleaseReason.MOVED), *_reserved(moved, None)]


def cancel(
    state: Appointment,
    *,
    by: Party,
    reason: CancellationReason,
    notice_minutes: int,
    now: datetime,
    note: str | None = None,
    override: Override | None = None,
) -> list[Change]:
    """Refuses with `TooLateToCancel` inside the notice period, unless staff cancel with a reason. A hold or a request
    may be given back at any time."""
    if state.status not in {Status.HELD, Status.REQUESTED, Status.BOOKED}:
        raise WrongStatus(state, "cancelled")
    broken = (
        _notice(state, by, now, notice_minutes, TooLateToCancel, "cancelling", override)
        if state.status is Status.BOOKED
        else []
    )
    event = AppointmentCancelled(**_who(state), reason=reason, by=by, note=note, override=_used(override, broken))
    return [(stream(state.id), event), *_released(state, ReleaseReason.CANCELLED)]


def check_in(state: Appointment, now: datetime) -> list[Change]:
    if state.status is not Status.BOOKED:
        raise WrongStatus(state, "checked in")
    _refuse_days_ahead(state, now)
    return [(stream(state.id), PatientCheckedIn(**_who(state)))]


def start(state: Appointment, now: datetime) -> list[Change]:
    if state.status not in {Status.BOOKED, Status.CHECKED_IN}:
        raise WrongStatus(state, "started")
    _refuse_days_ahead(state, now)
    return [(stream(state.id), VisitStarted(**_who(state)))]


def _refuse_days_ahead(state: Appointment, now: datetime) -> None:
    """A patient may be early by hours, not by days: then it is another visit that is meant."""
    if now < state.period.start - DAY:
        raise TooEarly("the visit is not due yet", start=state.period.start)


def complete(state: Appointment, outcome: Outcome, now: datetime, note: str | None = None) -> list[Change]:
    """Also from booked or checked in, once it was due: a desk often writes down a visit only when it is over."""
    if state.status not in {Status.BOOKED, Status.CHECKED_IN, Status.IN_PROGRESS}:
        raise WrongStatus(state, "completed")
    if state.status is not Status.IN_PROGRESS and now < state.period.start:
        raise TooEarly("the visit is not due yet", start=state.period.start)
    return [(stream(state.id), VisitCompleted(**_who(state), outcome=outcome, note=note))]


def did_not_come(state: Appointment, now: datetime) -> list[Change]:
    if state.status is not Status.BOOKED:
        raise WrongStatus(state, "marked as a no-show")
    if now < state.period.start:
        raise TooEarly("the visit is not due yet", start=state.period.start)
    return [(stream(state.id), PatientDidNotCome(**_who(state)))]


def enter_in_error(state: Appointment, by: Party) -> list[Change]:
    """It should never have been written. The record stays, its time is given back."""
    if state.status is Status.ENTERED_IN_ERROR:
        raise WrongStatus(state, "marked as entered in error")
    released = () if state.status in RELEASED else tuple(_released(state, ReleaseReason.ENTERED_IN_ERROR))
    return [(stream(state.id), AppointmentEnteredInError(**_who(state), by=by)), *released]


def check(diary: Diary, wish: Wish, override: Override | None) -> list[str]:
    """Raise the first rule that stands against the wish; return the codes of those that staff set aside."""
    broken: list[str] = []
    for refusal in refusals(diary, wish):
        if not _set_aside(refusal, override):
            raise refusal
        broken.append(refusal.code)
    return broken


def _set_aside(refusal: Refusal, override: Override | None) -> bool:
    return (
        override is not None
        and isinstance(refusal, BookingRefused)
        and refusal.overridable
        and refusal.code in override.rules
    )


def _used(override: Override | None, broken: Sequence[str]) -> Override | None:
    """What is recorded of an override: only the rules that it really broke."""
    if override is None or not broken:
        return None
    return Override(rules=tuple(map(OverridableRule, broken)), reason=override.reason)


def _notice(
    state: Appointment,
    by: Party,
    now: datetime,
    minutes: int,
    refusal: type[BookingRefused],
    what: str,
    override: Override | None,
) -> list[str]:
    """Without a notice staff write down at any time what became of a visit; a patient can't undo one that has begun."""
    latest = state.period.start - minutes * MINUTE
    if now <= latest or (minutes == 0 and by is not Party.PATIENT):
        return []
    late = refusal(f"{what} needs {minutes} minutes of notice; please call the clinic", latest=latest)
    if not _set_aside(late, override):
        raise late
    return [late.code]


def _arrange(diary: Diary, wish: Wish, request: Request) -> dict[str, object]:
    wish = replace(wish, patient_id=request.patient_id, by_patient=request.by is Party.PATIENT)
    broken = check(diary, wish, request.override)
    visit_type = visit_type_of(diary.provider, wish.visit_type_id)
    return {
        "appointment_id": request.appointment_id,
        "patient_id": request.patient_id,
        "provider_id": diary.provider.id,
        "location_id": wish.location_id,
        "visit_type_id": wish.visit_type_id,
        "mode": wish.mode,
        "period": visit_type.visit(wish.start),
        "occupied": visit_type.occupied(wish.start),
        "time_zone": diary.provider.locations[wish.location_id].time_zone,
        "session_id": session_of(diary.provider.id, wish.location_id, visit_type, wish.start, request.appointment_id),
        "seats": visit_type.seats,
        "resources": wish.resources,
        "fee": visit_type.fee,
        "series_id": request.series_id,
        "by": request.by,
        "override": _used(request.override, broken),
        "reason": request.reason,
        "video_url": request.video_url if wish.mode is Mode.TELEMEDICINE else None,
    }


def _again(kind: type[Arranged], state: Appointment, by: Party) -> Arranged:
    """The arrangement as it stands, under a new name. Sealed words are carried along as they were read."""
    told = {name: getattr(state.arranged, name) for name in Arranged.model_fields}
    told |= {name: None for name in Arranged.SEALED_FIELDS if told[name] is ERASED}
    return kind(**{**told, "by": by})


def _link(state: Appointment, made: str | None) -> str | None:
    known = state.video_url
    return made if known is None or isinstance(known, Erased) else known


def _take(event: Arranged, held_until: datetime | None) -> list[Change]:
    return [(stream(event.appointment_id), event), *_reserved(evolve(None, event), held_until)]


def _reserved(state: Appointment, held_until: datetime | None) -> Iterator[Change]:
    for owner, period in state.occupies():
        alone = owner == state.patient_id
        for event in availability.reserve(
            owner,
            appointment_id=state.id,
            visit=state.period,
            occupied=period,
            session_id=state.id if alone else state.session_id,
            seats=1 if alone else state.seats,
            held_until=held_until,
        ):
            yield availability.page_stream(owner, event.day), event


def _confirmed(state: Appointment) -> Iterator[Change]:
    for owner, period in state.occupies():
        for event in availability.confirm(owner, period, state.id):
            yield availability.page_stream(owner, event.day), event


def _released(state: Appointment, reason: ReleaseReason) -> Iterator[Change]:
    for owner, period in state.occupies():
        for event in availability.release(owner, period, state.id, reason):
            yield availability.page_stream(owner, event.day), event


def _who(state: Appointment) -> dict[str, UUID]:
    return {"appointment_id": state.id, "patient_id": state.patient_id, "provider_id": state.provider_id}
