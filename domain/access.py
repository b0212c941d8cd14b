"""Who may do what: one table on one page, and how far each role reaches with it.

In: who asks, for which action, and whose it is; where a relationship decides, what the log says of it at that moment.
Out: for whom it is done, or a refusal. `commands/access.py` and `read_api/access.py` are the two places that ask.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final, Protocol
from uuid import UUID

from domain import glass, proxy, scopes
from domain.appointment import Party, Status
from domain.glass import Glass
from domain.proxy import Allowance, Proxies
from domain.refusals import NotAllowed, Refusal, Unknown


class Role(StrEnum):
    PATIENT = "patient"
    PROVIDER = "provider"
    FRONT_DESK = "front_desk"
    ADMIN = "admin"
    AUDITOR = "auditor"
    ANALYST = "analyst"
    SYSTEM = "system"


class Reach(StrEnum):
    """How far a role reaches with an action. Beyond it another's patients read as unknown."""

    SELF = "self"
    """What is theirs alone: their own record, account, sessions."""
    OWN = "own"
    """Their own record, and those of patients whose proxy they are, as far as the proxy goes and as long."""
    OWN_BOOK = "own_book"
    """A provider's own hours and days; what belongs to nobody in person, such as a room, too."""
    OWN_PATIENTS = "own_patients"
    """Patients who have a visit with the provider, past or to come, and visits with the provider; behind a broken glass
    any patient, for half an hour."""
    GLASS = "glass"
    """Any patient, behind a broken glass alone."""
    CLINIC = "clinic"
    """Everybody in the organization."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A row of the table. `scope` is the least that a bounded token must hold (SMART App Launch 2.2 words, without the
    context, which follows from the role); None asks for no scope. `personal` says that somebody's personal data is
    read, which is recorded (45 CFR 164.312(b))."""

    scope: str | None
    reach: Mapping[Role, Reach]
    personal: bool = False


ROLES: Final = (
    Role.PATIENT,
    Role.PROVIDER,
    Role.FRONT_DESK,
    Role.ADMIN,
    Role.SYSTEM,
    Role.AUDITOR,
    Role.ANALYST,
)


def _row(scope: str | None, *reach: Reach | None, personal: bool = False) -> Rule:
    return Rule(
        scope, {role: far for role, far in zip(ROLES, reach, strict=True) if far is not None}, personal=personal
    )


_SELF, _OWN, _BOOK, _PATIENTS, _GLASS, _ALL, _NO = (
    Reach.SELF,
    Reach.OWN,
    Reach.OWN_BOOK,
    Reach.OWN_PATIENTS,
    Reach.GLASS,
    Reach.CLINIC,
    None,
)

