"""Patients: for now an id that visits hang on; their details come with accounts."""

from __future__ import annotations

from typing import Final
from uuid import UUID

from fastapi import APIRouter
from starlette.responses import Response

from commands.patients import RegisterPatient
from write_api.asking import Asked
from write_api.bodies import Body
from write_api.describing import Answered, takes

router = APIRouter(tags=["patients"])

REGISTER: Final = Body(RegisterPatient)


class PatientAnswer(Answered):
    patient_id: UUID


@router.post(
    "/patients",
    response_model=PatientAnswer,
    **takes(REGISTER, status=201, located=True, examples={"With your own record number": {"reference": "MRN-0042"}}),
)
async def register_patient(asked: Asked) -> Response:
    """Make a patient known. Staff only.

    `reference` is your own name for the person; it is sealed with the patient's own key and never shown to others.
    """
    return await asked.take(await asked.read(REGISTER), status=201, made="patients/{patient_id}/appointments")
