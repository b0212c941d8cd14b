"""Forgetting a person: asked for, held up, and the rule of how long records are kept."""

from __future__ import annotations

from datetime import date
from typing import Final, Literal
from uuid import UUID

from fastapi import APIRouter
from pydantic import Field
from starlette.responses import Response

from commands.erasure import ErasePerson, LiftLegalHold, PlaceLegalHold, SetRetention
from domain.patient import RefusalReason
from write_api.asking import Asked
from write_api.bodies import Body
from write_api.describing import Answered, takes

router = APIRouter(tags=["personal data"])

ERASE: Final = Body(ErasePerson, "patient_id")
HOLD: Final = Body(PlaceLegalHold, "patient_id")
LIFT: Final = Body(LiftLegalHold, "patient_id", "hold_id")
RETAIN: Final = Body(SetRetention)


class ErasureAnswer(Answered):
    """A refusal says why, which article that rests on, and from which day on to ask again, where that is known."""

    patient_id: UUID
    outcome: Literal["erased", "refused"]
    reason: RefusalReason | None = None
    article: str | None = Field(None, examples=["GDPR 17(3)(b)"])
    until: date | None = None


class HoldAnswer(Answered):
    patient_id: UUID
    hold_id: UUID


class RetentionAnswer(Answered):
    years_after_last_visit: int
    months_of_strangers: int
    days_of_unverified: int


@router.post(
    "/patients/{patient_id}/erasure",
    response_model=ErasureAnswer,
    response_model_exclude_unset=True,
    **takes(ERASE, refusals=(404, 409), examples={"As they ask": {"ground": "consent_withdrawn"}}),
)
async def erase_person(patient_id: UUID, asked: Asked) -> Response:
    """Forget a person (GDPR 17), unless a legal hold, a visit to come or the time that records are kept stands against
    it; then the refusal is written down with its reason. Administrators, freshly signed in.

    Their key is destroyed within moments, and with it every personal word in the log; nothing brings it back.
    """
    return await asked.take(await asked.read(ERASE, patient_id=patient_id))


@router.post(
    "/patients/{patient_id}/holds",
    response_model=HoldAnswer,
    **takes(
        HOLD,
        status=201,
        located=True,
        refusals=(404, 409),
        examples={"A lawsuit": {"reason": "litigation", "matter": "4 O 1/27"}},
    ),
)
async def place_legal_hold(patient_id: UUID, asked: Asked) -> Response:
    """Keep a person's data from being erased. Administrators."""
    said = await asked.read(HOLD, patient_id=patient_id)
    return await asked.take(said, status=201, made="patients/{patient_id}/holds")


@router.post(
    "/patients/{patient_id}/holds/{hold_id}/lift", response_model=HoldAnswer, **takes(LIFT, refusals=(404, 409))
)
async def lift_legal_hold(patient_id: UUID, hold_id: UUID, asked: Asked) -> Response:
    """Let a legal hold go. Administrators, freshly signed in."""
    return await asked.take(await asked.read(LIFT, patient_id=patient_id, hold_id=hold_id))


@router.put(
    "/retention",
    response_model=RetentionAnswer,
    **takes(
        RETAIN,
        examples={
            "Ten years": {"years_after_last_visit": 10},
            "A year": {"years_after_last_visit": 10, "months_of_strangers": 12},
        },
    ),
)
async def set_retention(asked: Asked) -> Response:
    """Say how many years after the last visit a record is kept, how many months it stays known where those were who
    knocked and never signed in (72 as shipped), and how many days an account waits for whoever registered it to show
    that the address is theirs (30 as shipped). What is left out stays. Administrators, freshly signed in."""
    return await asked.take(await asked.read(RETAIN))
