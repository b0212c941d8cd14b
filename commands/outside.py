"""Signing in through an outside OpenID Connect provider: whom it names is an account of ours only once their owner has
said so.

In: issuer and subject, from an id token that was checked. Out: events. An account is never made here, and never found
by its address: who has an address at the provider may change, and the subject doesn't (OpenID Connect Core §5.7).
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final
from uuid import UUID

from pydantic import Field

from commands import addresses
from commands.letters import Letter, letter
from commands.loop import ACCOUNT, IDENTITY, Command, Decision, Reading, handles
from commands.passwords import credentials_of
from commands.second_factors import own, wanted
from domain import account, outside
from domain.access import Actor
from domain.account import AddressNotTaken, Factor, FailureReason, ProviderAccepted, Status
from domain.events import Event
from domain.mfa_policy import Mfa
from domain.outside import AddressNotVouched, IdentityClaimed, IdentityInUse, IdentityReleased, UnknownIdentityTried
from domain.step_up import FRESH, StepUpRequired, fresh_enough

# How an outside proof is called among the factors, as Entra calls it; RFC 8176 has no word for it.
FEDERATED: Final = "fed"

_Said = Field(min_length=1, max_length=500)


class CheckOutside(Command):
    """Ask with the actor `SIGN_IN`, and never under an idempotency key. `multi_factor` is whether the provider vouches
    for more than one factor. → `outcome`, `account_id`, `era`, `second_factors`, `must_enroll`."""

    issuer: str = _Said
    subject: str = _Said
    multi_factor: bool = False


class LinkProvider(Command):
    """With one's own account. `email` is the address that the provider says it has verified. → `identity`,
    and `letter` where they were not linked yet."""

    issuer: str = _Said
    subject: str = _Said
    email: str | None = Field(default=None, max_length=1000)


class UnlinkProvider(Command):
    """→ `identity`, `letter`."""

    identity: UUID


def proven_here(actor: Actor, now: datetime) -> None:
    """Raises `StepUpRequired`: an outside proof must not bring about the next one."""
    fresh_enough(actor, now)
    if FEDERATED in actor.factors:
        raise StepUpRequired("sign in here, with your password, to do this", max_age=int(FRESH.total_seconds()))


@handles(CheckOutside, "sign_in")
async def check_outside(command: CheckOutside, reading: Reading, actor: Actor) -> Decision:
    identity = _blind(reading, command.issuer, command.subject)
    claim = await reading.find(IDENTITY, identity)
    owner = outside.owner(claim)
    if owner is None:
        return Decision([(outside.stream(identity), UnknownIdentityTried(identity=identity))], _told("refused", None))
    state = await reading.get(ACCOUNT, owner)
    if state.status is not Status.ACTIVE or identity not in state.linked:
        failure = account.failed(state, Factor.OUTSIDE, FailureReason.NOT_ACTIVE, reading.now)
        return Decision([(account.stream(state.id), failure)], _told("refused", None))
    event = ProviderAccepted(account_id=state.id, identity=identity, multi_factor=command.multi_factor)
    policy = await wanted(reading, state.role)
    asked = policy is not Mfa.OFF and not command.multi_factor
    factors = [factor.value for factor in state.second_factors] if asked else []
    told = _told("accepted", state.id) | {
        "era": state.era,
        "second_factors": factors,
        "must_enroll": asked and policy is Mfa.REQUIRED and not factors,
    }
    return Decision([(account.stream(state.id), event)], told, account_id=state.id)


@handles(LinkProvider, "change_own_account")
async def link_provider(command: LinkProvider, reading: Reading, actor: Actor) -> Decision:
    state = await own(reading, actor)
    proven_here(actor, reading.now)
    if not _same(command.email, state.email):
        raise AddressNotVouched("the provider does not say that it has verified the address of your account")
    identity = _blind(reading, command.issuer, command.subject)
    answer: dict[str, Any] = {"identity": str(identity)}
    claim = await reading.find(IDENTITY, identity)
    holder = outside.owner(claim)
    if holder == state.id:
        return Decision([], answer)
    if holder is not None:
        raise IdentityInUse("another account is linked with whom the provider knows you as")
    changes: list[tuple[str, Event]] = [
        (account.stream(state.id), account.link_provider(state, identity, command.issuer, command.subject)),
        (outside.stream(identity), IdentityClaimed(identity=identity, account_id=state.id)),
    ]
    return Decision(changes, answer | {"letter": letter(state, Letter.PROVIDER_LINKED)})


@handles(UnlinkProvider, "change_own_account")
async def unlink_provider(command: UnlinkProvider, reading: Reading, actor: Actor) -> Decision:
    """Not by whoever came in by it alone."""
    state = await own(reading, actor)
    proven_here(actor, reading.now)
    changes: list[tuple[str, Event]] = [
        (account.stream(state.id), account.unlink_provider(state, command.identity)),
    ]
    claim = await reading.find(IDENTITY, command.identity)
    if outside.owner(claim) == state.id:
        released = IdentityReleased(identity=command.identity, account_id=state.id)
        changes.append((outside.stream(command.identity), released))
    told = {"identity": str(command.identity), "letter": letter(state, Letter.PROVIDER_UNLINKED)}
    return Decision(changes, told)


def _blind(reading: Reading, issuer: str, subject: str) -> UUID:
    return addresses.shaped(credentials_of(reading).blinds.of("outside", reading.organization, issuer, subject))


def _same(said: str | None, known: Any) -> bool:
    """The very address, and not one that only looks like it, as its claim in the log would have it."""
    if said is None or not isinstance(known, str):
        return False
    try:
        return addresses.read(said).words.casefold() == known.casefold()
    except AddressNotTaken:
        return False


def _told(outcome: str, account_id: UUID | None) -> dict[str, Any]:
    return {
        "outcome": outcome,
        "account_id": str(account_id) if account_id is not None else None,
        "second_factors": [],
        "must_enroll": False,
    }
