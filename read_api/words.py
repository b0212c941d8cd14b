"""The words of an appointment that are nobody's business but the patient's and whoever looks after them."""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.responses import Response

from domain import appointment
from domain.appointment import AppointmentCancelled, AppointmentRescheduled, Arranged, VisitCompleted
from domain.events import Erased
from domain.look import Screen
from domain.ports import Recorded
from read_api.asking import Asked, unknown
from read_api.describing import answers

router = APIRouter(tags=["appointments"])


class AppointmentWords(BaseModel):
    """Null is what nobody said, or what was erased. `video_url` is where the visit by video takes place; `reason` is
    the patient's, the notes are of whoever cancelled or completed the visit."""

    appointment_id: UUID
    patient_id: UUID
    video_url: str | None = None
    reason: str | None = None
    cancellation_note: str | None = None
    visit_note: str | None = None


@router.get("/appointments/{appointment_id}/words", response_model=AppointmentWords, **answers(404))
async def read_appointment_words(appointment_id: UUID, asked: Asked) -> Response:
    """What was said about an appointment, and where its video visit is; opened from the log at this moment. Patients
    read their own, providers their patients', the front desk behind a broken glass alone."""
    asked.may("read_private_words")
    stream = appointment.stream(appointment_id)
    log = asked.library.log
    upto = await log.head()
    told = (await log.load(asked.organization, {stream: 0}, upto=upto))[stream]
    found = words_of(told)
    if found is None:
        raise unknown(appointment_id)
    await asked.reach(patient_id=found.patient_id, provider_id=_provider_of(told), named=appointment_id)
    asked.shows(Screen.PRIVATE_WORDS, found.patient_id, resource_id=appointment_id)
    return asked.answer(found, upto)


def _provider_of(told: Iterable[Recorded]) -> UUID:
    """With whom the visit is now."""
    return next(
        event.provider_id
        for event in (recorded.event for recorded in reversed(list(told)))
        if isinstance(event, Arranged | AppointmentRescheduled)
    )


def words_of(told: Iterable[Recorded]) -> AppointmentWords | None:
    """What an appointment's events say in words, the latest of each; None where there is no event."""
    found: AppointmentWords | None = None
    for recorded in told:
        match recorded.event:
            case Arranged() as event:
                said = {"video_url": _readable(event.video_url), "reason": _readable(event.reason)}
                found = AppointmentWords(appointment_id=event.appointment_id, patient_id=event.patient_id, **said)
            case AppointmentRescheduled() as event if found is not None:
                found.video_url = _readable(event.video_url)
            case AppointmentCancelled() as event if found is not None:
                found.cancellation_note = _readable(event.note)
            case VisitCompleted() as event if found is not None:
                found.visit_note = _readable(event.note)
    return found


def _readable(words: str | Erased | None) -> str | None:
    return None if isinstance(words, Erased) else words
