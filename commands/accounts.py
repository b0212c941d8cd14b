"""Accounts: how one comes to be, how its owner chooses a password, and what an administrator may do to it.

In: what somebody without a token asks, what an owner asks, what an administrator asks. Out: events, and in the answer
the letter that is to be sent now that they are in the log. Who asks without a token learns nothing of whether an
address is known: the answer is the same, and its owner gets the letter.

A password is only ever chosen behind a link that was sent to the address. So nobody can register another's address,
wait until its owner confirms it, and then come in by a password of their own.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final
from uuid import UUID

from pydantic import Field

from commands import addresses
from commands.access import reach
from commands.erasure import made_on
from commands.letters import Letter, letter
from commands.loop import (
    ACCOUNT,
    ADDRESS,
    HOLDER,
    IDENTITY,
    PATIENT,
    PROVIDER,
    RETENTION,
    Command,
    Decision,
    Reading,
    handles,
)
from commands.passwords import Password, credentials_of, hashed, normal
from commands.second_factors import own
from domain import account, address, holder, outside, patient, retention
from domain.access import Actor, Role
from domain.account import (
    Account,
    AccountClosed,
    AccountNotActive,
    AccountRegistered,
    AddressInUse,
    AddressTakenAgain,
    ClosingReason,
    EmailVerified,
    Factor,
    FailureReason,
    LinkEnded,
    LinkPurpose,
    Origin,
    PasswordChanged,
    PersonHasAccount,
    RegistrationLapsed,
    RoleChanged,
    Status,
)
from domain.address import AddressClaimed, AddressReleased, Attempt
from domain.events import Event
from domain.holder import HolderDismissed, HolderNamed
from domain.outside import IdentityReleased
from domain.patient import PatientRegistered
from domain.refusals import NotAllowed
from domain.step_up import fresh_enough

_TAG: Final = 24

Changes = list[tuple[str, Event]]


class RegisterAccount(Command):
    """A patient's own. → `letter`."""

    email: str = Field(max_length=1000)


class AskReset(Command):
    """→ `letter`, where the address has an account."""

    email: str = Field(max_length=1000)


class FollowLink(Command):
    """`token` is the one of a letter, for which `purpose` the page was opened. → `account_id`, `letter`."""

    purpose: LinkPurpose
    token: str = Field(max_length=200)
    password: Password


class ChangePassword(Command):
    """→ `outcome` (`accepted`, `refused` or `locked`), `retry_after`, `letter`. A wrong present password is a guess,
    and is counted, so it is an answer."""

    present: Password
    password: Password


class InviteAccount(Command):
    """For a patient who is known here, or staff. → `account_id`, `letter`."""

    email: str = Field(max_length=1000)
    role: Role
    patient_id: UUID | None = None
    provider_id: UUID | None = None


class CreateAccount(Command):
    """By an operator, who vouches for the address and sets the first password. → `account_id`."""

    email: str = Field(max_length=1000)
    role: Role
    password: Password
    patient_id: UUID | None = None
    provider_id: UUID | None = None


class InviteAgain(Command):
    """A new link for whoever has not followed theirs. → `letter`."""

    account_id: UUID


class ChangeRole(Command):
    account_id: UUID
    role: Role
    patient_id: UUID | None = None
    provider_id: UUID | None = None


class LockAccount(Command):
    account_id: UUID


class UnlockAccount(Command):
    """Also after wrong guesses."""

    account_id: UUID


class ResetFactors(Command):
    """For somebody who lost theirs, once it is sure who asks. → `account_id`, `letter`."""

    account_id: UUID


class CloseOwnAccount(Command):
    pass


class CloseAccount(Command):
    account_id: UUID
    reason: ClosingReason = ClosingReason.ADMINISTRATOR


class CloseAccountOf(Command):
    """The account that acts as this patient or provider, if there is one. → `account_id`."""

    person_id: UUID
    reason: ClosingReason = ClosingReason.PERSON_ERASED


