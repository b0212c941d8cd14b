"""One appointment as it stands, with what happened to it in sentences."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from domain import access
from domain.appointment import FHIR_STATUS, CancellationReason, DeclineReason, Outcome, Party, Status
from domain.look import Screen
from domain.provider import Mode, Money
from projections.diary import AppointmentRow, HistoryLine
from read_api.asking import Asked
from read_api.describing import answers
from read_api.parameters import AsOf

router = APIRouter(tags=["appointments"])


class Appointment(BaseModel):
    """Instants are UTC; `time_zone` is the location's. `fhir_status` is the FHIR R4 word for `status`; `moved` counts
    reschedulings; `rules_set_aside` are the rules that staff overrode. No words of the patient are shown here."""

    model_config = ConfigDict(from_attributes=True)

    appointment_id: UUID
    status: Status
    fhir_status: str
    patient_id: UUID
    provider_id: UUID
    location_id: UUID
    visit_type_id: UUID
    mode: Mode
    start: datetime
    end: datetime
    time_zone: str
    resources: list[UUID]
    seats: int
    session_id: UUID
    series_id: UUID | None
    fee: Money | None
    held_until: datetime | None = Field(description="while it is a hold: when it ends by the clock")
    created_at: datetime
    booked_at: datetime | None
    updated_at: datetime
    moved: int
    rules_set_aside: list[str]
    cancellation_reason: CancellationReason | None
    cancelled_by: Party | None
    decline_reason: DeclineReason | None
    outcome: Outcome | None
    version: int = Field(description="the ETag's")


class HistoryEntry(BaseModel):
    """`at` is when it was true, `recorded_at` when the log took it. `actor` is an opaque id, shown to staff."""

    at: datetime
    recorded_at: datetime
    event: str
    sentence: str
    actor: str | None = None
    on_behalf_of: str | None = None
    position: str


class AppointmentWithHistory(Appointment):
    history: list[HistoryEntry]


def shown(row: AppointmentRow, now: datetime) -> dict[str, object]:
    """An appointment's fields. A hold that has ended by the clock is shown as lapsed, written down or not."""
    status = Status.LAPSED if row.lapsed(now) else row.status
    told = {name: getattr(row, name) for name in AppointmentRow.model_fields if name in Appointment.model_fields}
    return told | {
        "status": status,
        "fhir_status": FHIR_STATUS[status],
        "start": row.period.start,
        "end": row.period.end,
        "held_until": row.held_until if status is Status.HELD else None,
    }


@router.get("/appointments/{appointment_id}", response_model=AppointmentWithHistory, **answers(404, tagged=True))
async def read_appointment(appointment_id: UUID, asked: Asked, as_of: AsOf = None) -> Response:
    """An appointment, and what happened to it, in sentences. A patient sees their own."""
    asked.may("read_appointment")
    book = await asked.book(as_of, asked.library.diary)
    row = await asked.own(await book.appointment(appointment_id), appointment_id)
    asked.shows(Screen.APPOINTMENT, row.patient_id, resource_id=appointment_id)
    lines = await book.history(appointment_id)
    found = AppointmentWithHistory.model_validate(
        {**shown(row, book.now), "history": [_entry(asked, line) for line in lines]}
    )
    # The tag is of the appointment, for `If-Match`; a message or the end of a hold changes the answer without it.
    return asked.answer(found, book.position, version=row.version)


def _entry(asked: Asked, line: HistoryLine) -> HistoryEntry:
    staff = access.may(asked.actor, "read_actors")
    return HistoryEntry(
        at=line.at,
        recorded_at=line.recorded_at,
        event=line.name,
        sentence=line.sentence,
        actor=line.actor if staff else None,
        on_behalf_of=line.on_behalf_of if staff else None,
        position=asked.library.positions.show(line.position),
    )
