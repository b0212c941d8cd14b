"""An account: who may sign in, with what proof, and as whom they then act.

In: decisions asked for by commands, and proofs that were checked outside. Out: events. A password is only ever here as
its hash, a link as the nonce that it is derived from, and everything of a person is sealed with the account's own key.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import Annotated, ClassVar, Final
from uuid import UUID

from domain.access import Role
from domain.events import CREDENTIAL, Credential, Erased, Event, Personal
from domain.refusals import Invalid, NotAllowed, Refusal

# Guesses that cost nothing but themselves; NIST SP 800-63B §3.2.2 allows a hundred in a row at most.
FREE_FAILURES: Final = 5
FIRST_WAIT: Final = timedelta(minutes=1)
LONGEST_WAIT: Final = timedelta(hours=1)
# RFC 6238 §4.1 and §5.2.
STEP: Final = timedelta(seconds=30)
RECOVERY_CODES: Final = 10
MOST_PASSKEYS: Final = 20
CHALLENGE_LIFETIME: Final = timedelta(minutes=5)


class Status(StrEnum):
    """`UNVERIFIED` until the owner of the address has followed a link and chosen a password."""

    UNVERIFIED = "unverified"
    ACTIVE = "active"
    LOCKED = "locked"
    CLOSED = "closed"


class Factor(StrEnum):
    PASSWORD = "password"  # noqa: S105 - a name
    TOTP = "totp"
    PASSKEY = "passkey"
    RECOVERY = "recovery"
    OUTSIDE = "outside"


class Origin(StrEnum):
    """How an account came to be."""

    SELF = "self"
    INVITATION = "invitation"
    OPERATOR = "operator"


class LinkPurpose(StrEnum):
    VERIFY = "verify"
    RESET = "reset"


LINK_LIFETIMES: Final[Mapping[LinkPurpose, timedelta]] = MappingProxyType(
    {LinkPurpose.VERIFY: timedelta(days=3), LinkPurpose.RESET: timedelta(hours=1)}
)


class FailureReason(StrEnum):
    WRONG = "wrong"
    REPLAYED = "replayed"
    LOCKED = "locked"
    NOT_ACTIVE = "not_active"
    NOT_ENROLLED = "not_enrolled"


class ClosingReason(StrEnum):
    OWN_WISH = "own_wish"
    ADMINISTRATOR = "administrator"
    PERSON_ERASED = "person_erased"


class AccountEvent(Event):
    """Everything of an account is sealed with its own key, so that closing and forgetting it forgets all of it."""

    PERSON: ClassVar[str] = "account_id"
    account_id: UUID


class AccountRegistered(AccountEvent):
    """`address` is the blind of the e-mail address; `patient_id` and `provider_id` name the person that whoever signs
    in acts as. `failures` and `locked_until` are what wrong guesses at the address have brought about before: a wait
    that ended with the registration would tell that there was none."""

    NAME: ClassVar[str] = "AccountRegistered.v1"
    email: Personal[str]
    address: UUID
    role: Role
    patient_id: UUID | None = None
    provider_id: UUID | None = None
    origin: Origin
    failures: int = 0
    locked_until: datetime | None = None


class AddressTakenAgain(AccountEvent):
    """Somebody registered with an address that this account has. Its owner is told, whoever asked is not."""

    NAME: ClassVar[str] = "AddressTakenAgain.v1"


class LinkIssued(AccountEvent):
    """A link by which the owner of the address chooses a password. The link is derived from the nonce with a key that
    lies outside the log; an earlier link ends."""

    NAME: ClassVar[str] = "LinkIssued.v1"
    purpose: LinkPurpose
    nonce: Annotated[str, CREDENTIAL]
    expires_at: datetime


class EmailVerified(AccountEvent):
    NAME: ClassVar[str] = "EmailVerified.v1"


class PasswordChanged(AccountEvent):
    """Sessions that were started before end. The hash is Argon2id in PHC string format."""

    NAME: ClassVar[str] = "PasswordChanged.v1"
    password_hash: Credential[str]


class PasswordRehashed(AccountEvent):
    """The same password under newer parameters; nothing ends."""

    NAME: ClassVar[str] = "PasswordRehashed.v1"
    password_hash: Credential[str]


class PasswordAccepted(AccountEvent):
    NAME: ClassVar[str] = "PasswordAccepted.v1"


class SignInFailed(AccountEvent):
    """`locked_until` says from when on the next guess at this factor is looked at again."""

    NAME: ClassVar[str] = "SignInFailed.v1"
    factor: Factor
    reason: FailureReason
    locked_until: datetime | None = None


class TotpEnrolled(AccountEvent):
    """A secret was shown once; it counts when a code made with it has been seen."""

    NAME: ClassVar[str] = "TotpEnrolled.v1"
    secret: Credential[str]


class TotpConfirmed(AccountEvent):
    NAME: ClassVar[str] = "TotpConfirmed.v1"
    step: int


class TotpAccepted(AccountEvent):
    """RFC 6238 §5.2: the step and all before it are used up."""

    NAME: ClassVar[str] = "TotpAccepted.v1"
    step: int


class TotpRemoved(AccountEvent):
    NAME: ClassVar[str] = "TotpRemoved.v1"


class RecoveryCodesMade(AccountEvent):
    """Keyed hashes of the codes, which were shown once. Earlier codes end."""

    NAME: ClassVar[str] = "RecoveryCodesMade.v1"
    hashes: Credential[tuple[str, ...]]


class RecoveryCodeUsed(AccountEvent):
    """The code that stood at this place of the list."""

    NAME: ClassVar[str] = "RecoveryCodeUsed.v1"
    place: int


class PasskeyAdded(AccountEvent):
    """WebAuthn Level 2 §7.1. The key is COSE in base64url; `challenge_id` can't be answered again."""

    NAME: ClassVar[str] = "PasskeyAdded.v1"
    passkey_id: UUID
    credential_id: Credential[str]
    public_key: Credential[str]
    name: Personal[str]
    sign_count: int
    challenge_id: UUID
    challenge_until: datetime


