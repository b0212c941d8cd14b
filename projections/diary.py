"""The diary: every appointment as it stands, who has which when, and what happened to each, in plain English.

In: events of appointments and of messages about them. Out: one document an appointment, lists by provider, patient and
resource in the order of the visits' starts, and a history of sentences. Ids, codes and times only: no personal words.

| name | holds |
|---|---|
| `ORG/appointment/ID` | an `AppointmentRow` as JSON |
| `ORG/visits/ID` | lines `START ID` of a provider's, patient's or resource's appointments, cancelled ones too |
| `ORG/history/ID` | lines `POSITION JSON`, each a `HistoryLine` of the appointment |
| `holds` | lines `HELD_UNTIL ORG ID` of holds that are not over for the log yet, for the sweeper |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict
from pydantic_core import from_json, to_json

from domain.appointment import (
    STATUS_AFTER,
    AppointmentBooked,
    AppointmentCancelled,
    AppointmentDeclined,
    AppointmentEnteredInError,
    AppointmentHeld,
    AppointmentRequested,
    AppointmentRescheduled,
    Arranged,
    CancellationReason,
    DeclineReason,
    HoldLapsed,
    Outcome,
    Override,
    Party,
    PatientCheckedIn,
    PatientDidNotCome,
    Status,
    VisitCompleted,
    VisitStarted,
)
from domain.events import Event
from domain.ports import Recorded
from domain.provider import Mode, Money
from domain.reminder import Channel, ReminderSent
from domain.time import Instant, Period, zone
from projections.documents import LAST, DocumentModel, Kept, Line, Span

# No visit is longer (`domain.provider.VisitType.duration_minutes`), so one under way began within this time.
LONGEST_VISIT = timedelta(days=1)


class AppointmentRow(BaseModel):
    """An appointment as it stands. Instants are UTC; `time_zone` is the location's, for showing them.

    `moved` counts reschedulings; `rules_set_aside` are codes of rules that staff overrode. `version` and `position` are
    of the last event that is in it.
    """

    model_config = ConfigDict(frozen=True)

    appointment_id: UUID
    booked_at: Instant | None
    cancellation_reason: CancellationReason | None
    cancelled_by: Party | None
    created_at: Instant
    decline_reason: DeclineReason | None
    fee: Money | None
    held_until: Instant | None
    location_id: UUID
    mode: Mode
    moved: int
    occupied: Period
    outcome: Outcome | None
    patient_id: UUID
    period: Period
    position: int
    provider_id: UUID
    resources: tuple[UUID, ...]
    rules_set_aside: tuple[str, ...]
    seats: int
    series_id: UUID | None
    session_id: UUID
    status: Status
    time_zone: str
    updated_at: Instant
    version: int
    visit_type_id: UUID

    def lapsed(self, now: datetime) -> bool:
        """Whether it is a hold that has ended by the clock, written down or not."""
        return self.status is Status.HELD and self.held_until is not None and now >= self.held_until


class HistoryLine(BaseModel):
    """One thing that happened: `at` is when it was true, `recorded_at` when the log took it."""

    model_config = ConfigDict(frozen=True)

    actor: str
    at: Instant
    name: str
    on_behalf_of: str | None
    position: int
    recorded_at: Instant
    sentence: str


class AppointmentPage(BaseModel):
    """A part of a list in order of (start, id), and the place to go on from, if there may be more."""

    model_config = ConfigDict(frozen=True)

    appointments: tuple[AppointmentRow, ...]
    next: tuple[Instant, UUID] | None


# Keys in order, values as JSON has them or as they came in an event; both are written alike. Codes are plain text,
# which is written much faster than an enum.
Document = dict[str, Any]


class AppointmentShape:
    def fold(self, known: Document | None, recorded: Recorded) -> Document:
        event = recorded.event
        if isinstance(event, Arranged):
            document = _arranged(known, recorded, event)
        elif known is None:
            raise TypeError(f"{event.NAME} before an appointment was made")
        else:
            document = dict(known)
            match event:
                case AppointmentRescheduled():
                    document |= _visit(event)
                    document["moved"] += 1
                    document["rules_set_aside"] = _set_aside(known, event.override)
                case AppointmentCancelled():
                    document["cancellation_reason"] = str(event.reason)
                    document["cancelled_by"] = str(event.by)
                    document["rules_set_aside"] = _set_aside(known, event.override)
                case AppointmentDeclined():
                    document["decline_reason"] = str(event.reason)
                case VisitCompleted():
                    document["outcome"] = str(event.outcome)
        if (status := STATUS_AFTER.get(type(event))) is not None:
            document["status"] = str(status)
        document["updated_at"] = recorded.occurred_at
        document["position"] = recorded.position
        document["version"] = recorded.version
        return document

    def encode(self, kept: Kept[Document]) -> bytes:
        return to_json(kept.value)

    def decode(self, name: str, document: bytes) -> Kept[Document]:
        value = from_json(document)
        return Kept(value, value["version"], value["position"])

    def led_alike(self, before: Document, now: Document) -> bool:
        # Only an arrangement or a move brings another period.
        return before["period"] is now["period"] and "held" not in (before["status"], now["status"])

    def lines(self, organization: str, value: Document) -> Sequence[Line]:
        key = str(value["appointment_id"])
        line = f"{_sortable(value['period']['start'])} {key}"
        owners = (value["provider_id"], value["patient_id"], *value["resources"])
        lines = [(f"{organization}/visits/{owner}", line) for owner in owners]
        if value["status"] == Status.HELD:
            lines.append(("holds", f"{_sortable(value['held_until'])} {organization} {key}"))
        return lines


def _arranged(known: Document | None, recorded: Recorded, event: Arranged) -> Document:
    """Every key of an `AppointmentRow`, in order. The words that are sealed stay behind."""
    at = recorded.occurred_at
    return {
        "appointment_id": event.appointment_id,
        "booked_at": at if isinstance(event, AppointmentBooked) else None,
        "cancellation_reason": None,
        "cancelled_by": None,
        "created_at": known["created_at"] if known else at,
        "decline_reason": None,
        "fee": _fee(event.fee),
        "held_until": event.held_until if isinstance(event, AppointmentHeld) else None,
        "location_id": event.location_id,
        "mode": str(event.mode),
        "moved": 0,
        "occupied": _ends(event.occupied),
        "outcome": None,
        "patient_id": event.patient_id,
        "period": _ends(event.period),
        "position": 0,
        "provider_id": event.provider_id,
        "resources": event.resources,
        "rules_set_aside": _set_aside(known, event.override),
        "seats": event.seats,
        "series_id": event.series_id,
        "session_id": event.session_id,
        "status": None,
        "time_zone": event.time_zone,
        "updated_at": at,
        "version": 0,
        "visit_type_id": event.visit_type_id,
    }


def _fee(fee: Money | None) -> Document | None:
    return {"amount": fee.amount, "currency": fee.currency} if fee else None


def _visit(event: AppointmentRescheduled) -> Document:
    return {
        "fee": _fee(event.fee),
        "location_id": event.location_id,
        "mode": str(event.mode),
        "occupied": _ends(event.occupied),
        "period": _ends(event.period),
        "provider_id": event.provider_id,
        "resources": event.resources,
        "seats": event.seats,
        "session_id": event.session_id,
        "time_zone": event.time_zone,
        "visit_type_id": event.visit_type_id,
    }


def _ends(period: Period) -> dict[str, datetime]:
    return {"end": period.end, "start": period.start}


def _set_aside(known: Document | None, override: Override | None) -> list[str]:
    before = known["rules_set_aside"] if known else []
    return sorted({*before, *override.rules}) if override else before


class AppointmentDiary(DocumentModel):
    name = "diary"
    SHAPES: ClassVar = {"appointment": AppointmentShape()}

    def notes(self, recorded: Recorded) -> Sequence[Line]:
        event = recorded.event
        if type(event) not in _SENTENCES:
            return ()
        line = {
            "actor": recorded.actor,
            "at": recorded.occurred_at,
            "name": event.NAME,
            "on_behalf_of": recorded.on_behalf_of,
            "position": recorded.position,
            "recorded_at": recorded.recorded_at,
            "sentence": sentence(recorded),
        }
        name = f"{recorded.organization}/history/{event.appointment_id}"  # type: ignore[attr-defined]
        return ((name, f"{recorded.position:020d} {to_json(line).decode()}"),)

    async def appointment(self, organization: str, appointment_id: UUID) -> AppointmentRow | None:
        (document,) = await self.store.documents([f"{organization}/appointment/{appointment_id}"])
        return AppointmentRow.model_validate_json(document) if document is not None else None

    async def history(
        self, organization: str, appointment_id: UUID, *, upto: int | None = None
    ) -> Sequence[HistoryLine]:
        """What happened to an appointment, messages sent about it included, in order; `upto` is a position."""
        high = LAST if upto is None else f"{upto + 1:020d}"
        (lines,) = await self.store.lines([Span(f"{organization}/history/{appointment_id}", high=high)])
        return [HistoryLine.model_validate_json(line.partition(" ")[2]) for line in lines]

    async def of_provider(self, organization: str, provider_id: UUID, within: Period) -> Sequence[AppointmentRow]:
        """A provider's appointments that touch the period, whatever became of them, in order of (start, id)."""
        return await self._touching(organization, provider_id, within)

    async def of_resource(self, organization: str, resource_id: UUID, within: Period) -> Sequence[AppointmentRow]:
        """The appointments that touch the period and take a room or device along."""
        return await self._touching(organization, resource_id, within)

    async def of_patient(
        self,
        organization: str,
        patient_id: UUID,
        *,
        after: tuple[datetime, UUID] | None = None,
        limit: int = 50,
        newest_first: bool = False,
    ) -> AppointmentPage:
        """A patient's appointments in order of (start, id), from the place `after` on; it is not included."""
        name = f"{organization}/visits/{patient_id}"
        # One more than wanted says whether there is more; the place itself comes back as the first.
        if after is None:
            span = Span(name, limit=limit + 1, backwards=newest_first)
        elif newest_first:
            span = Span(name, high=_line(*after), limit=limit + 2, backwards=True)
        else:
            span = Span(name, low=_line(*after), limit=limit + 2)
        (lines,) = await self.store.lines([span])
        if after is not None and lines and lines[0] == _line(*after):
            lines = lines[1:]
        rows = await self._rows(organization, lines[:limit])
        return AppointmentPage(appointments=tuple(rows), next=_place(lines[limit - 1]) if len(lines) > limit else None)

    async def ended_holds(self, now: datetime, limit: int = 100) -> Sequence[tuple[str, UUID]]:
        """Holds that have ended by the clock and that the log does not say so of yet: (organization, appointment)."""
        (lines,) = await self.store.lines([Span("holds", high=_sortable(now) + "~", limit=limit)])
        parts = [line.split(" ") for line in lines]
        return [(organization, UUID(appointment)) for _, organization, appointment in parts]

    async def _touching(self, organization: str, owner: UUID, within: Period) -> Sequence[AppointmentRow]:
        low, high = _sortable(within.start - LONGEST_VISIT), _sortable(within.end)
        (lines,) = await self.store.lines([Span(f"{organization}/visits/{owner}", low, high)])
        rows = await self._rows(organization, lines)
        # The list and the documents are two questions; what moved in between is left out.
        return [row for row in rows if row.period.overlaps(within) and owner in (row.provider_id, *row.resources)]

    async def _rows(self, organization: str, lines: Sequence[str]) -> Sequence[AppointmentRow]:
        names = [f"{organization}/appointment/{line.partition(' ')[2]}" for line in lines]
        documents = await self.store.documents(names) if names else ()
        return [AppointmentRow.model_validate_json(one) for one in documents if one is not None]


