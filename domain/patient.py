"""A patient: who they are, what may not be forgotten yet, and being forgotten.

In: decisions asked for by commands. Out: events. What is known of the person is one sealed field, whole in every event
that tells it, so a correction overwrites nothing and any earlier word of it can be read as of then. The words are those
of FHIR R4's Patient. The state that decisions rest on holds none of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from enum import StrEnum
from typing import Annotated, ClassVar, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from domain.appointment import Party
from domain.events import Erased, Event, Personal
from domain.provider import WRITABLE, Words
from domain.refusals import Refusal
from domain.retention import RetentionPolicy, accounted_until, kept_until
from domain.time import Day, Instant


class NameUse(StrEnum):
    """FHIR R4 name-use."""

    OFFICIAL = "official"
    USUAL = "usual"
    MAIDEN = "maiden"
    NICKNAME = "nickname"
    OLD = "old"


class ContactUse(StrEnum):
    """FHIR R4 contact-point-use and address-use, as far as both share it."""

    HOME = "home"
    WORK = "work"
    MOBILE = "mobile"


class AdministrativeGender(StrEnum):
    """FHIR R4 administrative-gender."""

    FEMALE = "female"
    MALE = "male"
    OTHER = "other"
    UNKNOWN = "unknown"


class _Told(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class HumanName(_Told):
    use: NameUse = NameUse.OFFICIAL
    family: Words | None = None
    given: Annotated[tuple[Words, ...], Field(max_length=8)] = ()
    prefix: Words | None = None
    suffix: Words | None = None

    @model_validator(mode="after")
    def _names_somebody(self) -> Self:
        if self.family is None and not self.given:
            raise ValueError("a name has a family name or a given name")
        return self

    def __str__(self) -> str:
        return " ".join(part for part in (self.prefix, *self.given, self.family, self.suffix) if part)


class Phone(_Told):
    """`number` is E.164: a plus, the country's code and the number, digits alone."""

    number: Annotated[str, StringConstraints(pattern=r"^\+[1-9][0-9]{6,14}$")]
    use: ContactUse = ContactUse.MOBILE


class Email(_Told):
    address: Annotated[str, StringConstraints(max_length=254, pattern=r"^[^@\s\x00]+@[^@\s\x00]+\.[^@\s\x00]+$")]
    use: ContactUse = ContactUse.HOME


class Address(_Told):
    """`country` is ISO 3166-1 alpha-2."""

    lines: Annotated[tuple[Words, ...], Field(max_length=5)] = ()
    postal_code: Annotated[str, StringConstraints(strip_whitespace=True, max_length=20), WRITABLE] | None = None
    city: Words | None = None
    state: Words | None = None
    country: Annotated[str, StringConstraints(pattern=r"^[A-Z]{2}$")] | None = None
    use: ContactUse = ContactUse.HOME


class PatientDetails(_Told):
    """What is known of a person. `language` is the one they prefer to be spoken to in (BCP 47)."""

    names: Annotated[tuple[HumanName, ...], Field(max_length=5)] = ()
    birth_date: Day | None = None
    gender: AdministrativeGender | None = None
    phones: Annotated[tuple[Phone, ...], Field(max_length=5)] = ()
    emails: Annotated[tuple[Email, ...], Field(max_length=5)] = ()
    addresses: Annotated[tuple[Address, ...], Field(max_length=5)] = ()
    language: (
        Annotated[str, StringConstraints(max_length=35, pattern=r"^[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*$")] | None
    ) = None


class CorrectionSource(StrEnum):
    """Who or what says that it is so (GDPR 16: the person may ask for it; 5(1)(d): the clinic keeps it right)."""

    PATIENT = "patient"
    REPRESENTATIVE = "representative"
    DOCUMENT = "document"
    STAFF = "staff"
    OTHER_SYSTEM = "other_system"