# fmt: off
POLICY: Final[dict[str, Rule]] = {
    #                          scope               patient provider   desk   admin system auditor analyst
    "hold_appointment":   _row("Appointment.c",    _OWN,  _PATIENTS, _ALL,  _ALL,  _ALL,  _NO,   _NO),
    "book_appointment":   _row("Appointment.c",    _OWN,  _PATIENTS, _ALL,  _ALL,  _ALL,  _NO,   _NO),
    "book_series":        _row("Appointment.c",    _OWN,  _PATIENTS, _ALL,  _ALL,  _ALL,  _NO,   _NO),
    "move_appointment":   _row("Appointment.u",    _OWN,  _PATIENTS, _ALL,  _ALL,  _ALL,  _NO,   _NO),
    "cancel_appointment": _row("Appointment.u",    _OWN,  _PATIENTS, _ALL,  _ALL,  _ALL,  _NO,   _NO),
    "answer_request":     _row("Appointment.u",    _NO,   _PATIENTS, _ALL,  _ALL,  _ALL,  _NO,   _NO),
    "override_rule":      _row("Appointment.u",    _NO,   _PATIENTS, _ALL,  _ALL,  _ALL,  _NO,   _NO),
    "attend_visit":       _row("Appointment.u",    _NO,   _PATIENTS, _ALL,  _ALL,  _ALL,  _NO,   _NO),
    "enter_in_error":     _row("Appointment.u",    _NO,   _PATIENTS, _ALL,  _ALL,  _ALL,  _NO,   _NO),
    "lapse_hold":         _row("Appointment.u",    _NO,   _NO,       _NO,   _NO,   _ALL,  _NO,   _NO),
    "record_history":     _row("Appointment.c",    _NO,   _NO,       _NO,   _ALL,  _ALL,  _NO,   _NO),
    "register_patient":   _row("Patient.c",        _NO,   _ALL,      _ALL,  _ALL,  _ALL,  _NO,   _NO),
    "register_provider":  _row("Practitioner.c",   _NO,   _NO,       _NO,   _ALL,  _ALL,  _NO,   _NO),
    "change_provider":    _row("Practitioner.u",   _NO,   _BOOK,     _ALL,  _ALL,  _ALL,  _NO,   _NO),
    "publish_hours":      _row("Schedule.u",       _NO,   _BOOK,     _ALL,  _ALL,  _ALL,  _NO,   _NO),
    "block_time":         _row("Schedule.u",       _NO,   _BOOK,     _ALL,  _ALL,  _ALL,  _NO,   _NO),
    "register_resource":  _row("Location.c",       _NO,   _NO,       _ALL,  _ALL,  _ALL,  _NO,   _NO),
    "grant_proxy":        _row("RelatedPerson.c",  _SELF, _NO,       _ALL,  _ALL,  _NO,   _NO,   _NO),
    "end_proxy":          _row("RelatedPerson.u",  _SELF, _NO,       _ALL,  _ALL,  _NO,   _NO,   _NO),
    "give_up_proxy":      _row("RelatedPerson.u",  _SELF, _NO,       _NO,   _NO,   _NO,   _NO,   _NO),
    "break_glass":        _row("Consent.c",        _NO,   _ALL,      _ALL,  _NO,   _NO,   _NO,   _NO),
    "register_client":    _row("Client.c",         _NO,   _NO,       _NO,   _ALL,  _ALL,  _NO,   _NO),
    "sign_in":            _row(None,               _NO,   _NO,       _NO,   _NO,   _ALL,  _NO,   _NO),
    "keep_session":       _row(None,               _NO,   _NO,       _NO,   _NO,   _ALL,  _NO,   _NO),
    "change_own_account": _row("Account.u",        _SELF, _SELF,     _SELF, _SELF, _NO,   _SELF, _SELF),
    "invite_patient":     _row("Account.c",        _NO,   _NO,       _ALL,  _ALL,  _ALL,  _NO,   _NO),
    "manage_accounts":    _row("Account.u",        _NO,   _NO,       _NO,   _ALL,  _ALL,  _NO,   _NO),
    "set_mfa_policy":     _row("Organization.u",   _NO,   _NO,       _NO,   _ALL,  _ALL,  _NO,   _NO),
    "end_session":        _row("Session.d",        _SELF, _SELF,     _SELF, _ALL,  _ALL,  _SELF, _SELF),
    "read_clients":       _row("Client.s",         _NO,   _NO,       _NO,   _ALL,  _ALL,  _NO,   _NO),
    "read_account":       _row("Account.r",        _SELF, _SELF,     _SELF, _ALL,  _ALL,  _SELF, _SELF),
    "read_sessions":      _row("Session.s",        _SELF, _SELF,     _SELF, _ALL,  _ALL,  _SELF, _SELF),
    "correct_patient":    _row("Patient.u",        _OWN,  _PATIENTS, _ALL,  _ALL,  _ALL,  _NO,   _NO),
    "change_consents":    _row("Consent.c",        _SELF, _NO,       _ALL,  _ALL,  _NO,   _NO,   _NO),
    "erase_person":       _row("Patient.d",        _NO,   _NO,       _NO,   _ALL,  _ALL,  _NO,   _NO),
    "hold_legally":       _row("Patient.u",        _NO,   _NO,       _NO,   _ALL,  _NO,   _NO,   _NO),
    "set_retention":      _row("Organization.u",   _NO,   _NO,       _NO,   _ALL,  _NO,   _NO,   _NO),
    "forget_strangers":   _row(None,               _NO,   _NO,       _NO,   _NO,   _ALL,  _NO,   _NO),
    "forget_unverified":  _row(None,               _NO,   _NO,       _NO,   _NO,   _ALL,  _NO,   _NO),
    "read_slots":         _row("Slot.s",           _OWN,  _PATIENTS, _ALL,  _ALL,  _ALL,  _ALL,  _NO),
    "read_provider":      _row("Practitioner.r",   _ALL,  _ALL,      _ALL,  _ALL,  _ALL,  _ALL,  _NO),
    "read_time_off":      _row("Schedule.r",       _NO,   _ALL,      _ALL,  _ALL,  _ALL,  _ALL,  _NO),
    "read_diary":         _row("Schedule.r",       _NO,   _BOOK,     _ALL,  _ALL,  _ALL,  _ALL,  _NO,  personal=True),
    "read_page":          _row("Schedule.r",       _NO,   _PATIENTS, _ALL,  _ALL,  _ALL,  _ALL,  _NO,  personal=True),
    "read_appointment":   _row("Appointment.r",    _OWN,  _PATIENTS, _ALL,  _ALL,  _ALL,  _ALL,  _NO,  personal=True),
    "read_patient":       _row("Appointment.s",    _OWN,  _PATIENTS, _ALL,  _ALL,  _ALL,  _ALL,  _NO,  personal=True),
    "read_patient_details": _row("Patient.r",      _OWN,  _PATIENTS, _ALL,  _ALL,  _ALL,  _NO,   _NO,  personal=True),
    "read_consents":      _row("Consent.r",        _OWN,  _PATIENTS, _ALL,  _ALL,  _ALL,  _ALL,  _NO,  personal=True),
    "read_private_words": _row("Appointment.r",    _OWN,  _PATIENTS, _GLASS,_ALL,  _ALL,  _NO,   _NO,  personal=True),
    "search_patients":    _row("Patient.s",        _NO,   _ALL,      _ALL,  _ALL,  _ALL,  _NO,   _NO,  personal=True),
    "export_person":      _row("Patient.r",        _SELF, _NO,       _NO,   _ALL,  _NO,   _NO,   _NO,  personal=True),
    "read_actors":        _row("AuditEvent.r",     _NO,   _ALL,      _ALL,  _ALL,  _ALL,  _ALL,  _NO),
    "read_proxies":       _row("RelatedPerson.s",  _OWN,  _PATIENTS, _ALL,  _ALL,  _ALL,  _ALL,  _NO,  personal=True),
    "read_own_proxies":   _row("RelatedPerson.s",  _SELF, _NO,       _NO,   _NO,   _NO,   _NO,   _NO),
    "read_glass":         _row("AuditEvent.s",     _NO,   _NO,       _NO,   _ALL,  _NO,   _ALL,  _NO,  personal=True),
    "read_looks":         _row("AuditEvent.s",     _SELF, _NO,       _NO,   _ALL,  _NO,   _ALL,  _NO,  personal=True),
    "read_disclosures":   _row("AuditEvent.s",     _SELF, _NO,       _NO,   _ALL,  _NO,   _ALL,  _NO,  personal=True),
    "read_holds":         _row("Patient.r",        _NO,   _NO,       _NO,   _ALL,  _NO,   _ALL,  _NO,  personal=True),
    "read_retention":     _row("Organization.r",   _NO,   _NO,       _ALL,  _ALL,  _NO,   _ALL,  _NO),
    "read_suspicions":    _row("AuditEvent.s",     _NO,   _NO,       _NO,   _ALL,  _NO,   _ALL,  _NO,  personal=True),
    "record_disclosure":  _row("AuditEvent.c",     _NO,   _PATIENTS, _ALL,  _ALL,  _NO,   _NO,   _NO),
    "read_figures":       _row("MeasureReport.r",  _NO,   _NO,       _NO,   _ALL,  _ALL,  _ALL,  _ALL),
}
# fmt: on

