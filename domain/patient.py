"""A patient, as far as the book needs one: an opaque reference with an optional sealed background.

Names and how to reach somebody come with accounts; here a patient is an id that visits hang on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar
from uuid import UUID

from domain.events import Event, Personal


class PatientRegistered(Event):
    """`reference` is another system's name for the person; `background` holds what an import knew of them."""

    NAME: ClassVar[str] = "PatientRegistered.v1"
    PERSON: ClassVar[str] = "patient_id"
    patient_id: UUID
    reference: Personal[str] | None = None
    background: Personal[dict[str, str]] | None = None


@dataclass(frozen=True, slots=True)
class Patient:
    id: UUID


def stream(patient_id: UUID) -> str:
    return f"patient/{patient_id}"


def evolve(state: Patient | None, event: Event) -> Patient:
    match event:
        case PatientRegistered():
            return Patient(event.patient_id)
    raise TypeError(f"{type(event).__name__} is not an event of a patient")