class ForgetUnverified(Command):
    """Whoever registered and never showed that the address is theirs, once that is long enough ago. → `outcome`:
    `forgotten`, or `kept`."""

    account_id: UUID


@handles(RegisterAccount, "sign_in")
async def register_account(command: RegisterAccount, reading: Reading, actor: Actor) -> Decision:
    said = addresses.read(command.email)
    blind = said.blind(credentials_of(reading).blinds, reading.organization)
    claim = await reading.find(ADDRESS, blind)
    # A key for somebody new is made, and an account looked for, whether or not there is one: nobody learns it from the
    # work. The key of an address that was known is nobody's.
    account_id = reading.desk.ids.new()
    await reading.desk.log.key_for(reading.organization, account_id)
    known = await reading.find(ACCOUNT, address.owner(claim) or account_id)
    if known is not None:
        if known.status is Status.UNVERIFIED:
            again = _link(known, LinkPurpose.VERIFY, reading, Letter.VERIFY)
            return replace(again, account_id=known.id)
        event = AddressTakenAgain(account_id=known.id)
        # The same work as for an unknown address: either way this account's origin is a new one.
        told = {"letter": letter(known, Letter.TAKEN)}
        return Decision([(account.stream(known.id), event)], told, account_id=known.id)
    # The patient is registered when the address is proved, so that nobody fills the book with patients.
    new = AccountRegistered(
        account_id=account_id,
        email=said.words,
        address=blind,
        role=Role.PATIENT,
        patient_id=reading.desk.ids.new(),
        origin=Origin.SELF,
        **_slowed(claim),
    )
    return replace(_registered(new, LinkPurpose.VERIFY, reading, Letter.VERIFY), account_id=new.account_id)


@handles(AskReset, "sign_in")
async def ask_reset(command: AskReset, reading: Reading, actor: Actor) -> Decision:
    blind = addresses.read(command.email).blind(credentials_of(reading).blinds, reading.organization)
    claim = await reading.find(ADDRESS, blind)
    # Looked for in any case, as above.
    known = await reading.find(ACCOUNT, address.owner(claim) or reading.desk.ids.new())
    if known is None:
        return Decision([(address.stream(blind), address.tried(claim, blind, Attempt.RESET, reading.now))])
    match known.status:
        case Status.UNVERIFIED:
            return _link(known, LinkPurpose.VERIFY, reading, Letter.VERIFY)
        case Status.ACTIVE:
            return _link(known, LinkPurpose.RESET, reading, Letter.RESET)
    failure = account.failed(known, Factor.PASSWORD, FailureReason.NOT_ACTIVE, reading.now)
    return Decision([(account.stream(known.id), failure)])


@handles(FollowLink, "sign_in")
async def follow_link(command: FollowLink, reading: Reading, actor: Actor) -> Decision:
    state = await _linked(command, reading)
    # Looked at before the password is hashed, which is dear.
    account.follow_link(state, command.purpose, "", reading.now)
    words = await hashed(command.password, state.email, credentials_of(reading))
    events = account.follow_link(state, command.purpose, words, reading.now)
    changes: Changes = [(account.stream(state.id), event) for event in events]
    if state.status is Status.UNVERIFIED and state.origin is Origin.SELF and state.patient_id is not None:
        # Unless an administrator has tied the account to somebody who is known already.
        if await reading.find(PATIENT, state.patient_id) is None:
            changes.append((patient.stream(state.patient_id), PatientRegistered(patient_id=state.patient_id)))
        held = await reading.find(HOLDER, state.patient_id)
        if held is None or held.account_id is None:
            changes.append(_named(state.patient_id, state.id))
    told = letter(state, Letter.PASSWORD_CHANGED) if command.purpose is LinkPurpose.RESET else None
    return Decision(changes, {"account_id": str(state.id), "letter": told}, account_id=state.id)