# Visits that make a patient a provider's own. One that was called off, or never meant, does not.
_OWNING: Final = frozenset(
    {Status.REQUESTED, Status.BOOKED, Status.CHECKED_IN, Status.IN_PROGRESS, Status.COMPLETED, Status.NO_SHOW}
)


@dataclass(frozen=True, slots=True)
class Actor:
    """Whoever asks: `id` for the record, and the patient or provider that they are, if any.

    `account_id` and `session_id` are there when somebody signed in; a token that an operator minted has none. `scopes`
    bound what the token reaches (SMART App Launch 2.2 words); None is no bound beyond the role's. `factors` say how
    they proved who they are (RFC 8176: `pwd`, `otp`, `hwk` …), at `authenticated_at`."""

    id: str
    role: Role
    patient_id: UUID | None = None
    provider_id: UUID | None = None
    account_id: UUID | None = None
    session_id: UUID | None = None
    client_id: str | None = None
    scopes: frozenset[str] | None = None
    factors: frozenset[str] = frozenset()
    authenticated_at: datetime | None = None

    @property
    def party(self) -> Party:
        match self.role:
            case Role.PATIENT:
                return Party.PATIENT
            case Role.PROVIDER:
                return Party.PROVIDER
            case Role.SYSTEM:
                return Party.SYSTEM
        return Party.FRONT_DESK

    @property
    def person(self) -> str:
        """The same for all sessions and tokens of somebody who has an account."""
        return str(self.account_id or self.id)


