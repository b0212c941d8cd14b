"""What a patient agrees to now, and what they ever agreed to."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.responses import Response

from domain import consent, patient
from domain.appointment import Party
from domain.consent import ConsentGiven, ConsentMeans, ConsentPurpose, ConsentWithdrawn
from domain.look import Screen
from read_api.asking import Asked, unknown
from read_api.describing import answers
from read_api.parameters import AsOf

router = APIRouter(tags=["patients"])


class ConsentEntry(BaseModel):
    """`text_version` is of the words that were shown; null where consent was withdrawn."""

    at: datetime
    purpose: ConsentPurpose
    given: bool
    text_version: str | None
    means: ConsentMeans
    by: Party


class Consents(BaseModel):
    """`given` are the purposes that are agreed to now, or were then, each with the version of the words."""

    given: dict[ConsentPurpose, str]
    history: list[ConsentEntry]


@router.get("/patients/{patient_id}/consents", response_model=Consents, **answers(404))
async def read_consents(patient_id: UUID, asked: Asked, as_of: AsOf = None) -> Response:
    """A patient's consents with their history, oldest first, from the log. A patient sees their own."""
    asked.may("read_consents")
    await asked.reach(patient_id=patient_id)
    log = asked.library.log
    upto = (await asked.book(as_of)).position if as_of is not None else await log.head()
    known, told = patient.stream(patient_id), consent.stream(patient_id)
    found = await log.load(asked.organization, {known: 0, told: 0}, upto=upto)
    if not found[known]:
        raise unknown(patient_id)
    asked.shows(Screen.CONSENTS, patient_id)
    state: consent.Consents | None = None
    history = []
    for recorded in found[told]:
        state = consent.evolve(state, recorded.event)
        if isinstance(recorded.event, ConsentGiven | ConsentWithdrawn):
            history.append(entry(recorded.event, recorded.recorded_at))
    return asked.answer(Consents(given=dict(state.given) if state else {}, history=history), upto)


def entry(event: ConsentGiven | ConsentWithdrawn, at: datetime) -> ConsentEntry:
    version = event.text_version if isinstance(event, ConsentGiven) else None
    return ConsentEntry(
        at=at, purpose=event.purpose, given=version is not None, text_version=version, means=event.means, by=event.by
    )
