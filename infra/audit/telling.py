"""An event of the log in a sentence. In: a recorded event. Out: plain English by coded facts alone, never a sealed
word: what happened, whose it is, who did it, for whom and why.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import date, datetime
from enum import Enum
from typing import Any, Final

from commands.sign_in import SIGN_IN
from domain.account import Factor, FailureReason, LinkPurpose
from domain.address import Attempt
from domain.denial import STRANGER, AccessRefused
from domain.events import Event
from domain.look import RecordSeen, Screen
from domain.ports import Recorded
from domain.purpose import Purpose
from domain.time import Period
from projections import diary


def told(recorded: Recorded) -> str:
    """For instance `Account … was locked (by admin-1, to run the clinic).`"""
    event = recorded.event
    if isinstance(event, RecordSeen):
        return f"{_looked(event, recorded)}{_why(recorded, ', ')}."
    if isinstance(event, AccessRefused):
        return f"{_refused(event, recorded)}."
    aside = f"(by {_who(recorded)}{_why(recorded, ', ')})"
    try:
        said = diary.sentence(recorded)
    except KeyError:
        return f"{_said(event)} {aside}."
    return f"{said} Appointment {_of(event, 'appointment_id')} of patient {_of(event, 'patient_id')} {aside}."


def _who(recorded: Recorded) -> str:
    actor = "a stranger" if recorded.actor == STRANGER else recorded.actor
    if not recorded.on_behalf_of:
        return actor
    # Who signs in acts for themselves, whatever their account is to the clinic.
    whose = "account" if recorded.actor == SIGN_IN.id else "patient"
    return f"{actor} on behalf of {whose} {recorded.on_behalf_of}"


def _why(recorded: Recorded, before: str) -> str:
    """The purpose of use; one of old, which no list has any more, as it was written."""
    if recorded.purpose is None:
        return ""
    return before + _PURPOSES.get(recorded.purpose, f"for the purpose {recorded.purpose}")


_PURPOSES: Final[Mapping[str, str]] = {
    Purpose.TREATMENT: "for treatment",
    Purpose.PAYMENT: "for payment",
    Purpose.OPERATIONS: "to run the clinic",
    Purpose.EMERGENCY: "in an emergency",
    Purpose.REQUEST: "at the patient's request",
    Purpose.PUBLIC_HEALTH: "for public health",
    Purpose.RESEARCH: "for research",
    Purpose.SYSTEM_ADMINISTRATION: "to administer the system",
}


def _looked(event: RecordSeen, recorded: Recorded) -> str:
    role = event.role.value.replace("_", " ").capitalize()
    programme = f", with the programme {event.client_id}," if event.client_id else ""
    glass = ", behind a broken glass" if event.behind_glass else ""
    which = event.resource_id
    what = _LOOKS[event.screen].format(
        patient=f"patient {event.patient_id}",
        appointment=f"appointment {which}" if which else "an appointment",
        provider=f"provider {which}" if which else "a provider",
    )
    return f"{role} {_who(recorded)}{programme} {what}{glass}"


_LOOKS: Final[Mapping[Screen, str]] = {
    Screen.APPOINTMENT: "looked at {appointment} of {patient}",
    Screen.APPOINTMENTS: "looked at the list of appointments of {patient}",
    Screen.PROVIDER_DAY: "saw a visit of {patient} in a day of {provider}",
    Screen.PROVIDER_WEEK: "saw a visit of {patient} in a week of {provider}",
    Screen.PAGE: "looked at the times that are taken on a day of {patient}",
    Screen.FREE_TIMES: "looked for free times beside the visits of {patient}",
    Screen.PATIENT: "looked at who {patient} is",
    Screen.PATIENT_SEARCH: "was shown {patient} in a search",
    Screen.PRIVATE_WORDS: "read the words of {appointment} of {patient}",
    Screen.CONSENTS: "looked at the consents of {patient}",
    Screen.PROXIES: "looked at who stands for {patient}",
    Screen.GLASS: "read why the glass was broken for {patient}",
    Screen.PERSONAL_EXPORT: "took a copy of all data of {patient}",
    Screen.LOOKS: "looked at who had looked at the record of {patient}",
    Screen.DISCLOSURES: "looked at the accounting of disclosures of {patient}",
    Screen.SUSPICIOUS: "was shown {patient} in a report of suspicious looks",
    Screen.LOG: "read events of {patient} in the log with their seals open",
    Screen.LOG_EXPORT: "exported events of {patient} from the log with their seals open",
}


def _said(event: Event) -> str:
    """What happened, without a full stop. An event that no sentence was written for is told by its name."""
    said = _SENTENCES.get(event.NAME.rpartition(".v")[0])
    if said is None:
        return _in_words(type(event).__name__)
    return said.format_map(_Facts(event)) if isinstance(said, str) else said(event)


class _Facts(Mapping[str, str]):
    """The coded facts of an event in words. What is sealed is none of them: `KeyError`."""

    def __init__(self, event: Event) -> None:
        self._event = event

    def __getitem__(self, name: str) -> str:
        if name in self._event.SEALED_FIELDS:
            raise KeyError(name)
        return _of(self._event, name)

    def __iter__(self) -> Iterator[str]:
        return iter(set(type(self._event).model_fields) - set(self._event.SEALED_FIELDS))

    def __len__(self) -> int:
        return len(list(iter(self)))


def _of(event: Event, name: str) -> str:
    return _words(getattr(event, name))


def _words(value: Any) -> str:
    match value:
        case Enum():
            return str(value.value).replace("_", " ")
        case datetime():
            return f"{value:%Y-%m-%d %H:%M:%S} UTC"
        case date():
            return value.isoformat()
        case Period():
            return f"from {value.start:%Y-%m-%d %H:%M} to {value.end:%Y-%m-%d %H:%M} UTC"
        case tuple():
            return ", ".join(map(_words, value))
    return str(value)


def _refused(event: AccessRefused, recorded: Recorded) -> str:
    times = "A request" if event.times == 1 else f"{event.times} requests"
    what = f" to {event.operation.replace('_', ' ')}" if event.operation else ""
    were = "was" if event.times == 1 else "were"
    when = f"at {_words(event.first_at)}"
    if event.last_at != event.first_at:
        when = f"between {_words(event.first_at)} and {_words(event.last_at)}"
    return f"{times} of {_who(recorded)}{what} {were} refused {when}: {event.code.replace('_', ' ')}"


def _failed(event: Any) -> str:
    locked = f", and the next try waits until {_words(event.locked_until)}" if event.locked_until else ""
    factor, reason = _FACTORS[event.factor], _FAILURES[event.reason]
    return f"A sign-in to account {event.account_id} with {factor} failed: {reason}{locked}"


_FACTORS: Final[Mapping[Factor, str]] = {
    Factor.PASSWORD: "a password",
    Factor.TOTP: "a code of the authenticator app",
    Factor.PASSKEY: "a passkey",
    Factor.RECOVERY: "a recovery code",
    Factor.OUTSIDE: "an outside provider",
}
_FAILURES: Final[Mapping[FailureReason, str]] = {
    FailureReason.WRONG: "it was wrong",
    FailureReason.REPLAYED: "it was used before",
    FailureReason.LOCKED: "too many were wrong before",
    FailureReason.NOT_ACTIVE: "the account is not active",
    FailureReason.NOT_ENROLLED: "the account has none",
}


def _link(event: Any) -> str:
    what = {LinkPurpose.VERIFY: "verify its address", LinkPurpose.RESET: "choose another password"}[event.purpose]
    return f"Account {event.account_id} was sent a link to {what}, good until {_words(event.expires_at)}"


def _unknown_address(event: Any) -> str:
    what = "reset a password" if event.attempt is Attempt.RESET else "sign in"
    locked = f", and the next try waits until {_words(event.locked_until)}" if event.locked_until else ""
    return f"Somebody tried to {what} with an address that no account has{locked}"


def _erasure_refused(event: Any) -> str:
    until = f"; ask again from {event.until} on" if event.until else ""
    return f"The erasure of patient {event.patient_id} was refused: {_words(event.reason)}{until}"


def _proxy(event: Any) -> str:
    who = f"account {event.account_id}" if event.account_id else f"patient {event.proxy_patient_id}"
    return (
        f"{who.capitalize()} may stand for patient {event.patient_id} {_words(event.period)}, "
        f"to {_words(event.allows).replace(', ', ' and ')}: {_words(event.basis)}"
    )


def _role(event: Any) -> str:
    whose = "".join(
        f", as {kind} {key}" for kind, key in (("patient", event.patient_id), ("provider", event.provider_id)) if key
    )
    return f"role {_words(event.role)}{whose}"


def _session(event: Any) -> str:
    app = f" through the programme {event.client_id}" if event.client_id else ""
    return f"Account {event.account_id} was signed in{app} with {_words(event.factors)}, as session {event.session_id}"


def _policy(event: Any) -> str:
    roles = "; ".join(f"{_words(mfa)} for {_words(role)}" for role, mfa in sorted(event.roles.items()))
    return f"Second factors were set: {roles}"


def _exception(event: Any) -> str:
    hours = ", ".join(f"{one.start:%H:%M}–{one.end:%H:%M}" for one in event.hours) or "closed"
    return f"Hours of provider {event.provider_id} at location {event.location_id} were set for {event.day}: {hours}"


_SENTENCES: Final[Mapping[str, str | Callable[[Any], str]]] = {
    "AccountClosed": "Account {account_id} was closed: {reason}",
    "AccountLockedByAdministrator": "Account {account_id} was locked",
    "AccountRegistered": lambda event: f"Account {event.account_id} was registered with the {_role(event)}",
    "AccountUnlocked": "Account {account_id} was unlocked",
    "AddressTakenAgain": "Somebody registered with the address that account {account_id} has",
    "EmailVerified": "The e-mail address of account {account_id} was verified",
    "LinkIssued": _link,
    "PasskeyAccepted": "Passkey {passkey_id} of account {account_id} was accepted",
    "PasskeyAdded": "Passkey {passkey_id} was added to account {account_id}",
    "PasskeyRemoved": "Passkey {passkey_id} was removed from account {account_id}",
    "PasswordAccepted": "The password of account {account_id} was accepted",
    "PasswordChanged": "The password of account {account_id} was changed",
    "PasswordRehashed": "The password of account {account_id} was hashed anew",
    "ProviderAccepted": "An outside provider's word for account {account_id} was accepted",
    "ProviderLinked": "An outside provider was linked with account {account_id}",
    "ProviderUnlinked": "An outside provider was unlinked from account {account_id}",
    "RecoveryCodeUsed": "A recovery code of account {account_id} was used",
    "RecoveryCodesMade": "New recovery codes of account {account_id} were made",
    "RegistrationLapsed": "Account {account_id}, whose address was never verified, was closed and is to be forgotten",
    "RoleChanged": lambda event: f"Account {event.account_id} was given the {_role(event)}",
    "SecondFactorsReset": "All second factors of account {account_id} were taken away",
    "SignInFailed": _failed,
    "TotpAccepted": "A code of the authenticator app of account {account_id} was accepted",
    "TotpConfirmed": "An authenticator app of account {account_id} was confirmed",
    "TotpEnrolled": "An authenticator app was offered to account {account_id}",
    "TotpRemoved": "The authenticator app of account {account_id} was removed",
    "AddressClaimed": "Account {account_id} took an e-mail address",
    "AddressReleased": "Account {account_id} gave up an e-mail address",
    "UnknownAddressTried": _unknown_address,
    "ReservationConfirmed": "The time that appointment {appointment_id} holds at {resource_id} on {day} became firm",
    "TimeBlocked": "The time of {resource_id} {period} was blocked: {reason}",
    "TimeReleased": "The time of appointment {appointment_id} at {resource_id} on {day} was released: {reason}",
    "TimeReserved": "The time of {resource_id} {occupied} was taken for appointment {appointment_id}",
    "TimeUnblocked": "Block {block_id} of the time of {resource_id} on {day} was lifted",
    "ClientAssertionUsed": "Client {client_id} showed who it is by a signature, good until {until}",
    "ClientRegistered": "Client {client_id} was registered",
    "ClientRemoved": "Client {client_id} was removed",
    "ClientSecretRotated": "Client {client_id} was given a new secret",
    "ConsentGiven": "The consent of patient {patient_id} to {purpose} was given, {means}, to the words {text_version}",
    "ConsentWithdrawn": "The consent of patient {patient_id} to {purpose} was withdrawn, {means}",
    "DisclosureRecorded": "A disclosure of data of patient {patient_id} by {means} was written down",
    "GlassBroken": "The glass was broken to reach patient {patient_id} until {until}: {reason}",
    "HolderDismissed": "Account {account_id} ceased to be that of person {person_id}",
    "HolderNamed": "Account {account_id} became that of person {person_id}",
    "LogUnsealed": "The log was unsealed: {events} events of {persons} persons, from position {first} to {last}",
    "MfaPolicySet": _policy,
    "OriginSeen": "Requests of {person} came from an origin that was not known before",
    "IdentityClaimed": "Account {account_id} took an identity of an outside provider",
    "IdentityReleased": "Account {account_id} gave up an identity of an outside provider",
    "UnknownIdentityTried": "Somebody tried to sign in through an outside provider, and no account is linked with them",
    "ErasureRefused": _erasure_refused,
    "LegalHoldLifted": "Legal hold {hold_id} on patient {patient_id} was lifted",
    "LegalHoldPlaced": "Legal hold {hold_id} was placed on patient {patient_id}: {reason}",
    "PatientDetailsCorrected": "The details of patient {patient_id} were corrected; source: {source}",
    "PatientRegistered": "Patient {patient_id} was registered",
    "StrangersForgotten": "Where strangers of {month} were is to be forgotten",
    "PersonErased": "Patient {patient_id} was erased: {ground}",
    "BookingRulesSet": "Booking rules of provider {provider_id} were set",
    "HoursExceptionCleared": "The hours of provider {provider_id} at {location_id} for {day} alone were cleared",
    "HoursExceptionSet": _exception,
    "LocationSet": lambda event: f"Location {event.location.id} of provider {event.provider_id} was set",
    "ProviderProfileChanged": "The profile of provider {provider_id} was changed",
    "ProviderRegistered": "Provider {provider_id} was registered",
    "PublicHolidaysObserved": "Public holidays from {first} to {last} were put down for provider {provider_id}",
    "TimeOffCancelled": "Time off {time_off_id} of provider {provider_id} was cancelled",
    "TimeOffPlanned": "Time off of provider {provider_id} was planned {period}: {reason}",
    "VisitTypeSet": lambda event: f"Visit type {event.visit_type.id} of provider {event.provider_id} was set",
    "VisitTypeWithdrawn": "Visit type {visit_type_id} of provider {provider_id} was withdrawn",
    "WeeklyHoursPublished": "Weekly hours of provider {provider_id} at {location_id} hold from {valid_from} on",
    "ProxyEnded": "Proxy {proxy_id} for patient {patient_id} ended: {reason}",
    "ProxyGranted": _proxy,
    "ProxyTakenOn": "{holder_id} took it on to stand for patient {patient_id}",
    "ResourceRegistered": "Resource {resource_id} was registered: {kind}",
    "ResourceRetiredFromUse": "Resource {resource_id} was retired from use",
    "RetentionPolicySet": "Records are kept for {years_after_last_visit} years after the last visit from now on, where"
    " strangers were for {months_of_strangers} months, accounts never verified for {days_of_unverified} days",
    "SeriesBooked": "Series {series_id} of visits was booked for patient {patient_id} with provider {provider_id}",
    "SessionEnded": "Session {session_id} of account {account_id} ended: {reason}",
    "SessionRefreshed": "Session {session_id} of account {account_id} was refreshed",
    "SessionStarted": _session,
    "SessionUsed": "Session {session_id} of account {account_id} let a programme in",
}

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z][a-z]*")


def _in_words(name: str) -> str:
    """`WeeklyHoursPublished` → `Weekly hours published`"""
    words = " ".join(word if word.isupper() and len(word) > 1 else word.lower() for word in _WORD.findall(name))
    return f"{words[:1].upper()}{words[1:]}"