class InsufficientScope(Refusal):
    """The role reaches this and the token does not (RFC 6750 §3.1). `scope` is what it lacks."""

    code = "insufficient_scope"
    status = 403


class Tie(StrEnum):
    """What may bind somebody to a patient and is to be looked up in the log."""

    PROXY = "proxy"
    CARE = "care"
    GLASS = "glass"


@dataclass(frozen=True, slots=True)
class Whose:
    """Whose the thing is that is asked for: a patient's, a provider's, a visit's both, an account's, or nobody's.
    `named` is the id that the asker named, which a refusal repeats."""

    patient_id: UUID | None = None
    provider_id: UUID | None = None
    account_id: UUID | None = None
    named: UUID | None = None


@dataclass(frozen=True, slots=True)
class Ties:
    """What the log says: the patient's proxies, the glass that the asker broke, whether the patient is the provider's
    own."""

    proxies: Proxies | None = None
    glass: Glass | None = None
    in_care: bool = False


@dataclass(frozen=True, slots=True)
class Standing:
    """In what standing somebody reaches it: for whom, where as a proxy, and whether behind a broken glass."""

    on_behalf_of: UUID | None = None
    behind_glass: bool = False


PLAIN: Final = Standing()


def require(actor: Actor, what: str) -> Reach:
    """How far the actor reaches with an action. Raises `NotAllowed` where their role may not ask for it at all, and
    `InsufficientScope` where their token may not."""
    reach = POLICY[what].reach.get(actor.role)
    if reach is None:
        raise NotAllowed(f"the role {actor.role.value} may not do this", action=what)
    _require_scope(actor, what, _CONTEXTS.get(actor.role, _USER))
    return reach


def may(actor: Actor, what: str) -> bool:
    """Whether the actor may ask for this at all: for what is shown to some and left out for others."""
    try:
        require(actor, what)
    except (NotAllowed, InsufficientScope):
        return False
    return True


# `patient/` is about one record, here a patient's own; `user/` about what the person reaches, `system/` for a system by
# itself. Staff gain nothing by `patient/`: whose record it was opened for is not bound to their token.
_USER: Final = ("user",)
_CONTEXTS: Final[Mapping[Role, tuple[str, ...]]] = {Role.PATIENT: ("patient", "user"), Role.SYSTEM: ("system",)}


