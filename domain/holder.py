"""Which account acts as a patient or a provider: one stream a person, so that the log decides that there is one.

In: the person's id and an account's. Out: events.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar
from uuid import UUID

from domain.events import Event


class HolderNamed(Event):
    NAME: ClassVar[str] = "HolderNamed.v1"
    person_id: UUID
    account_id: UUID


class HolderDismissed(Event):
    NAME: ClassVar[str] = "HolderDismissed.v1"
    person_id: UUID
    account_id: UUID


@dataclass(frozen=True, slots=True)
class Holder:
    """`account_id` is None where nobody acts as the person any more."""

    person_id: UUID
    account_id: UUID | None


def stream(person_id: UUID) -> str:
    return f"holder/{person_id}"


def evolve(state: Holder | None, event: Event) -> Holder:
    match event:
        case HolderNamed():
            return Holder(event.person_id, event.account_id)
        case HolderDismissed():
            return Holder(event.person_id, None)
    raise TypeError(f"{type(event).__name__} is not an event of a holder")