class ErasureGround(StrEnum):
    """GDPR 17(1), letter by letter."""

    NO_LONGER_NECESSARY = "no_longer_necessary"
    CONSENT_WITHDRAWN = "consent_withdrawn"
    OBJECTION = "objection"
    UNLAWFUL = "unlawful"
    LEGAL_OBLIGATION = "legal_obligation"


class RefusalReason(StrEnum):
    """Why an erasure is refused. All but the last are GDPR 17(3)."""

    RETENTION = "retention"
    LEGAL_CLAIMS = "legal_claims"
    VISITS_TO_COME = "visits_to_come"


# What each reason rests on.
ARTICLE = {
    RefusalReason.RETENTION: "GDPR 17(3)(b)",
    RefusalReason.LEGAL_CLAIMS: "GDPR 17(3)(e)",
    RefusalReason.VISITS_TO_COME: "GDPR 17(1)(a)",
}


class HoldReason(StrEnum):
    LITIGATION = "litigation"
    INVESTIGATION = "investigation"
    AUTHORITY = "authority"


class PatientRegistered(Event):
    """`reference` is another system's name for the person; `background` holds what an import knew of them."""

    NAME: ClassVar[str] = "PatientRegistered.v1"
    PERSON: ClassVar[str] = "patient_id"
    patient_id: UUID
    reference: Personal[str] | None = None
    background: Personal[dict[str, str]] | None = None
    details: Personal[PatientDetails] | None = None


class PatientDetailsCorrected(Event):
    """What is known from now on, all of it. `source` says who told it, `by` who wrote it down."""

    NAME: ClassVar[str] = "PatientDetailsCorrected.v1"
    PERSON: ClassVar[str] = "patient_id"
    patient_id: UUID
    details: Personal[PatientDetails]
    source: CorrectionSource
    by: Party


class LegalHoldPlaced(Event):
    """Nothing of the person may be erased until it is lifted. `matter` says what for."""

    NAME: ClassVar[str] = "LegalHoldPlaced.v1"
    PERSON: ClassVar[str] = "patient_id"
    patient_id: UUID
    hold_id: UUID
    reason: HoldReason
    matter: Personal[str] | None = None


class LegalHoldLifted(Event):
    NAME: ClassVar[str] = "LegalHoldLifted.v1"
    patient_id: UUID
    hold_id: UUID


class ErasureRefused(Event):
    """Somebody asked that the person be forgotten, and may not have it yet. `until` is the first day to ask again,
    where that is known."""

    NAME: ClassVar[str] = "ErasureRefused.v1"
    patient_id: UUID
    ground: ErasureGround
    reason: RefusalReason
    until: Day | None = None


class PersonErased(Event):
    """The person is to be forgotten: from here on their key may be destroyed, and is (GDPR 17(1))."""

    NAME: ClassVar[str] = "PersonErased.v1"
    patient_id: UUID
    ground: ErasureGround


@dataclass(frozen=True, slots=True)
class Patient:
    """`holds` are the legal holds that stand."""

    id: UUID
    erased: bool = False
    holds: frozenset[UUID] = frozenset()


class AlreadyErased(Refusal):
    """The person was forgotten. Their id stays, so that what happened can still be counted."""

    code = "person_erased"


class UnknownHold(Refusal):
    code = "unknown_hold"
    status = 404


def stream(patient_id: UUID) -> str:
    return f"patient/{patient_id}"


def evolve(state: Patient | None, event: Event) -> Patient:
    match event:
        case PatientRegistered():
            return Patient(event.patient_id)
        case PatientDetailsCorrected() | ErasureRefused() if state is not None:
            return state
        case LegalHoldPlaced() if state is not None:
            return replace(state, holds=state.holds | {event.hold_id})
        case LegalHoldLifted() if state is not None:
            return replace(state, holds=state.holds - {event.hold_id})
        case PersonErased() if state is not None:
            return replace(state, erased=True)
    raise TypeError(f"{type(event).__name__} is not an event of a patient")


