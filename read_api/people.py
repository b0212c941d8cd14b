"""Patients by what staff know of them: the beginning of a name, a birth date, a phone number."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Final, Self
from uuid import UUID

from fastapi import APIRouter, Body
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator
from starlette.responses import Response

from domain import patient
from domain.look import Screen
from domain.patient import HumanName, PatientDetails, Phone
from domain.provider import WRITABLE
from domain.time import Day
from projections.people import END, SHORTEST, Sought, dialled, folded
from read_api.asking import Asked
from read_api.describing import answers

router = APIRouter(tags=["patients"])

_SHOWN: Final = 50
_BITE: Final = 100


class PatientSearch(BaseModel):
    """All that is said has to fit. It stands in a body since an address is written down in many places."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: Annotated[str, StringConstraints(strip_whitespace=True, max_length=200), WRITABLE] | None = Field(
        None, description="beginnings of given and family names, in any order, accents or none"
    )
    birth_date: Annotated[Day, Field(strict=False)] | None = None
    phone: Annotated[str, StringConstraints(strip_whitespace=True, max_length=40), WRITABLE] | None = Field(
        None, description="as it is dialled: `+49 30 123456` or `030 123456`"
    )

    @model_validator(mode="after")
    def _says_enough(self) -> Self:
        words = [max(map(len, ways), default=0) for ways in folded(self.name or "")]
        if self.name is not None and not any(words):
            raise ValueError("a name holds a letter")
        if self.phone is not None and len(dialled(self.phone)) < END:
            raise ValueError(f"a phone number has {END} digits at least")
        if self.birth_date is None and self.phone is None and max(words, default=0) < SHORTEST:
            raise ValueError(f"say {SHORTEST} letters of a name, a birth date or a phone number")
        return self


class FoundPatient(BaseModel):
    patient_id: UUID
    names: list[HumanName]
    birth_date: date | None
    phones: list[Phone]


class FoundPatients(BaseModel):
    """Longest known first. `more` says that others may fit: say more of whom you look for."""

    patients: list[FoundPatient]
    more: bool


@router.post("/patients/search", response_model=FoundPatients, **answers())
async def search_patients(asked: Asked, said: Annotated[PatientSearch, Body()]) -> Response:
    """Look for patients, for staff. What is shown is opened from the log at this moment, and written down as a look."""
    asked.may("search_patients")
    people = asked.library.people
    position = await asked.caught_up(people)
    sought = Sought(said.name or "", said.birth_date, said.phone or "")
    meant, more = await people.find(asked.organization, sought)
    found: list[FoundPatient] = []
    for start in range(0, len(meant), _BITE):
        if len(found) > _SHOWN:
            break
        found += await _fitting(asked, meant[start : start + _BITE], sought)
    shown = found[:_SHOWN]
    asked.shows(Screen.PATIENT_SEARCH, *(one.patient_id for one in shown))
    return asked.answer(FoundPatients(patients=shown, more=more or len(found) > _SHOWN), position)


async def _fitting(asked: Asked, meant: list[UUID], sought: Sought) -> list[FoundPatient]:
    streams = {patient.stream(one): one for one in meant}
    told = await asked.library.log.load(asked.organization, dict.fromkeys(streams, 0))
    found = []
    for stream, patient_id in streams.items():
        record: patient.Record | None = None
        for recorded in told[stream]:
            record = patient.tell(record, recorded.event, recorded.recorded_at)
        details = record.details if record is not None and record.erased is None else None
        if isinstance(details, PatientDetails) and sought.fits(details):
            found.append(
                FoundPatient(
                    patient_id=patient_id,
                    names=list(details.names),
                    birth_date=details.birth_date,
                    phones=list(details.phones),
                )
            )
    return found
