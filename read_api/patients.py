"""A patient's appointments, past and to come."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BaseModel
from starlette.responses import Response

from domain.access import require_patient
from domain.look import Screen
from read_api.appointments import Appointment, shown
from read_api.asking import Asked
from read_api.describing import answers
from read_api.parameters import AsOf, Cursor, Limit

router = APIRouter(tags=["patients"])


class Order(StrEnum):
    OLDEST = "oldest"
    NEWEST = "newest"


class PatientAppointments(BaseModel):
    """In order of their starts. `next` is the cursor of the page that follows; null when this is the last."""

    appointments: list[Appointment]
    next: str | None


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
    require_patient(asked.actor, patient_id)
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