class PasskeyAccepted(AccountEvent):
    """WebAuthn Level 2 §7.2."""

    NAME: ClassVar[str] = "PasskeyAccepted.v1"
    passkey_id: UUID
    sign_count: int
    challenge_id: UUID
    challenge_until: datetime


class PasskeyRemoved(AccountEvent):
    NAME: ClassVar[str] = "PasskeyRemoved.v1"
    passkey_id: UUID


class ProviderLinked(AccountEvent):
    """The owner, signed in here, showed that an outside OpenID Connect provider knows them too. `identity` is the blind
    of issuer and subject."""

    NAME: ClassVar[str] = "ProviderLinked.v1"
    identity: UUID
    issuer: Personal[str]
    subject: Personal[str]


class ProviderAccepted(AccountEvent):
    """The provider said who it is. `multi_factor` is whether it said so of more than one factor."""

    NAME: ClassVar[str] = "ProviderAccepted.v1"
    identity: UUID
    multi_factor: bool


class ProviderUnlinked(AccountEvent):
    NAME: ClassVar[str] = "ProviderUnlinked.v1"
    identity: UUID


class SecondFactorsReset(AccountEvent):
    """An administrator took all of them away, for somebody who lost theirs. Sessions that were started before end: who
    found the device may have one."""

    NAME: ClassVar[str] = "SecondFactorsReset.v1"


class RoleChanged(AccountEvent):
    """Sessions that were started before end."""

    NAME: ClassVar[str] = "RoleChanged.v1"
    role: Role
    patient_id: UUID | None = None
    provider_id: UUID | None = None


class AccountLockedByAdministrator(AccountEvent):
    NAME: ClassVar[str] = "AccountLockedByAdministrator.v1"


class AccountUnlocked(AccountEvent):
    """Also ends what wrong guesses have brought about."""

    NAME: ClassVar[str] = "AccountUnlocked.v1"


class AccountClosed(AccountEvent):
    NAME: ClassVar[str] = "AccountClosed.v1"
    reason: ClosingReason


class RegistrationLapsed(AccountEvent):
    """Whoever registered by themselves never showed that the address is theirs, and is to be forgotten: the account is
    closed, and its key destroyed then."""

    NAME: ClassVar[str] = "RegistrationLapsed.v1"


class AddressNotTaken(Invalid):
    """Not an e-mail address, or one made to look like another's."""

    code = "address_not_taken"


class PasswordTooWeak(Refusal):
    """NIST SP 800-63B-4 §3.1.1.2: too short, commonly used, or made of the address or our name."""

    code = "password_too_weak"
    status = 422


