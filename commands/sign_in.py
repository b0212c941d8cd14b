"""Signing in: each proof is checked by itself, and what came of it is an event either way.

In: an address and a password, or a second factor. Out: an answer that says accepted, refused or locked; a wrong guess
is recorded, so it is an answer and no refusal. An unknown address costs the same work, is slowed in the same way and
hears the same words as a wrong password.

Ask with the actor `SIGN_IN`, and never under an idempotency key: a remembered answer would let a second one in.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final
from uuid import UUID

from pydantic import Field, SecretStr

from commands import addresses, passkeys, second_factors
from commands.addresses import EmailAddress
from commands.letters import Letter, letter
from commands.loop import ACCOUNT, ADDRESS, Command, Decision, Reading, handles
from commands.passwords import credentials_of, normal
from domain import account, address
from domain.access import Actor, Role
from domain.account import (
    Account,
    AddressNotTaken,
    Factor,
    FailureReason,
    PasskeyNotTaken,
    PasswordAccepted,
    PasswordRehashed,
    SignInFailed,
    Status,
)
from domain.address import Attempt
from domain.events import Event
from domain.mfa_policy import Mfa

SIGN_IN: Final = Actor("sign-in", Role.SYSTEM)


class CheckPassword(Command):
    """→ `outcome`, `account_id`, `era`, `second_factors`, `must_enroll`, `retry_after` (seconds, when locked). `era` is
    the account's in which the password was right; a session starts in no other."""

    email: str = Field(max_length=1000)
    password: SecretStr = Field(max_length=1000)


class CheckTotp(Command):
    """→ `outcome`, `account_id`, `retry_after`."""

    account_id: UUID
    code: SecretStr = Field(max_length=100)


class CheckRecoveryCode(Command):
    """→ `outcome`, `account_id`, `retry_after`, `letter`."""

    account_id: UUID
    code: SecretStr = Field(max_length=100)


class CheckPasskey(Command):
    """`response` is what `navigator.credentials.get()` gave, as JSON; `challenge` the one that `OfferPasskey` made.
    Without an account it is the passkey that says whose it is, and its owner must have been verified by it, since there
    was no password. → `outcome`, `account_id`, `era`, `user_verified`, and `methods` in the words of RFC 8176."""

    account_id: UUID | None = None
    response: dict[str, Any]
    challenge: str = Field(max_length=1000)


class OfferPasskey(Command):
    """What to hand to `navigator.credentials.get()`; `challenge` comes back with the response. → both."""

    account_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class Who:
    """As whom an account acts, as tokens say it. `active` is false once it is locked or closed."""

    role: Role
    patient_id: UUID | None
    provider_id: UUID | None
    active: bool


def account_of(state: Account) -> Who:
    return Who(state.role, state.patient_id, state.provider_id, state.status is Status.ACTIVE)


@handles(CheckPassword, "sign_in")
async def check_password(command: CheckPassword, reading: Reading, actor: Actor) -> Decision:
    credentials = credentials_of(reading)
    password = normal(command.password.get_secret_value())
    try:
        said = addresses.read(command.email)
    except AddressNotTaken:
        # No account can have it; what is tried with it is worth no stream of its own.
        await credentials.passwords.verify(None, password)
        return Decision([], _told("refused", None))
    blind = said.blind(credentials.blinds, reading.organization)
    # Guesses at one account wait for each other, so that none is hashed in vain when another one locks it.
    claim = await reading.alone(ADDRESS, blind)
    state = await _account(address.owner(claim), reading)
    if state is None:
        return await _unknown(said, blind, reading, password)
    if (wait := state.password_guard.wait(reading.now)) is not None:
        return _failed(state, Factor.PASSWORD, FailureReason.LOCKED, reading, wait)
    hashed = state.password_hash if isinstance(state.password_hash, str) else None
    right = await credentials.passwords.verify(hashed, password)
    if state.status is not Status.ACTIVE:
        return _failed(state, Factor.PASSWORD, FailureReason.NOT_ACTIVE, reading)
    if not right or hashed is None:
        return _failed(state, Factor.PASSWORD, FailureReason.WRONG, reading)
    events: list[Event] = [PasswordAccepted(account_id=state.id)]
    if credentials.passwords.needs_rehash(hashed):
        events.append(PasswordRehashed(account_id=state.id, password_hash=await credentials.passwords.hash(password)))
    policy = await second_factors.wanted(reading, state.role)
    factors = [] if policy is Mfa.OFF else [factor.value for factor in state.second_factors]
    answer = _told("accepted", state.id) | {
        "era": state.era,
        "second_factors": factors,
        "must_enroll": policy is Mfa.REQUIRED and not factors,
    }
    return Decision([(account.stream(state.id), event) for event in events], answer, account_id=state.id)