def present(state: Patient) -> Patient:
    """Raises `AlreadyErased`."""
    if state.erased:
        raise AlreadyErased("this person was forgotten", id=str(state.id))
    return state


def correct(state: Patient, details: PatientDetails, source: CorrectionSource, by: Party) -> PatientDetailsCorrected:
    """Raises `AlreadyErased`."""
    present(state)
    return PatientDetailsCorrected(patient_id=state.id, details=details, source=source, by=by)


def hold(state: Patient, hold_id: UUID, reason: HoldReason, matter: str | None) -> LegalHoldPlaced:
    """Raises `AlreadyErased`."""
    present(state)
    return LegalHoldPlaced(patient_id=state.id, hold_id=hold_id, reason=reason, matter=matter)


def lift(state: Patient, hold_id: UUID) -> LegalHoldLifted:
    """Raises `UnknownHold`."""
    if hold_id not in state.holds:
        raise UnknownHold("no such legal hold stands", id=str(hold_id))
    return LegalHoldLifted(patient_id=state.id, hold_id=hold_id)


def erase(
    state: Patient,
    ground: ErasureGround,
    policy: RetentionPolicy,
    last_visit: date | None,
    today: date,
    disclosed: date | None = None,
) -> PersonErased | ErasureRefused:
    """Whether the person may be forgotten; a no is an event too, since it is owed an answer with its reason (GDPR
    12(4)). `last_visit` is the day of the latest visit, past or to come; without one there is no medical record.
    `disclosed` is the day of the latest disclosure that an accounting would name.

    What was processed unlawfully has no record worth keeping, so retention does not hold it; the accounting of where it
    went does. Raises `AlreadyErased`."""
    present(state)

    def refused(reason: RefusalReason, until: date | None = None) -> ErasureRefused:
        return ErasureRefused(patient_id=state.id, ground=ground, reason=reason, until=until)

    if state.holds:
        return refused(RefusalReason.LEGAL_CLAIMS)
    if last_visit is not None and last_visit >= today:
        return refused(RefusalReason.VISITS_TO_COME)
    ends = [today]
    if last_visit is not None and ground is not ErasureGround.UNLAWFUL:
        ends.append(kept_until(policy, last_visit))
    if disclosed is not None:
        ends.append(accounted_until(disclosed))
    if (until := max(ends)) > today:
        return refused(RefusalReason.RETENTION, until)
    return PersonErased(patient_id=state.id, ground=ground)


@dataclass(frozen=True, slots=True)
class Telling:
    """What was known from `since` on, and who said so; `source` is None at registration."""

    since: Instant
    source: CorrectionSource | None
    details: PatientDetails | Erased


@dataclass(frozen=True, slots=True)
class Record:
    """All that a patient's stream tells, words too: for who may read them, never for a decision. `details` are the
    latest."""

    registered: Instant
    reference: str | Erased | None = None
    background: dict[str, str] | Erased | None = None
    tellings: Sequence[Telling] = field(default=())
    refused: Sequence[tuple[Instant, ErasureRefused]] = field(default=())
    erased: Instant | None = None

    @property
    def details(self) -> PatientDetails | Erased | None:
        return self.tellings[-1].details if self.tellings else None


def tell(record: Record | None, event: Event, at: Instant) -> Record:
    """The record after one more event, which was true `at`."""
    match event:
        case PatientRegistered():
            told = (Telling(at, None, event.details),) if event.details is not None else ()
            return Record(at, event.reference, event.background, told)
        case PatientDetailsCorrected() if record is not None:
            return replace(record, tellings=(*record.tellings, Telling(at, event.source, event.details)))
        case ErasureRefused() if record is not None:
            return replace(record, refused=(*record.refused, (at, event)))
        case PersonErased() if record is not None:
            return replace(record, erased=at)
        case LegalHoldPlaced() | LegalHoldLifted() if record is not None:
            return record
    raise TypeError(f"{type(event).__name__} is not an event of a patient")