class LinkEnded(Refusal):
    """The link was used, has expired, or a newer one was sent; or it was never one of ours."""

    code = "link_ended"


class CodeWrong(Refusal):
    """The code does not fit, or was used already."""

    code = "code_wrong"
    status = 422


class PasskeyNotTaken(Refusal):
    """What the authenticator answered does not fit what it was asked."""

    code = "passkey_not_taken"
    status = 422


class NotEnrolled(Refusal):
    """There is no such second factor to confirm, use or remove."""

    code = "not_enrolled"


class AlreadyEnrolled(Refusal):
    """It is set up already; remove it first."""

    code = "already_enrolled"


class NotLinked(Refusal):
    """The account is not linked with this person of a provider's."""

    code = "not_linked"


class FactorNeeded(Refusal):
    """The role needs a second factor, and this would take the last."""

    code = "second_factor_needed"


class AccountNotActive(Refusal):
    """The account is closed, locked, or its address was never verified."""

    code = "account_not_active"


class AddressInUse(Refusal):
    """Another account has this address, or one that looks like it. Said to staff alone."""

    code = "address_in_use"


class PersonHasAccount(Refusal):
    """The patient or provider has an account already."""

    code = "person_has_account"


class PasswordWrong(NotAllowed):
    """The present password, which a change of it asks for, is another."""

    code = "password_wrong"


class TryLater(Refusal):
    """After several wrong guesses the next one is looked at only later."""

    code = "try_later"
    status = 429


