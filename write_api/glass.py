"""Breaking the glass: reach over a patient in an emergency."""

from __future__ import annotations

from datetime import datetime
from typing import Final
from uuid import UUID

from fastapi import APIRouter
from starlette.responses import Response

from commands.glass import BreakGlass
from write_api.asking import Asked
from write_api.bodies import Body
from write_api.describing import Answered, takes

router = APIRouter(tags=["glass"])

BREAK: Final = Body(BreakGlass, "patient_id")


class BrokenGlass(Answered):
    """Until then the patient is within reach."""

    patient_id: UUID
    until: datetime


@router.post(
    "/patients/{patient_id}/glass",
    response_model=BrokenGlass,
    **takes(
        BREAK,
        status=201,
        refusals=(404, 409),
        examples={
            "An emergency": {
                "reason": "emergency",
                "words": "Found unconscious in the waiting room; allergies unknown.",
            }
        },
    ),
)
async def break_glass(patient_id: UUID, asked: Asked) -> Response:
    """Reach a patient who is not yours for half an hour, for a stated reason. Providers and front desk.

    It is recorded, and the privacy officer hears of it (45 CFR 164.312(a)(2)(ii)).
    """
    return await asked.take(await asked.read(BREAK, patient_id=patient_id), status=201)
