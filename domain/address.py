"""Whose an e-mail address is: one stream an address, so that the log itself decides that nobody shares one.

In: an address's blind, a keyed hash of how it looks. Out: events. The address itself never stands here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import ClassVar
from uuid import UUID

from domain.account import OPEN, Guard
from domain.events import Event


class Attempt(StrEnum):
    SIGN_IN = "sign_in"
    RESET = "reset"


class AddressEvent(Event):
    """`address` is the blind, shaped like an id (RFC 9562 §5.8)."""

    address: UUID


class AddressClaimed(AddressEvent):
    NAME: ClassVar[str] = "AddressClaimed.v1"
    account_id: UUID


class AddressReleased(AddressEvent):
    NAME: ClassVar[str] = "AddressReleased.v1"
    account_id: UUID


class UnknownAddressTried(AddressEvent):
    """Somebody asked for an account that is not there. Sign-ins are slowed as at a known one, so that nobody learns
    from a wait who has an account."""

    NAME: ClassVar[str] = "UnknownAddressTried.v1"
    attempt: Attempt
    counts: bool
    locked_until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Address:
    """`account_id` is None where nobody has it."""

    address: UUID
    account_id: UUID | None = None
    guard: Guard = OPEN


def stream(address: UUID) -> str:
    return f"email/{address}"


def evolve(state: Address | None, event: Event) -> Address:
    if not isinstance(event, AddressEvent):
        raise TypeError(f"{type(event).__name__} is not an event of an address")
    state = state or Address(event.address)
    match event:
        case AddressClaimed():
            return replace(state, account_id=event.account_id, guard=OPEN)
        case AddressReleased():
            return replace(state, account_id=None)
        case UnknownAddressTried() if event.counts:
            return replace(state, guard=state.guard.failed(event.locked_until))
    return state


def owner(state: Address | None) -> UUID | None:
    return state.account_id if state is not None else None


def guard_of(state: Address | None) -> Guard:
    return state.guard if state is not None else OPEN


def tried(state: Address | None, address: UUID, attempt: Attempt, now: datetime) -> UnknownAddressTried:
    guard = guard_of(state)
    counts = attempt is Attempt.SIGN_IN and guard.wait(now) is None
    return UnknownAddressTried(
        address=address, attempt=attempt, counts=counts, locked_until=guard.after_failure(now) if counts else None
    )
