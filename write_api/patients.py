"""Patients: made known, corrected, and asked for their consent."""

from __future__ import annotations

from typing import Final
from uuid import UUID

from fastapi import APIRouter
from starlette.responses import Response

from commands.consents import GiveConsent, WithdrawConsent
from commands.patients import CorrectPatientDetails, RegisterPatient
from domain import patient
from domain.consent import ConsentPurpose
from write_api.asking import Asked
from write_api.bodies import Body
from write_api.describing import Answered, takes

router = APIRouter(tags=["patients"])

REGISTER: Final = Body(RegisterPatient)
CORRECT: Final = Body(CorrectPatientDetails, "patient_id")
GIVE: Final = Body(GiveConsent, "patient_id")
WITHDRAW: Final = Body(WithdrawConsent, "patient_id")

_ANNA: Final = {
    "names": [{"family": "Example", "given": ["Anna"]}],
    "birth_date": "1987-05-04",
    "phones": [{"number": "+4930123456"}],
    "language": "de",
}


class PatientAnswer(Answered):
    patient_id: UUID


class ConsentAnswer(PatientAnswer):
    purpose: ConsentPurpose


@router.post(
    "/patients",
    response_model=PatientAnswer,
    **takes(
        REGISTER,
        status=201,
        located=True,
        examples={
            "With your own record number": {"reference": "MRN-0042"},
            "With who they are": {"details": _ANNA},
        },
    ),
)
async def register_patient(asked: Asked) -> Response:
    """Make a patient known. Staff only.

    `reference` is your own name for the person. It and `details` are sealed with the patient's own key.
    """
    return await asked.take(await asked.read(REGISTER), status=201, made="patients/{patient_id}/appointments")


@router.put(
    "/patients/{patient_id}/details",
    response_model=PatientAnswer,
    **takes(CORRECT, refusals=(404, 409), form=True, examples={"A new address": {"details": _ANNA}}),
)
async def correct_patient_details(patient_id: UUID, asked: Asked) -> Response:
    """Say what is known of a patient from now on, all of it. What was known before stays readable with `as_of`.

    Staff, and patients their own.
    """
    return await asked.take(await asked.read(CORRECT, patient_id=patient_id), form=patient.stream(patient_id))


@router.post(
    "/patients/{patient_id}/consents",
    response_model=ConsentAnswer,
    **takes(
        GIVE,
        status=201,
        refusals=(404, 409),
        located=True,
        examples={"To e-mails": {"purpose": "email_messages", "text_version": "2027-01/en", "means": "online"}},
    ),
)
async def give_consent(patient_id: UUID, asked: Asked) -> Response:
    """Write down that a patient agrees to something. Staff, and patients for themselves."""
    said = await asked.read(GIVE, patient_id=patient_id)
    return await asked.take(said, status=201, made="patients/{patient_id}/consents")


@router.post(
    "/patients/{patient_id}/consents/withdraw",
    response_model=ConsentAnswer,
    **takes(WITHDRAW, refusals=(404, 409), examples={"No e-mails": {"purpose": "email_messages", "means": "online"}}),
)
async def withdraw_consent(patient_id: UUID, asked: Asked) -> Response:
    """Write down that a patient agrees no longer. Staff, and patients for themselves."""
    return await asked.take(await asked.read(WITHDRAW, patient_id=patient_id))
