"""A patient: who they are, as the log tells it to whoever may know, and their appointments, past and to come."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BaseModel
from starlette.responses import Response

from domain import patient
from domain.events import Erased
from domain.look import Screen
from domain.patient import CorrectionSource, PatientDetails, Record
from read_api.appointments import Appointment, shown
from read_api.asking import Asked, unknown
from read_api.describing import answers
from read_api.parameters import AsOf, Cursor, Limit

router = APIRouter(tags=["patients"])


class Order(StrEnum):
    OLDEST = "oldest"
    NEWEST = "newest"


class Correction(BaseModel):
    """What was known before is read with `as_of`."""

    at: datetime
    source: CorrectionSource
    changed: list[str]


class Patient(BaseModel):
    """Words that were erased are null, and `erased_at` says since when. `version` is the ETag's."""

    patient_id: UUID
    registered_at: datetime
    reference: str | None
    details: PatientDetails | None
    corrections: list[Correction]
    erased_at: datetime | None
    version: int


class PatientAppointments(BaseModel):
    """In order of their starts. `next` is the cursor of the page that follows; null when this is the last."""

    appointments: list[Appointment]
    next: str | None


# An id alone, since a search stands at the same place.
@router.get("/patients/{patient_id:uuid}", response_model=Patient, **answers(404, tagged=True))
async def read_patient(patient_id: UUID, asked: Asked, as_of: AsOf = None) -> Response:
    """Who a patient is, opened from the log at this moment. Staff, and patients their own."""
    asked.may("read_patient_details")
    await asked.reach(patient_id=patient_id)
    log = asked.library.log
    upto = (await asked.book(as_of)).position if as_of is not None else await log.head()
    stream = patient.stream(patient_id)
    told = (await log.load(asked.organization, {stream: 0}, upto=upto))[stream]
    record: Record | None = None
    for recorded in told:
        record = patient.tell(record, recorded.event, recorded.recorded_at)
    if record is None:
        raise unknown(patient_id)
    asked.shows(Screen.PATIENT, patient_id)
    found = Patient(
        patient_id=patient_id,
        registered_at=record.registered,
        reference=None if isinstance(record.reference, Erased) else record.reference,
        details=None if isinstance(record.details, Erased) else record.details,
        corrections=_corrections(record),
        erased_at=record.erased,
        version=told[-1].version,
    )
    return asked.answer(found, upto, version=found.version)


def _corrections(record: Record) -> list[Correction]:
    made, before = [], PatientDetails()
    for telling in record.tellings:
        now = PatientDetails() if isinstance(telling.details, Erased) else telling.details
        if telling.source is not None:
            changed = [name for name in PatientDetails.model_fields if getattr(now, name) != getattr(before, name)]
            made.append(Correction(at=telling.since, source=telling.source, changed=changed))
        before = now
    return made


@router.get("/patients/{patient_id}/appointments", response_model=PatientAppointments, **answers(404))
async def read_patient_appointments(
    patient_id: UUID,
    asked: Asked,
    order: Annotated[Order, Query(description="by the visits' starts")] = Order.OLDEST,
    limit: Limit = 50,
    cursor: Cursor = None,
    as_of: AsOf = None,
) -> Response:
    """A patient's appointments, whatever became of them. A patient sees their own."""
    asked.may("read_patient")
    await asked.reach(patient_id=patient_id)
    listing = f"patients/{patient_id}/appointments/{order.value}"
    after = None if cursor is None else _place(asked.library.cursors.read(listing, asked.organization, cursor))
    book = await asked.book(as_of, asked.library.diary)
    page = await book.of_patient(patient_id, after=after, limit=limit, newest_first=order is Order.NEWEST)
    if not page.appointments and after is None:
        await asked.registered(patient_id, book)
    asked.shows(Screen.APPOINTMENTS, patient_id)
    following = None
    if page.next is not None:
        following = asked.library.cursors.make(listing, asked.organization, page.next)
    rows = [Appointment.model_validate(shown(row, book.now)) for row in page.appointments]
    return asked.answer(PatientAppointments(appointments=rows, next=following), book.position)


def _place(place: list[Any]) -> tuple[datetime, UUID]:
    start, appointment_id = place
    return datetime.fromisoformat(start), UUID(appointment_id)