def _require_scope(actor: Actor, what: str, contexts: tuple[str, ...]) -> None:
    scope = POLICY[what].scope
    if actor.scopes is None or scope is None:
        return
    resource, _, letter = scope.partition(".")
    found = filter(None, map(scopes.parse, actor.scopes))
    if not any(one.context in contexts and one.resource in ("*", resource) and letter in one.letters for one in found):
        needed = f"{contexts[0]}/{scope}"
        raise InsufficientScope("the token's scopes do not reach this", action=what, scope=needed)


def undecided(actor: Actor, what: str, whose: Whose) -> frozenset[Tie]:
    """The ties that decide whether the actor reaches it; none where that is clear as it is. Raises as `require`."""
    reach = require(actor, what)
    if whose.patient_id is None or (reach is Reach.OWN_PATIENTS and _with_them(actor, whose)):
        return frozenset()
    match reach:
        case Reach.OWN if actor.patient_id != whose.patient_id:
            return frozenset({Tie.PROXY})
        case Reach.OWN_PATIENTS:
            return frozenset({Tie.CARE, Tie.GLASS})
        case Reach.GLASS:
            return frozenset({Tie.GLASS})
    return frozenset()


def reached(actor: Actor, what: str, whose: Whose, ties: Ties, now: datetime) -> Standing:
    """In what standing the actor reaches it, by the `undecided` ties as the log has them.

    Raises `Unknown` for a patient beyond reach, so that ids can't be guessed; `NotAllowed` for another provider's book,
    which is no secret; and as `require`."""
    reach = require(actor, what)
    patient_id = whose.patient_id
    match reach:
        case Reach.CLINIC:
            return PLAIN
        case Reach.OWN_BOOK:
            if whose.provider_id is not None and whose.provider_id != actor.provider_id:
                raise NotAllowed("providers reach their own book only", action=what)
            if patient_id is None or whose.provider_id is not None:
                return PLAIN
        case Reach.SELF | Reach.OWN:
            if _theirs(actor, whose):
                return PLAIN
            if reach is Reach.OWN and _stands_in(actor, what, ties.proxies, now):
                # An app that was let into somebody's own record was not let into those they look after.
                _require_scope(actor, what, _USER)
                return Standing(on_behalf_of=patient_id)
        case Reach.OWN_PATIENTS | Reach.GLASS:
            if patient_id is None:
                if whose.provider_id is None or whose.provider_id == actor.provider_id:
                    return PLAIN
                raise NotAllowed("providers reach their own book only", action=what)
            if reach is Reach.OWN_PATIENTS and (ties.in_care or _with_them(actor, whose)):
                return PLAIN
            if ties.glass is not None and glass.open_at(ties.glass, now):
                return Standing(behind_glass=True)
            if reach is Reach.GLASS:
                raise NotAllowed("this needs a stated reason: break the glass first", action=what)
    raise Unknown("unknown id", id=str(whose.named or patient_id or whose.account_id))


class Visit(Protocol):
    """As much of an appointment as says whose patient somebody is: its state, or its row in the diary."""

    @property
    def provider_id(self) -> UUID: ...

    @property
    def status(self) -> Status: ...


def makes_own(visit: Visit, provider_id: UUID) -> bool:
    """Whether a visit makes its patient the provider's own."""
    return visit.provider_id == provider_id and visit.status in _OWNING


def _theirs(actor: Actor, whose: Whose) -> bool:
    if whose.patient_id is None and whose.account_id is None:
        return True
    return (whose.patient_id is not None and whose.patient_id == actor.patient_id) or (
        whose.account_id is not None and whose.account_id == actor.account_id
    )


def _with_them(actor: Actor, whose: Whose) -> bool:
    return actor.provider_id is not None and whose.provider_id == actor.provider_id


def _stands_in(actor: Actor, what: str, proxies: Proxies | None, now: datetime) -> bool:
    scope = POLICY[what].scope or ""
    wanted = Allowance.READ if scope.endswith((".r", ".s")) else Allowance.BOOK
    return proxies is not None and proxy.stands_in(proxies, actor.account_id, actor.patient_id, wanted, now)
