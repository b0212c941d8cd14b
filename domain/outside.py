"""Whose an identity at an outside provider is: one stream an identity, so that the log itself decides that it opens one
account.

In: the blind of issuer and subject, a keyed hash. Out: events. Neither of the two ever stands here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar
from uuid import UUID

from domain.events import Event
from domain.refusals import NotAllowed, Refusal


class IdentityEvent(Event):
    """`identity` is the blind, shaped like an id (RFC 9562 §5.8)."""

    identity: UUID


class IdentityClaimed(IdentityEvent):
    NAME: ClassVar[str] = "IdentityClaimed.v1"
    account_id: UUID


class IdentityReleased(IdentityEvent):
    NAME: ClassVar[str] = "IdentityReleased.v1"
    account_id: UUID


class UnknownIdentityTried(IdentityEvent):
    """Somebody whom the provider knows wanted to sign in, and no account is linked with them."""

    NAME: ClassVar[str] = "UnknownIdentityTried.v1"


class IdentityInUse(Refusal):
    """Another account is linked with this person of the provider's."""

    code = "identity_in_use"


class AddressNotVouched(NotAllowed):
    """The provider does not say that it has verified the address of this account."""

    code = "address_not_vouched"


@dataclass(frozen=True, slots=True)
class Identity:
    """`account_id` is None where nobody is linked with it."""

    identity: UUID
    account_id: UUID | None = None


def stream(identity: UUID) -> str:
    return f"outside/{identity}"


def evolve(state: Identity | None, event: Event) -> Identity:
    if not isinstance(event, IdentityEvent):
        raise TypeError(f"{type(event).__name__} is not an event of an outside identity")
    state = state or Identity(event.identity)
    match event:
        case IdentityClaimed():
            return replace(state, account_id=event.account_id)
        case IdentityReleased():
            return replace(state, account_id=None)
    return state


def owner(state: Identity | None) -> UUID | None:
    return state.account_id if state is not None else None