def _sortable(moment: datetime | str) -> str:
    """An instant, or its text in RFC 3339, in a fixed width, so that code point order is time order."""
    if isinstance(moment, str):
        return moment if len(moment) == 27 else f"{moment[:19]}.000000Z"
    return f"{moment.astimezone(UTC).isoformat(timespec='microseconds')[:26]}Z"


def _line(start: datetime, appointment_id: UUID) -> str:
    return f"{_sortable(start)} {appointment_id}"


def _place(line: str) -> tuple[datetime, UUID]:
    start, _, appointment_id = line.partition(" ")
    return datetime.fromisoformat(start), UUID(appointment_id)


_WHO = {
    Party.PATIENT: "The patient",
    Party.PROVIDER: "The provider",
    Party.FRONT_DESK: "The front desk",
    Party.SYSTEM: "The system",
}


def sentence(recorded: Recorded) -> str:
    """What an event of an appointment says, in plain English, by coded facts alone: never a sealed word. Raises
    `KeyError` for any other event."""
    event = recorded.event
    return _SENTENCES[type(event)](event)


def _held(event: AppointmentHeld) -> str:
    until = event.held_until.astimezone(zone(event.time_zone))
    said = f"{_WHO[event.by]} put a hold on {_when(event.period, event.time_zone)} until {_clock(until)}."
    return said + _aside(event.override)