@dataclass(frozen=True, slots=True)
class Guard:
    """Wrong guesses in a row, and until when the next is not looked at."""

    failures: int = 0
    locked_until: datetime | None = None

    def wait(self, now: datetime) -> int | None:
        """Seconds until the next guess is looked at; None when it is now."""
        if self.locked_until is None or self.locked_until <= now:
            return None
        return max(1, -int((now - self.locked_until).total_seconds() // 1))

    def after_failure(self, now: datetime) -> datetime | None:
        """Until when one more failure locks: a minute after the fifth, then twice as long each time, up to an hour."""
        over = self.failures + 1 - FREE_FAILURES
        return None if over < 0 else now + min(FIRST_WAIT * 2 ** min(over, 12), LONGEST_WAIT)

    def failed(self, locked_until: datetime | None) -> Guard:
        return Guard(self.failures + 1, locked_until)


OPEN: Final = Guard()


@dataclass(frozen=True, slots=True)
class Link:
    purpose: LinkPurpose
    nonce: str
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Totp:
    secret: str | Erased
    confirmed: bool = False
    last_step: int = -1


@dataclass(frozen=True, slots=True)
class Passkey:
    id: UUID
    credential_id: str | Erased
    public_key: str | Erased
    name: str | Erased
    sign_count: int


@dataclass(frozen=True, slots=True)
class Account:
    """`recovery` holds None where a code was used. `answered` are challenges that can't be answered again. `linked`
    are the identities at outside providers, each with its issuer.

    Guesses at the password and at second factors are counted apart: a right password must not clear the way for
    guessing codes. `era` counts what ended every session: one that began in an earlier era is over. `verified` stays
    true whatever the status becomes; `lapsed` says that the registration was given up."""

    id: UUID
    email: str | Erased
    address: UUID
    role: Role
    patient_id: UUID | None
    provider_id: UUID | None
    origin: Origin
    status: Status = Status.UNVERIFIED
    password_hash: str | Erased | None = None
    link: Link | None = None
    totp: Totp | None = None
    recovery: tuple[str | None, ...] = ()
    passkeys: Mapping[UUID, Passkey] = field(default_factory=lambda: MappingProxyType({}))
    answered: Mapping[UUID, datetime] = field(default_factory=lambda: MappingProxyType({}))
    linked: Mapping[UUID, str | Erased] = field(default_factory=lambda: MappingProxyType({}))
    password_guard: Guard = OPEN
    factor_guard: Guard = OPEN
    era: int = 0
    verified: bool = False
    lapsed: bool = False

    @property
    def person(self) -> UUID | None:
        """The patient or provider that it acts as."""
        return self.patient_id or self.provider_id

    @property
    def has_totp(self) -> bool:
        return self.totp is not None and self.totp.confirmed

    @property
    def second_factors(self) -> tuple[Factor, ...]:
        """What can follow the password. Recovery codes stand in for another factor and are none by themselves."""
        own = [Factor.TOTP] * self.has_totp + [Factor.PASSKEY] * bool(self.passkeys)
        return (*own, Factor.RECOVERY) if own and any(self.recovery) else tuple(own)


def stream(account_id: UUID) -> str:
    return f"account/{account_id}"


def streams() -> tuple[str, str]:
    """The first and the last that an account's stream can be called."""
    return stream(UUID(int=0)), stream(UUID(int=2**128 - 1))


def evolve(state: Account | None, event: Event) -> Account:
    if isinstance(event, AccountRegistered):
        return Account(
            event.account_id,
            event.email,
            event.address,
            event.role,
            event.patient_id,
            event.provider_id,
            event.origin,
            password_guard=Guard(event.failures, event.locked_until),
        )
    if state is None or not isinstance(event, AccountEvent):
        raise TypeError(f"{type(event).__name__} is not an event of an account")
    match event:
        case AddressTakenAgain():
            return state
        case SecondFactorsReset():
            none: Mapping[UUID, Passkey] = MappingProxyType({})
            return replace(state, totp=None, recovery=(), passkeys=none, factor_guard=OPEN, era=state.era + 1)
        case LinkIssued():
            return replace(state, link=Link(event.purpose, event.nonce, event.expires_at))
        case EmailVerified():
            return replace(state, status=Status.ACTIVE, verified=True)
        case PasswordChanged():
            return replace(state, password_hash=event.password_hash, link=None, password_guard=OPEN, era=state.era + 1)
        case PasswordRehashed():
            return replace(state, password_hash=event.password_hash)
        case AccountUnlocked():
            status = Status.ACTIVE if state.status is Status.LOCKED else state.status
            return replace(state, status=status, password_guard=OPEN, factor_guard=OPEN)
        case AccountLockedByAdministrator():
            return replace(state, status=Status.LOCKED, link=None, era=state.era + 1)
        case RoleChanged():
            return replace(
                state,
                role=event.role,
                patient_id=event.patient_id,
                provider_id=event.provider_id,
                era=state.era + 1,
            )
        case AccountClosed() | RegistrationLapsed():
            return replace(
                state,
                lapsed=isinstance(event, RegistrationLapsed),
                status=Status.CLOSED,
                password_hash=None,
                link=None,
                totp=None,
                recovery=(),
                passkeys=MappingProxyType({}),
                linked=MappingProxyType({}),
                era=state.era + 1,
            )
    return _evolve_factors(state, event)


def _evolve_factors(state: Account, event: AccountEvent) -> Account:
    match event:
        case PasswordAccepted():
            return replace(state, password_guard=OPEN)
        case SignInFailed():
            if not _counts(event.factor, event.reason):
                return state
            if event.factor is Factor.PASSWORD:
                return replace(state, password_guard=state.password_guard.failed(event.locked_until))
            return replace(state, factor_guard=state.factor_guard.failed(event.locked_until))
        case TotpEnrolled():
            return replace(state, totp=Totp(event.secret))
        case TotpConfirmed() | TotpAccepted():
            totp = replace(_totp_of(state), confirmed=True, last_step=event.step)
            return replace(state, totp=totp, factor_guard=OPEN)
        case TotpRemoved():
            return replace(state, totp=None)
        case RecoveryCodesMade():
            return replace(state, recovery=() if isinstance(event.hashes, Erased) else event.hashes)
        case RecoveryCodeUsed():
            left = tuple(None if place == event.place else code for place, code in enumerate(state.recovery))
            return replace(state, recovery=left, factor_guard=OPEN)
        case PasskeyAdded():
            key = Passkey(event.passkey_id, event.credential_id, event.public_key, event.name, event.sign_count)
            state = _answered(state, event.challenge_id, event.challenge_until)
            return replace(state, passkeys=MappingProxyType({**state.passkeys, key.id: key}))
        case PasskeyAccepted():
            used = replace(state.passkeys[event.passkey_id], sign_count=event.sign_count)
            state = _answered(state, event.challenge_id, event.challenge_until)
            return replace(state, passkeys=MappingProxyType({**state.passkeys, used.id: used}), factor_guard=OPEN)
        case PasskeyRemoved():
            left_over = {key: value for key, value in state.passkeys.items() if key != event.passkey_id}
            return replace(state, passkeys=MappingProxyType(left_over))
        case ProviderLinked():
            return replace(state, linked=MappingProxyType({**state.linked, event.identity: event.issuer}))
        case ProviderUnlinked():
            others = {identity: issuer for identity, issuer in state.linked.items() if identity != event.identity}
            return replace(state, linked=MappingProxyType(others))
        case ProviderAccepted():
            return state
    raise TypeError(f"{type(event).__name__} is not an event of an account")


def _answered(state: Account, challenge_id: UUID, until: datetime) -> Account:
    """All challenges live equally long, so one that ends more than that before the newest ended before it was made."""
    going_on = {key: end for key, end in state.answered.items() if end > until - CHALLENGE_LIFETIME}
    return replace(state, answered=MappingProxyType({**going_on, challenge_id: until}))


def _totp_of(state: Account) -> Totp:
    if state.totp is None:
        raise NotEnrolled("no authenticator app is set up")
    return state.totp


def issue_link(state: Account, purpose: LinkPurpose, nonce: str, now: datetime) -> LinkIssued:
    return LinkIssued(account_id=state.id, purpose=purpose, nonce=nonce, expires_at=now + LINK_LIFETIMES[purpose])


def follow_link(state: Account, purpose: LinkPurpose, password_hash: str, now: datetime) -> list[AccountEvent]:
    """What a link that was found to be this account's brings about: a password, and with it a verified address."""
    link = state.link
    if link is None or link.purpose is not purpose or link.expires_at <= now or state.status is Status.CLOSED:
        raise LinkEnded("this link has ended; ask for a new one")
    verified = [EmailVerified(account_id=state.id)] if state.status is Status.UNVERIFIED else []
    return [*verified, PasswordChanged(account_id=state.id, password_hash=password_hash)]


def require_active(state: Account) -> None:
    if state.status is not Status.ACTIVE:
        raise AccountNotActive("this account is not active", account_status=state.status.value)


def failed(state: Account, factor: Factor, reason: FailureReason, now: datetime) -> SignInFailed:
    until = guard_of(state, factor).after_failure(now) if _counts(factor, reason) else None
    return SignInFailed(account_id=state.id, factor=factor, reason=reason, locked_until=until)


def _counts(factor: Factor, reason: FailureReason) -> bool:
    """A guess that was not looked at counts for nothing, or whoever asks could keep the owner out for ever; and nobody
    guesses a signature."""
    return reason is not FailureReason.LOCKED and factor not in (Factor.PASSKEY, Factor.OUTSIDE)


def guard_of(state: Account, factor: Factor) -> Guard:
    return state.password_guard if factor is Factor.PASSWORD else state.factor_guard


def step_at(now: datetime) -> int:
    """RFC 6238 §4.2."""
    return int(now.astimezone(UTC).timestamp()) // int(STEP.total_seconds())


def matching_step(code: str, now: datetime, code_at: Callable[[int], str]) -> int | None:
    """The step whose code this is: the present one or the one before (RFC 6238 §5.2), or None."""
    present = step_at(now)
    found = None
    for step in (present - 1, present):
        if hmac.compare_digest(code_at(step).encode(), code.encode("utf-8", "replace")):
            found = step
    return found


def check_totp(state: Account, code: str, now: datetime, code_at: Callable[[int], str]) -> TotpAccepted | SignInFailed:
    """A step that was used, or one before it, is refused: nobody who looked over a shoulder comes after."""
    totp = state.totp
    if totp is None or not totp.confirmed:
        return failed(state, Factor.TOTP, FailureReason.NOT_ENROLLED, now)
    step = matching_step(code, now, code_at)
    if step is None:
        return failed(state, Factor.TOTP, FailureReason.WRONG, now)
    if step <= totp.last_step:
        return failed(state, Factor.TOTP, FailureReason.REPLAYED, now)
    return TotpAccepted(account_id=state.id, step=step)


def enrol_totp(state: Account, secret: str) -> TotpEnrolled:
    """Refuses with `AlreadyEnrolled`, since a secret that was only shown must not take the place of one in use."""
    if state.has_totp:
        raise AlreadyEnrolled("an authenticator app is set up already; remove it first")
    return TotpEnrolled(account_id=state.id, secret=secret)


def confirm_totp(state: Account, code: str, now: datetime, code_at: Callable[[int], str]) -> TotpConfirmed:
    totp = _totp_of(state)
    if totp.confirmed:
        raise AlreadyEnrolled("the authenticator app is set up already")
    step = matching_step(code, now, code_at)
    if step is None:
        raise CodeWrong("this is not the code that the app shows now")
    return TotpConfirmed(account_id=state.id, step=step)


def check_recovery(state: Account, hashed: str, now: datetime) -> RecoveryCodeUsed | SignInFailed:
    place = None
    for at, known in enumerate(state.recovery):
        if known is not None and hmac.compare_digest(known.encode(), hashed.encode()):
            place = at
    if place is None:
        return failed(state, Factor.RECOVERY, FailureReason.WRONG, now)
    return RecoveryCodeUsed(account_id=state.id, place=place)


def remove_factor(state: Account, event: TotpRemoved | PasskeyRemoved, *, required: bool) -> AccountEvent:
    """Refuses with `FactorNeeded` to take the last second factor from a role that needs one."""
    if isinstance(event, TotpRemoved):
        _totp_of(state)
    elif event.passkey_id not in state.passkeys:
        raise NotEnrolled("there is no such passkey")
    if required and not evolve(state, event).second_factors:
        raise FactorNeeded("your role needs a second factor; set up another one first")
    return event


def link_provider(state: Account, identity: UUID, issuer: str, subject: str) -> ProviderLinked:
    """Refuses with `AlreadyEnrolled` a second person of one provider."""
    if issuer in state.linked.values():
        raise AlreadyEnrolled("this account is linked with somebody at this provider already; unlink them first")
    return ProviderLinked(account_id=state.id, identity=identity, issuer=issuer, subject=subject)


def unlink_provider(state: Account, identity: UUID) -> ProviderUnlinked:
    if identity not in state.linked:
        raise NotLinked("this account is not linked there")
    return ProviderUnlinked(account_id=state.id, identity=identity)


def reset_factors(state: Account) -> SecondFactorsReset:
    """Raises `AccountNotActive`, and `NotEnrolled` where there is none."""
    require_active(state)
    if not state.second_factors:
        raise NotEnrolled("there is no second factor to remove")
    return SecondFactorsReset(account_id=state.id)


def change_role(state: Account, role: Role, patient_id: UUID | None, provider_id: UUID | None) -> RoleChanged:
    """Raises `AccountNotActive`, `Invalid`."""
    if state.status is Status.CLOSED:
        raise AccountNotActive("this account is closed", account_status=state.status.value)
    acts_as(role, patient_id, provider_id)
    return RoleChanged(account_id=state.id, role=role, patient_id=patient_id, provider_id=provider_id)


def acts_as(role: Role, patient_id: UUID | None, provider_id: UUID | None) -> UUID | None:
    """The patient or provider that an account of this role is. Raises `Invalid` where role and person don't fit."""
    if role is Role.SYSTEM:
        raise Invalid("a system is a client, not an account")
    if (patient_id is not None) != (role is Role.PATIENT) or (provider_id is not None) != (role is Role.PROVIDER):
        raise Invalid("a patient's account names its patient, a provider's its provider, any other neither")
    return patient_id or provider_id


def lock(state: Account) -> AccountLockedByAdministrator:
    require_active(state)
    return AccountLockedByAdministrator(account_id=state.id)


def unlock(state: Account) -> AccountUnlocked:
    if state.status not in (Status.LOCKED, Status.ACTIVE):
        raise AccountNotActive("this account is not active", account_status=state.status.value)
    return AccountUnlocked(account_id=state.id)


def close(state: Account, reason: ClosingReason) -> AccountClosed:
    if state.status is Status.CLOSED:
        raise AccountNotActive("this account is closed", account_status=state.status.value)
    return AccountClosed(account_id=state.id, reason=reason)


def lapse(state: Account, kept_until: date, now: datetime) -> RegistrationLapsed | None:
    """What comes of a registration that need not be kept from a day on: nothing where others made the account, the
    address was shown to be its owner's, or a link may still show it."""
    if state.origin is not Origin.SELF or state.verified or state.lapsed or now.date() < kept_until:
        return None
    if state.link is not None and state.link.expires_at > now:
        return None
    return RegistrationLapsed(account_id=state.id)
