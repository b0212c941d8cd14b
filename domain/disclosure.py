"""An accounting of disclosures (45 CFR 164.528): what of a patient's data was given to whom, and what has to be told.

In: looks, exports and disclosures made by other means. Out: each with the kind that it is. The rule exempts most; an
accounting here shows the exempt too, marked, since a patient may as well know.
"""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from typing import ClassVar, Final
from uuid import UUID

from domain.access import Role
from domain.events import Event, Personal
from domain.look import RecordSeen
from domain.purpose import Purpose

# 45 CFR 164.528(a)(1): six years before the date on which the accounting is asked for.
REACHES_BACK: Final = timedelta(days=6 * 365 + 2)


class Kind(StrEnum):
    ACCOUNTABLE = "accountable"
    """Has to be told."""
    TO_THE_INDIVIDUAL = "to_the_individual"
    """To the patient, or to who stands for them (45 CFR 164.528(a)(1)(ii), 164.502(g))."""
    TREATMENT_PAYMENT_OPERATIONS = "treatment_payment_operations"
    """Given outside to treat, to be paid, or to run the clinic (45 CFR 164.528(a)(1)(i))."""
    USE = "use"
    """By the clinic's own people, so nothing was disclosed (45 CFR 160.103)."""


class Means(StrEnum):
    """How something went out that the book did not send itself."""

    POST = "post"
    FAX = "fax"
    EMAIL = "email"
    TELEPHONE = "telephone"
    IN_PERSON = "in_person"
    ELECTRONIC = "electronic"


class DisclosureRecorded(Event):
    """A disclosure made by other means than the book's own, written down by who made it: to whom, and where they are
    if it is known, what in brief, and why (45 CFR 164.528(b)(2))."""

    NAME: ClassVar[str] = "DisclosureRecorded.v1"
    PERSON: ClassVar[str] = "patient_id"
    patient_id: UUID
    disclosure_id: UUID
    purpose: Purpose
    means: Means
    recipient: Personal[str]
    address: Personal[str] | None = None
    what: Personal[str]
    why: Personal[str]


_EXEMPT: Final = frozenset(
    {Purpose.TREATMENT, Purpose.PAYMENT, Purpose.OPERATIONS, Purpose.EMERGENCY, Purpose.SYSTEM_ADMINISTRATION}
)
# What research and public health are given is accounted for whoever looks: who works at the clinic takes it outside.
_OUTSIDE: Final = frozenset({Purpose.PUBLIC_HEALTH, Purpose.RESEARCH})


def kind_of_look(look: RecordSeen, purpose: str | None) -> Kind:
    """What a look counts as. Another system is outside; what is not known to be exempt has to be told."""
    if look.role is Role.PATIENT:
        return Kind.TO_THE_INDIVIDUAL
    if purpose in _OUTSIDE:
        return Kind.ACCOUNTABLE
    if look.role is not Role.SYSTEM:
        return Kind.USE
    return Kind.TREATMENT_PAYMENT_OPERATIONS if purpose in _EXEMPT else Kind.ACCOUNTABLE


def kind_of_disclosure(event: DisclosureRecorded) -> Kind:
    """What was written down by hand went outside."""
    return Kind.TREATMENT_PAYMENT_OPERATIONS if event.purpose in _EXEMPT else Kind.ACCOUNTABLE


def stream(patient_id: UUID) -> str:
    return f"disclosures/{patient_id}"


def evolve(state: tuple[UUID, ...] | None, event: Event) -> tuple[UUID, ...]:
    match event:
        case DisclosureRecorded():
            return (*(state or ()), event.disclosure_id)
    raise TypeError(f"{type(event).__name__} is not a disclosure")
