"""Which roles need a second factor: set by an administrator, one policy an organization.

In: what is wanted for some roles. Out: an event. As shipped it is optional for patients and providers, and required
for administrators and auditors.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import ClassVar, Final
from uuid import UUID

from domain.access import Role
from domain.events import Event
from domain.refusals import Invalid


class Mfa(StrEnum):
    OFF = "off"
    OPTIONAL = "optional"
    REQUIRED = "required"


AS_SHIPPED: Final[Mapping[Role, Mfa]] = MappingProxyType(
    {
        Role.PATIENT: Mfa.OPTIONAL,
        Role.PROVIDER: Mfa.OPTIONAL,
        Role.FRONT_DESK: Mfa.OPTIONAL,
        Role.ANALYST: Mfa.OPTIONAL,
        Role.ADMIN: Mfa.REQUIRED,
        Role.AUDITOR: Mfa.REQUIRED,
    }
)
# The stream of the one policy; an organization's streams are its own.
THE_POLICY: Final = UUID(int=0)


class MfaPolicySet(Event):
    """What holds from now on for these roles; others stay as they are. Sign-ins by one factor end where two are needed
    now."""

    NAME: ClassVar[str] = "MfaPolicySet.v1"
    roles: dict[Role, Mfa]


@dataclass(frozen=True, slots=True)
class MfaPolicy:
    roles: Mapping[Role, Mfa] = field(default_factory=lambda: AS_SHIPPED)


def stream(policy_id: UUID = THE_POLICY) -> str:
    return f"mfa_policy/{policy_id}"


def evolve(state: MfaPolicy | None, event: Event) -> MfaPolicy:
    match event:
        case MfaPolicySet():
            before = state.roles if state is not None else AS_SHIPPED
            return MfaPolicy(MappingProxyType({**before, **event.roles}))
    raise TypeError(f"{type(event).__name__} is not an event of a policy")


def for_role(state: MfaPolicy | None, role: Role) -> Mfa:
    return (state.roles if state is not None else AS_SHIPPED).get(role, Mfa.OPTIONAL)


def multi_factor(factors: Collection[str]) -> bool:
    """Whether a sign-in by these proofs, in the words of RFC 8176, was one by several factors. A passkey by itself was:
    it is let in only where the device has checked who holds it, though sessions from before it said `mfa` don't say
    so."""
    return "mfa" in factors or set(factors) == {"hwk"}


def lets_in(state: MfaPolicy | None, role: Role, factors: Collection[str]) -> bool:
    """Whether the policy has somebody of this role go on with a sign-in by these proofs."""
    return for_role(state, role) is not Mfa.REQUIRED or multi_factor(factors)


def choose(roles: Mapping[Role, Mfa]) -> MfaPolicySet:
    if not roles or Role.SYSTEM in roles:
        raise Invalid("name at least one role; a system signs in as a client, without factors")
    return MfaPolicySet(roles=dict(roles))
