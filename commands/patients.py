"""Patients: made known, and corrected. What is told of a person goes into events sealed."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from pydantic import StringConstraints

from commands.access import reach
from commands.loop import PATIENT, Command, Decision, Reading, handles
from domain import patient
from domain.access import Actor
from domain.patient import CorrectionSource, PatientDetails, PatientRegistered
from domain.provider import WRITABLE


class RegisterPatient(Command):
    """`reference` is the caller's own name for the person, such as a record number. All of it is sealed."""

    reference: (
        Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200), WRITABLE] | None
    ) = None
    details: PatientDetails | None = None


class CorrectPatientDetails(Command):
    """`details` are all that is known from now on: what is left out is no longer known. `source` is who says so."""

    patient_id: UUID
    details: PatientDetails
    source: CorrectionSource = CorrectionSource.PATIENT


@handles(RegisterPatient, "register_patient")
async def register_patient(command: RegisterPatient, reading: Reading, actor: Actor) -> Decision:
    await reach(reading, actor, "register_patient")
    patient_id = reading.desk.ids.new()
    event = PatientRegistered(patient_id=patient_id, reference=command.reference, details=command.details)
    return Decision([(patient.stream(patient_id), event)], {"patient_id": str(patient_id)})


@handles(CorrectPatientDetails, "correct_patient")
async def correct_patient_details(command: CorrectPatientDetails, reading: Reading, actor: Actor) -> Decision:
    await reach(reading, actor, "correct_patient", patient_id=command.patient_id)
    state = await reading.get(PATIENT, command.patient_id)
    event = patient.correct(state, command.details, command.source, actor.party)
    return Decision([(patient.stream(state.id), event)], {"patient_id": str(state.id)})