def _requested(event: AppointmentRequested) -> str:
    when = _when(event.period, event.time_zone)
    return f"{_WHO[event.by]} asked for {when}{_way(event.mode)}.{_aside(event.override)}"


def _booked(event: AppointmentBooked) -> str:
    when = _when(event.period, event.time_zone)
    return f"{_WHO[event.by]} booked {when}{_way(event.mode)}.{_aside(event.override)}"


def _moved(event: AppointmentRescheduled) -> str:
    before, now = _when(event.previous, event.time_zone), _when(event.period, event.time_zone)
    other = " with another provider" if event.provider_id != event.previous_provider_id else ""
    if event.period == event.previous:
        way = _way(event.mode) or ", in person"
        said = f"{_WHO[event.by]} changed the visit of {now}{other}{way}: {_words(event.reason)}."
    else:
        said = f"{_WHO[event.by]} moved the visit from {before} to {now}{other}: {_words(event.reason)}."
    return said + _aside(event.override)


def _cancelled(event: AppointmentCancelled) -> str:
    return f"{_WHO[event.by]} cancelled: {_words(event.reason)}.{_aside(event.override)}"


_SENTENCES: Mapping[type[Event], Callable[[Any], str]] = {
    AppointmentHeld: _held,
    AppointmentRequested: _requested,
    AppointmentBooked: _booked,
    AppointmentRescheduled: _moved,
    AppointmentCancelled: _cancelled,
    AppointmentDeclined: lambda event: f"{_WHO[event.by]} declined the request: {_words(event.reason)}.",
    HoldLapsed: lambda event: "The hold ended without a booking.",
    PatientCheckedIn: lambda event: "The patient checked in.",
    VisitStarted: lambda event: "The visit started.",
    VisitCompleted: lambda event: f"The visit was completed: {_words(event.outcome)}.",
    PatientDidNotCome: lambda event: "The patient did not come.",
    AppointmentEnteredInError: lambda event: f"{_WHO[event.by]} marked the appointment as entered in error.",
    ReminderSent: lambda event: f"A message was sent by {'SMS' if event.channel is Channel.SMS else 'e-mail'}.",
}


def _words(code: str) -> str:
    return str(code).replace("_", " ")


def _way(mode: Mode) -> str:
    return ", by video" if mode is Mode.TELEMEDICINE else ""


def _aside(override: Override | None) -> str:
    if override is None:
        return ""
    rules = ", ".join(map(_words, override.rules))
    return f" Set aside: {rules} ({_words(override.reason)})."


def _when(period: Period, time_zone: str) -> str:
    """For instance `Monday 2 March 2026, 10:00–10:30 (Europe/Berlin)`."""
    place = zone(time_zone)
    start, end = period.start.astimezone(place), period.end.astimezone(place)
    day = f"{_DAYS[start.weekday()]} {start.day} {_MONTHS[start.month - 1]} {start.year}"
    tail = "" if end.day == start.day else " on the next day"
    return f"{day}, {_clock(start)}–{_clock(end)}{tail} ({time_zone})"


def _clock(local: datetime) -> str:
    return f"{local.hour:02d}:{local.minute:02d}"


_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)
