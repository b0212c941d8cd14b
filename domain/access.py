"""Who may ask for what: one table, on one page, and one relationship for now: a patient's or provider's own.

Accounts widen the relationships; the table is where a newcomer looks first.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from domain.appointment import Party
from domain.refusals import NotAllowed, Unknown


class Role(StrEnum):
    PATIENT = "patient"
    PROVIDER = "provider"
    FRONT_DESK = "front_desk"
    ADMIN = "admin"
    AUDITOR = "auditor"
    ANALYST = "analyst"
    SYSTEM = "system"


STAFF = frozenset({Role.PROVIDER, Role.FRONT_DESK, Role.ADMIN, Role.SYSTEM})
DESK = frozenset({Role.FRONT_DESK, Role.ADMIN, Role.SYSTEM})
BOOKERS = STAFF | {Role.PATIENT}
READERS = BOOKERS | {Role.AUDITOR}

# What is asked for → who may ask. A patient reaches only what is their own, a provider only their own hours.
POLICY: dict[str, frozenset[Role]] = {
    "register_provider": frozenset({Role.ADMIN, Role.SYSTEM}),
    "change_provider": STAFF,
    "publish_hours": STAFF,
    "block_time": STAFF,
    "register_resource": DESK,
    "register_patient": STAFF,
    "hold_appointment": BOOKERS,
    "book_appointment": BOOKERS,
    "book_series": BOOKERS,
    "move_appointment": BOOKERS,
    "cancel_appointment": BOOKERS,
    "answer_request": STAFF,
    "override_rule": STAFF,
    "attend_visit": STAFF,
    "enter_in_error": STAFF,
    "lapse_hold": frozenset({Role.SYSTEM}),
    "change_own_account": READERS | {Role.ANALYST},
    "invite_patient": DESK,
    "manage_accounts": frozenset({Role.ADMIN, Role.SYSTEM}),
    "set_mfa_policy": frozenset({Role.ADMIN, Role.SYSTEM}),
    "record_history": frozenset({Role.ADMIN, Role.SYSTEM}),
    "read_slots": READERS,
    "read_provider": READERS,
    "read_appointment": READERS,
    "read_patient": READERS,
    "read_diary": STAFF | {Role.AUDITOR},
    "read_figures": frozenset({Role.ADMIN, Role.AUDITOR, Role.ANALYST, Role.SYSTEM}),
}


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


def require(actor: Actor, what: str) -> None:
    """Raises `NotAllowed` where the role may not ask for this at all."""
    if actor.role not in POLICY[what]:
        raise NotAllowed(f"the role {actor.role.value} may not do this", action=what)


def require_patient(actor: Actor, patient_id: UUID) -> None:
    """A patient reaches only their own; another's reads as unknown, so that ids can't be guessed."""
    if actor.role is Role.PATIENT and actor.patient_id != patient_id:
        raise Unknown("unknown id", id=str(patient_id))


def require_provider(actor: Actor, provider_id: UUID) -> None:
    """A provider manages only their own hours and blocks."""
    if actor.role is Role.PROVIDER and actor.provider_id != provider_id:
        raise NotAllowed("providers manage their own hours only", action="change_provider")