@handles(ChangePassword, "change_own_account")
async def change_password(command: ChangePassword, reading: Reading, actor: Actor) -> Decision:
    state = await own(reading, actor, fresh=False)
    credentials = credentials_of(reading)
    wait = state.password_guard.wait(reading.now)
    known = state.password_hash if isinstance(state.password_hash, str) else None
    right = wait is None and await credentials.passwords.verify(known, normal(command.present.get_secret_value()))
    if not right:
        reason = FailureReason.WRONG if wait is None else FailureReason.LOCKED
        failure = account.failed(state, Factor.PASSWORD, reason, reading.now)
        told: dict[str, Any] = {"outcome": "locked" if wait else "refused", "retry_after": wait, "letter": None}
        return Decision([(account.stream(state.id), failure)], told)
    words = await hashed(command.password, state.email, credentials)
    event = PasswordChanged(account_id=state.id, password_hash=words)
    told = {"outcome": "accepted", "retry_after": None, "letter": letter(state, Letter.PASSWORD_CHANGED)}
    return Decision([(account.stream(state.id), event)], told)


@handles(InviteAccount, "invite_patient")
async def invite_account(command: InviteAccount, reading: Reading, actor: Actor) -> Decision:
    if command.role is not Role.PATIENT:
        await reach(reading, actor, "manage_accounts")
        fresh_enough(actor, reading.now)
    new, person = await _made(command, Origin.INVITATION, reading)
    return _registered(new, LinkPurpose.VERIFY, reading, Letter.INVITATION, person)


@handles(CreateAccount, "manage_accounts")
async def create_account(command: CreateAccount, reading: Reading, actor: Actor) -> Decision:
    fresh_enough(actor, reading.now)
    new, person = await _made(command, Origin.OPERATOR, reading)
    words = await hashed(command.password, new.email, credentials_of(reading))
    stream = account.stream(new.account_id)
    changes: Changes = [
        (stream, new),
        (stream, EmailVerified(account_id=new.account_id)),
        (stream, PasswordChanged(account_id=new.account_id, password_hash=words)),
        (address.stream(new.address), AddressClaimed(address=new.address, account_id=new.account_id)),
    ]
    return Decision([*changes, *person], {"account_id": str(new.account_id)})


@handles(InviteAgain, "invite_patient")
async def invite_again(command: InviteAgain, reading: Reading, actor: Actor) -> Decision:
    state = await reading.get(ACCOUNT, command.account_id)
    if state.role is not Role.PATIENT:
        await reach(reading, actor, "manage_accounts")
    if state.status is not Status.UNVERIFIED:
        raise AccountNotActive("this account needs no invitation", account_status=state.status.value)
    return _link(state, LinkPurpose.VERIFY, reading, Letter.INVITATION)


@handles(ChangeRole, "manage_accounts")
async def change_role(command: ChangeRole, reading: Reading, actor: Actor) -> Decision:
    state = await _others(command.account_id, reading, actor)
    event = account.change_role(state, command.role, command.patient_id, command.provider_id)
    changes: Changes = [(account.stream(state.id), event)]
    person = command.patient_id or command.provider_id
    if person != state.person:
        changes += await _dismissed(state, reading)
        changes += await _named_of(event, state.id, reading)
    return Decision(changes, {"account_id": str(state.id)})


@handles(LockAccount, "manage_accounts")
async def lock_account(command: LockAccount, reading: Reading, actor: Actor) -> Decision:
    state = await _others(command.account_id, reading, actor)
    return Decision([(account.stream(state.id), account.lock(state))], {"account_id": str(state.id)})


@handles(UnlockAccount, "manage_accounts")
async def unlock_account(command: UnlockAccount, reading: Reading, actor: Actor) -> Decision:
    state = await _others(command.account_id, reading, actor)
    return Decision([(account.stream(state.id), account.unlock(state))], {"account_id": str(state.id)})


