"""Breaking the glass: reach over a patient in an emergency, for a stated reason and a short time.

Required by 45 CFR 164.312(a)(2)(ii), emergency access procedure. In: who asks for which patient, and why. Out: an event
that is its own record; the privacy officer hears of it. It ends by the instant handed in; nothing has to run for that.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import ClassVar, Final
from uuid import UUID

from domain.events import Event, Personal
from domain.time import Instant

LASTS: Final = timedelta(minutes=30)


class GlassReason(StrEnum):
    EMERGENCY = "emergency"
    COVERING_COLLEAGUE = "covering_colleague"
    FIRST_CONTACT = "first_contact"
    SAFEGUARDING = "safeguarding"
    LEGAL_DUTY = "legal_duty"


class GlassBroken(Event):
    """Who broke it stands beside the event, as ever. `words` are theirs about the patient, sealed with the patient's
    key."""

    NAME: ClassVar[str] = "GlassBroken.v1"
    PERSON: ClassVar[str] = "patient_id"
    patient_id: UUID
    reason: GlassReason
    words: Personal[str]
    until: Instant


@dataclass(frozen=True, slots=True)
class Glass:
    """One person's broken glass over one patient; broken again, it lasts anew."""

    patient_id: UUID
    until: datetime


def stream(person: str, patient_id: UUID) -> str:
    """`person` is who broke it: their account, or the subject of their token."""
    return f"glass/{person}/{patient_id}"


def streams() -> tuple[str, str]:
    """The first and the last name that any glass can have."""
    return "glass/", "glass/~"


def evolve(state: Glass | None, event: Event) -> Glass:
    match event:
        case GlassBroken():
            return Glass(event.patient_id, event.until)
    raise TypeError(f"{type(event).__name__} is not an event of a broken glass")


def open_at(state: Glass, now: datetime) -> bool:
    return now < state.until


def break_(patient_id: UUID, reason: GlassReason, words: str, now: datetime) -> GlassBroken:
    return GlassBroken(patient_id=patient_id, reason=reason, words=words, until=now + LASTS)
