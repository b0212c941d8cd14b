"""What a patient agrees to, and no longer: one stream a patient, so that a consent has a history.

In: decisions asked for by commands. Out: events. Consent is for one purpose each, to one version of the words that were
shown, and is withdrawn as easily as it was given (GDPR 7). Where it stands for a purpose, the latest event says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, ClassVar
from uuid import UUID

from pydantic import StringConstraints

from domain.appointment import Party
from domain.events import Event
from domain.refusals import Refusal


class ConsentPurpose(StrEnum):
    """What for. What treatment needs rests on the contract of care, and is not asked for here."""

    EMAIL_MESSAGES = "email_messages"
    SMS_MESSAGES = "sms_messages"
    RESEARCH = "research"
    GENDER_IN_ANALYTICS = "gender_in_analytics"


class ConsentMeans(StrEnum):
    """How it was told."""

    IN_WRITING = "in_writing"
    ONLINE = "online"
    SPOKEN = "spoken"


# Names the words that were shown, such as `2026-03/en`; the words themselves are kept where documents are.
TextVersion = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,39}$")]


class ConsentGiven(Event):
    NAME: ClassVar[str] = "ConsentGiven.v1"
    patient_id: UUID
    purpose: ConsentPurpose
    text_version: TextVersion
    means: ConsentMeans
    by: Party


class ConsentWithdrawn(Event):
    NAME: ClassVar[str] = "ConsentWithdrawn.v1"
    patient_id: UUID
    purpose: ConsentPurpose
    means: ConsentMeans
    by: Party


@dataclass(frozen=True, slots=True)
class Consents:
    """`given` maps each purpose that is agreed to now to the version of the words."""

    given: Mapping[ConsentPurpose, str] = field(default_factory=dict)


class ConsentStands(Refusal):
    """It was given already, to these very words."""

    code = "consent_stands"


class NoConsent(Refusal):
    """There is nothing to withdraw."""

    code = "no_consent"


def stream(patient_id: UUID) -> str:
    return f"consent/{patient_id}"


def evolve(state: Consents | None, event: Event) -> Consents:
    given = dict(state.given) if state is not None else {}
    match event:
        case ConsentGiven():
            given[event.purpose] = event.text_version
        case ConsentWithdrawn():
            given.pop(event.purpose, None)
        case _:
            raise TypeError(f"{type(event).__name__} is not an event of consents")
    return Consents(given)


def give(
    state: Consents | None,
    patient_id: UUID,
    purpose: ConsentPurpose,
    text_version: str,
    means: ConsentMeans,
    by: Party,
) -> ConsentGiven:
    """Raises `ConsentStands`."""
    if state is not None and state.given.get(purpose) == text_version:
        raise ConsentStands("this consent was given already", purpose=purpose.value)
    return ConsentGiven(patient_id=patient_id, purpose=purpose, text_version=text_version, means=means, by=by)


def withdraw(
    state: Consents | None, patient_id: UUID, purpose: ConsentPurpose, means: ConsentMeans, by: Party
) -> ConsentWithdrawn:
    """Raises `NoConsent`."""
    if state is None or purpose not in state.given:
        raise NoConsent("no consent to this stands", purpose=purpose.value)
    return ConsentWithdrawn(patient_id=patient_id, purpose=purpose, means=means, by=by)