@handles(ResetFactors, "manage_accounts")
async def reset_factors(command: ResetFactors, reading: Reading, actor: Actor) -> Decision:
    state = await _others(command.account_id, reading, actor)
    answer = {"account_id": str(state.id), "letter": letter(state, Letter.FACTORS_RESET)}
    return Decision([(account.stream(state.id), account.reset_factors(state))], answer)


@handles(CloseOwnAccount, "change_own_account")
async def close_own_account(command: CloseOwnAccount, reading: Reading, actor: Actor) -> Decision:
    state = await own(reading, actor)
    return await _closed(state, account.close(state, ClosingReason.OWN_WISH), reading)


@handles(CloseAccount, "manage_accounts")
async def close_account(command: CloseAccount, reading: Reading, actor: Actor) -> Decision:
    state = await _others(command.account_id, reading, actor)
    return await _closed(state, account.close(state, command.reason), reading)


@handles(CloseAccountOf, "manage_accounts")
async def close_account_of(command: CloseAccountOf, reading: Reading, actor: Actor) -> Decision:
    held = await reading.find(HOLDER, command.person_id)
    if held is None or held.account_id is None:
        return Decision([], {"account_id": None})
    state = await reading.get(ACCOUNT, held.account_id)
    return await _closed(state, account.close(state, command.reason), reading)


@handles(ForgetUnverified, "forget_unverified")
async def forget_unverified(command: ForgetUnverified, reading: Reading, actor: Actor) -> Decision:
    state = await reading.get(ACCOUNT, command.account_id)
    policy = await reading.find(RETENTION, state.id) or retention.AS_SHIPPED
    until = retention.unverified_kept_until(policy, made_on(state.id))
    event = account.lapse(state, until, reading.now)
    if event is None:
        return Decision([], {"account_id": str(state.id), "outcome": "forgotten" if state.lapsed else "kept"})
    decision = await _closed(state, event, reading)
    return replace(decision, answer={**decision.answer, "outcome": "forgotten"})


async def _others(account_id: UUID, reading: Reading, actor: Actor) -> Account:
    """An account that an administrator may change: any but their own, so that it takes two to make one, and none locks
    the last one out by mistake."""
    fresh_enough(actor, reading.now)
    if actor.account_id == account_id:
        raise NotAllowed("another administrator changes your account", action="manage_accounts")
    return await reading.get(ACCOUNT, account_id)


async def _made(
    command: InviteAccount | CreateAccount, origin: Origin, reading: Reading
) -> tuple[AccountRegistered, Changes]:
    """A new account for somebody who is known here. Raises `AddressInUse`, `PersonHasAccount`, `Unknown`, `Invalid`."""
    account.acts_as(command.role, command.patient_id, command.provider_id)
    said = addresses.read(command.email)
    blind = said.blind(credentials_of(reading).blinds, reading.organization)
    claim = await reading.find(ADDRESS, blind)
    if address.owner(claim) is not None:
        raise AddressInUse("an account has this address, or one that looks like it")
    new = AccountRegistered(
        account_id=reading.desk.ids.new(),
        email=said.words,
        address=blind,
        role=command.role,
        patient_id=command.patient_id,
        provider_id=command.provider_id,
        origin=origin,
        **_slowed(claim),
    )
    return new, await _named_of(new, new.account_id, reading)


def _slowed(claim: address.Address | None) -> dict[str, Any]:
    """What guesses at the address have brought about, which its new account keeps."""
    guard = address.guard_of(claim)
    return {"failures": guard.failures, "locked_until": guard.locked_until}


def _registered(
    new: AccountRegistered, purpose: LinkPurpose, reading: Reading, kind: Letter, person: Sequence[Any] = ()
) -> Decision:
    state = account.evolve(None, new)
    link = account.issue_link(state, purpose, reading.desk.ids.secret(), reading.now)
    stream = account.stream(new.account_id)
    changes: Changes = [
        (stream, new),
        (stream, link),
        (address.stream(new.address), AddressClaimed(address=new.address, account_id=new.account_id)),
        *person,
    ]
    token = _token(reading, new.account_id, purpose, link.nonce)
    return Decision(changes, {"account_id": str(new.account_id), "letter": letter(state, kind, token)})


