"""Patients as references: a new one is an id. Their details come with accounts."""

from __future__ import annotations

from typing import Annotated

from pydantic import StringConstraints

from commands.loop import Command, Decision, Reading, handles
from domain import access, patient
from domain.access import Actor
from domain.patient import PatientRegistered
from domain.provider import WRITABLE


class RegisterPatient(Command):
    """`reference` is the caller's own name for the person, such as a record number; it is sealed."""

    reference: (
        Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200), WRITABLE] | None
    ) = None


@handles(RegisterPatient)
async def register_patient(command: RegisterPatient, reading: Reading, actor: Actor) -> Decision:
    access.require(actor, "register_patient")
    patient_id = reading.desk.ids.new()
    event = PatientRegistered(patient_id=patient_id, reference=command.reference)
    return Decision([(patient.stream(patient_id), event)], {"patient_id": str(patient_id)})
