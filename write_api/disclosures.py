"""Disclosures of a patient's data that were made by other means than the book's own."""

from __future__ import annotations

from typing import Final
from uuid import UUID

from fastapi import APIRouter
from starlette.responses import Response

from commands.disclosures import RecordDisclosure
from write_api.asking import Asked
from write_api.bodies import Body
from write_api.describing import Answered, takes

router = APIRouter(tags=["audit"])

RECORD: Final = Body(RecordDisclosure, "patient_id")


class DisclosureAnswer(Answered):
    patient_id: UUID
    disclosure_id: UUID


@router.post(
    "/patients/{patient_id}/disclosures",
    response_model=DisclosureAnswer,
    **takes(
        RECORD,
        status=201,
        refusals=(404, 409),
        located=True,
        examples={
            "A notice to the health office": {
                "made_at": "2026-03-02T10:00:00Z",
                "purpose": "PUBLICHEALTH",
                "means": "fax",
                "recipient": "Health Office of Example",
                "address": "1 Example Square",
                "what": "a positive test for measles",
                "why": "a notifiable disease",
            }
        },
    ),
)
async def record_disclosure(patient_id: UUID, asked: Asked) -> Response:
    """Write down that data of a patient was given to somebody by post, telephone, fax or in person. Staff only.

    It stands in the patient's accounting of disclosures (45 CFR 164.528). Its words are sealed with the patient's key.
    """
    command = await asked.read(RECORD, patient_id=patient_id)
    return await asked.take(command, status=201, made="patients/{patient_id}/disclosures")