def _link(state: Account, purpose: LinkPurpose, reading: Reading, kind: Letter) -> Decision:
    event = account.issue_link(state, purpose, reading.desk.ids.secret(), reading.now)
    token = _token(reading, state.id, purpose, event.nonce)
    answer = {"account_id": str(state.id), "letter": letter(state, kind, token)}
    return Decision([(account.stream(state.id), event)], answer)


def _token(reading: Reading, account_id: UUID, purpose: LinkPurpose, nonce: str) -> str:
    """What stands in a link: the account, and a tag that only a keyed hash of the nonce gives."""
    tag = _tag(reading, account_id, purpose, nonce)
    return base64.urlsafe_b64encode(account_id.bytes + tag).rstrip(b"=").decode()


def _tag(reading: Reading, account_id: UUID, purpose: LinkPurpose, nonce: str) -> bytes:
    words = (reading.organization, str(account_id), purpose.value, nonce)
    return credentials_of(reading).blinds.of("link", *words)[:_TAG]


async def _linked(command: FollowLink, reading: Reading) -> Account:
    """The account whose last link this is. Raises `LinkEnded`."""
    ended = LinkEnded("this link has ended; ask for a new one")
    try:
        token = base64.b64decode(command.token.encode() + b"=" * (-len(command.token) % 4), b"-_", validate=True)
        account_id = UUID(bytes=token[:16])
    except (ValueError, binascii.Error):
        raise ended from None
    state = await reading.find(ACCOUNT, account_id)
    nonce = state.link.nonce if state is not None and state.link is not None else ""
    right = hmac.compare_digest(token[16:], _tag(reading, account_id, command.purpose, nonce))
    if state is None or not nonce or not right:
        raise ended
    return state


async def _named_of(event: AccountRegistered | RoleChanged, account_id: UUID, reading: Reading) -> Changes:
    """The account becomes the one that acts as the person whom it names, if any. Raises `PersonHasAccount`,
    `Unknown`."""
    person = event.patient_id or event.provider_id
    if person is None:
        return []
    if event.patient_id is not None:
        patient.present(await reading.get(PATIENT, event.patient_id))
    else:
        await reading.get(PROVIDER, person)
    held = await reading.find(HOLDER, person)
    if held is not None and held.account_id is not None:
        raise PersonHasAccount("this person has an account already")
    return [_named(person, account_id)]


def _named(person: UUID, account_id: UUID) -> tuple[str, Event]:
    return holder.stream(person), HolderNamed(person_id=person, account_id=account_id)


async def _dismissed(state: Account, reading: Reading) -> Changes:
    if state.person is None:
        return []
    held = await reading.find(HOLDER, state.person)
    if held is None or held.account_id != state.id:
        return []
    return [(holder.stream(state.person), HolderDismissed(person_id=state.person, account_id=state.id))]


async def _closed(state: Account, event: AccountClosed | RegistrationLapsed, reading: Reading) -> Decision:
    """The account's end, with all that it gives free."""
    changes: Changes = [(account.stream(state.id), event)]
    claim = await reading.find(ADDRESS, state.address)
    if address.owner(claim) == state.id:
        released = AddressReleased(address=state.address, account_id=state.id)
        changes.append((address.stream(state.address), released))
    for identity, known in (await reading.each(IDENTITY, state.linked)).items():
        if outside.owner(known) == state.id:
            gone = IdentityReleased(identity=identity, account_id=state.id)
            changes.append((outside.stream(identity), gone))
    changes += await _dismissed(state, reading)
    return Decision(changes, {"account_id": str(state.id)})