async def _unknown(said: EmailAddress, blind: UUID, reading: Reading, password: str) -> Decision:
    claim = await reading.find(ADDRESS, blind)
    wait = claim.guard.wait(reading.now) if claim is not None else None
    if wait is None:
        await credentials_of(reading).passwords.verify(None, password)
    event = address.tried(claim, blind, Attempt.SIGN_IN, reading.now)
    left = wait or _seconds(event.locked_until, reading)
    return Decision([(address.stream(blind), event)], _told("locked" if wait else "refused", None, left))


@handles(CheckTotp, "sign_in")
async def check_totp(command: CheckTotp, reading: Reading, actor: Actor) -> Decision:
    state = await reading.get(ACCOUNT, command.account_id)
    if (no := _not_now(state, Factor.TOTP, reading)) is not None:
        return no
    code_at = second_factors.code_at(state.totp)
    event = account.check_totp(state, second_factors.digits(command.code), reading.now, code_at)
    return _checked(state, event, reading)


@handles(CheckRecoveryCode, "sign_in")
async def check_recovery_code(command: CheckRecoveryCode, reading: Reading, actor: Actor) -> Decision:
    state = await reading.get(ACCOUNT, command.account_id)
    if (no := _not_now(state, Factor.RECOVERY, reading)) is not None:
        return no
    hashed = second_factors.hash_code(credentials_of(reading).blinds, state.id, command.code.get_secret_value())
    decision = _checked(state, account.check_recovery(state, hashed, reading.now), reading)
    if decision.answer["outcome"] != "accepted":
        return decision
    return replace(decision, answer={**decision.answer, "letter": letter(state, Letter.RECOVERY_CODE_USED)})


@handles(OfferPasskey, "sign_in")
async def offer_passkey(command: OfferPasskey, reading: Reading, actor: Actor) -> Decision:
    state = await _account(command.account_id, reading)
    return Decision([], passkeys.offer(reading, state, named=command.account_id is not None))


@handles(CheckPasskey, "sign_in")
async def check_passkey(command: CheckPasskey, reading: Reading, actor: Actor) -> Decision:
    state = await _account(command.account_id or passkeys.whose(command.response), reading)
    if state is None:
        return Decision([], _told("refused", None))
    # A passkey can't be guessed, so wrong passwords and codes of others do not keep its owner out.
    if state.status is not Status.ACTIVE:
        return _failed(state, Factor.PASSKEY, FailureReason.NOT_ACTIVE, reading)
    try:
        event = passkeys.accepted(
            reading, state, command.response, command.challenge, named=command.account_id is not None
        )
    except passkeys.Replayed:
        return _failed(state, Factor.PASSKEY, FailureReason.REPLAYED, reading)
    except PasskeyNotTaken:
        return _failed(state, Factor.PASSKEY, FailureReason.WRONG, reading)
    verified = passkeys.user_verified(command.response)
    told = _told("accepted", state.id) | {
        "era": state.era,
        "user_verified": verified,
        "methods": passkeys.methods(command.response),
    }
    return Decision([(account.stream(state.id), event)], told, account_id=state.id)


async def _account(account_id: UUID | None, reading: Reading) -> Account | None:
    if account_id is None:
        return None
    return await reading.find(ACCOUNT, account_id)


def _not_now(state: Account, factor: Factor, reading: Reading) -> Decision | None:
    if (wait := state.factor_guard.wait(reading.now)) is not None:
        return _failed(state, factor, FailureReason.LOCKED, reading, wait)
    if state.status is not Status.ACTIVE:
        return _failed(state, factor, FailureReason.NOT_ACTIVE, reading)
    return None


def _checked(state: Account, event: account.AccountEvent, reading: Reading) -> Decision:
    if isinstance(event, SignInFailed):
        return _failed(state, event.factor, event.reason, reading)
    return Decision([(account.stream(state.id), event)], _told("accepted", state.id))


def _failed(
    state: Account, factor: Factor, reason: FailureReason, reading: Reading, wait: int | None = None
) -> Decision:
    event = account.failed(state, factor, reason, reading.now)
    told = _told("locked" if wait else "refused", None, wait or _seconds(event.locked_until, reading))
    return Decision([(account.stream(state.id), event)], told)


def _seconds(until: Any, reading: Reading) -> int | None:
    return None if until is None else max(1, round((until - reading.now).total_seconds()))


def _told(outcome: str, account_id: UUID | None, retry_after: int | None = None) -> dict[str, Any]:
    return {
        "outcome": outcome,
        "account_id": str(account_id) if account_id is not None else None,
        "second_factors": [],
        "must_enroll": False,
        "retry_after": retry_after,
    }
