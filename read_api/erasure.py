"""What stands against forgetting a person, and how long records are kept."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.responses import Response

from domain import patient, retention
from domain.events import Erased
from domain.look import Screen
from domain.patient import HoldReason, LegalHoldLifted, LegalHoldPlaced
from domain.retention import RetentionPolicySet
from read_api.asking import Asked, unknown
from read_api.describing import answers

router = APIRouter(tags=["personal data"])


class LegalHold(BaseModel):
    hold_id: UUID
    reason: HoldReason
    matter: str | None
    placed_at: datetime
    lifted_at: datetime | None


class LegalHolds(BaseModel):
    """Those that stand and those that were lifted, oldest first."""

    holds: list[LegalHold]


class Retention(BaseModel):
    years_after_last_visit: int
    months_of_strangers: int = Field(description="how long it stays known where those were who never signed in")
    days_of_unverified: int = Field(
        description="how long an account waits for whoever registered it to show that the address is theirs"
    )
    as_shipped: bool = Field(description="nobody has said otherwise")


@router.get("/patients/{patient_id}/holds", response_model=LegalHolds, **answers(404))
async def read_legal_holds(patient_id: UUID, asked: Asked) -> Response:
    """The legal holds on a person's data. Administrators and auditors."""
    asked.may("read_holds")
    await asked.reach(patient_id=patient_id)
    log = asked.library.log
    upto, stream = await log.head(), patient.stream(patient_id)
    told = (await log.load(asked.organization, {stream: 0}, upto=upto))[stream]
    if not told:
        raise unknown(patient_id)
    asked.shows(Screen.PATIENT, patient_id)
    found: dict[UUID, LegalHold] = {}
    for recorded in told:
        match recorded.event:
            case LegalHoldPlaced() as event:
                found[event.hold_id] = LegalHold(
                    hold_id=event.hold_id,
                    reason=event.reason,
                    matter=None if isinstance(event.matter, Erased) else event.matter,
                    placed_at=recorded.recorded_at,
                    lifted_at=None,
                )
            case LegalHoldLifted() as event:
                found[event.hold_id].lifted_at = recorded.recorded_at
    return asked.answer(LegalHolds(holds=list(found.values())), upto)


@router.get("/retention", response_model=Retention, **answers())
async def read_retention(asked: Asked) -> Response:
    """How many years after the last visit a record is kept, how many months strangers' origins are, and how many days
    accounts whose address was never verified."""
    asked.may("read_retention")
    log = asked.library.log
    upto = await log.head()
    told = (await log.load(asked.organization, {retention.STREAM: 0}, upto=upto))[retention.STREAM]
    policy = retention.AS_SHIPPED
    for recorded in told:
        policy = retention.evolve(policy, recorded.event)
    found = Retention(
        years_after_last_visit=policy.years_after_last_visit,
        months_of_strangers=policy.months_of_strangers,
        days_of_unverified=policy.days_of_unverified,
        as_shipped=not any(isinstance(recorded.event, RetentionPolicySet) for recorded in told),
    )
    return asked.answer(found, upto)
