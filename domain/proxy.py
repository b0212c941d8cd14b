"""Who stands in for a patient: a parent, a guardian, somebody they trust; with consent or by law, and with an end.

In: who is to stand in for whom, on which ground, and until when. Out: events of the patient's list of proxies. Whether
one stands in is decided by the instant handed in, so nothing has to run for a proxy to end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import ClassVar, Final
from uuid import UUID

from domain.appointment import Party
from domain.events import Event, Personal
from domain.refusals import Invalid, NotAllowed, Refusal, Unknown
from domain.time import Period

# A minor's years up to majority; whatever is longer is granted again.
LONGEST: Final = timedelta(days=366 * 18)
MOST: Final = 50


class Basis(StrEnum):
    """On which ground somebody stands in (45 CFR 164.502(g), personal representatives; HL7 v3 RoleCode)."""

    CONSENT = "consent"
    PARENT_OF_MINOR = "parent_of_minor"
    GUARDIAN = "guardian"
    POWER_OF_ATTORNEY = "power_of_attorney"


class Allowance(StrEnum):
    READ = "read"
    BOOK = "book"


class EndReason(StrEnum):
    WITHDRAWN = "withdrawn"
    GIVEN_UP = "given_up"
    COURT_ORDER = "court_order"
    OF_AGE = "of_age"
    ENTERED_IN_ERROR = "entered_in_error"


class ProxyGranted(Event):
    """Exactly one of `account_id` and `proxy_patient_id` says who stands in: whoever signs in with the account, or as
    that patient. `document` is where the ground is written down, in words."""

    NAME: ClassVar[str] = "ProxyGranted.v1"
    PERSON: ClassVar[str] = "patient_id"
    patient_id: UUID
    proxy_id: UUID
    account_id: UUID | None = None
    proxy_patient_id: UUID | None = None
    basis: Basis
    allows: tuple[Allowance, ...]
    period: Period
    by: Party
    document: Personal[str] | None = None


class ProxyEnded(Event):
    NAME: ClassVar[str] = "ProxyEnded.v1"
    patient_id: UUID
    proxy_id: UUID
    reason: EndReason
    by: Party


class ProxyTakenOn(Event):
    """The same, on the side of whoever stands in: `holder_id` is their account or their own patient id. What became of
    it is with the patient's proxies."""

    NAME: ClassVar[str] = "ProxyTakenOn.v1"
    holder_id: UUID
    patient_id: UUID


@dataclass(frozen=True, slots=True)
class Proxy:
    id: UUID
    account_id: UUID | None
    proxy_patient_id: UUID | None
    basis: Basis
    allows: frozenset[Allowance]
    period: Period
    ended: EndReason | None = None

    @property
    def holder_id(self) -> UUID | None:
        return self.account_id or self.proxy_patient_id

    def is_held_by(self, account_id: UUID | None, patient_id: UUID | None) -> bool:
        return (self.account_id is not None and self.account_id == account_id) or (
            self.proxy_patient_id is not None and self.proxy_patient_id == patient_id
        )

    def holds(self, now: datetime) -> bool:
        """From its start on, and no longer at its end."""
        return self.ended is None and self.period.start <= now < self.period.end


@dataclass(frozen=True, slots=True)
class Proxies:
    """All that were ever granted for a patient, by id."""

    patient_id: UUID
    granted: Mapping[UUID, Proxy]


@dataclass(frozen=True, slots=True)
class Charges:
    """For whom somebody was ever to stand in."""

    holder_id: UUID
    patients: frozenset[UUID]


class AlreadyEnded(Refusal):
    code = "proxy_already_ended"


class TooManyProxies(Refusal):
    code = "too_many_proxies"


def stream(patient_id: UUID) -> str:
    return f"proxies/{patient_id}"


def evolve(state: Proxies | None, event: Event) -> Proxies:
    match event:
        case ProxyGranted():
            before = state.granted if state is not None else {}
            granted = Proxy(
                event.proxy_id,
                event.account_id,
                event.proxy_patient_id,
                event.basis,
                frozenset(event.allows),
                event.period,
            )
            return Proxies(event.patient_id, {**before, granted.id: granted})
        case ProxyEnded() if state is not None:
            ended = replace(state.granted[event.proxy_id], ended=event.reason)
            return replace(state, granted={**state.granted, ended.id: ended})
    raise TypeError(f"{type(event).__name__} is not an event of a patient's proxies")


def charges_stream(holder_id: UUID) -> str:
    return f"charges/{holder_id}"


def take_on(state: Charges | None, event: Event) -> Charges:
    match event:
        case ProxyTakenOn():
            before = state.patients if state is not None else frozenset[UUID]()
            return Charges(event.holder_id, before | {event.patient_id})
    raise TypeError(f"{type(event).__name__} is not an event of somebody's charges")


def stands_in(
    state: Proxies, account_id: UUID | None, patient_id: UUID | None, wanted: Allowance, now: datetime
) -> bool:
    return any(
        one.is_held_by(account_id, patient_id) and one.holds(now) and wanted in one.allows
        for one in state.granted.values()
    )


def grant(
    state: Proxies | None,
    *,
    patient_id: UUID,
    proxy_id: UUID,
    account_id: UUID | None,
    proxy_patient_id: UUID | None,
    basis: Basis,
    allows: frozenset[Allowance],
    until: datetime,
    by: Party,
    now: datetime,
    document: str | None = None,
) -> ProxyGranted:
    """A patient consents; that somebody stands in by law is for staff to say, who saw the paper."""
    if (account_id is None) == (proxy_patient_id is None):
        raise Invalid("say who stands in: an account or a patient, one of them")
    if by is Party.PATIENT and basis is not Basis.CONSENT:
        raise NotAllowed("a patient grants by consent; the clinic records other grounds", action="grant_proxy")
    if proxy_patient_id == patient_id:
        raise Invalid("nobody is their own proxy")
    if not now < until <= now + LONGEST:
        raise Invalid("a proxy ends in the future, within eighteen years", latest=now + LONGEST)
    if state is not None and sum(one.holds(now) for one in state.granted.values()) >= MOST:
        raise TooManyProxies(f"{MOST} people stand in already; end one first", most=MOST)
    return ProxyGranted(
        patient_id=patient_id,
        proxy_id=proxy_id,
        account_id=account_id,
        proxy_patient_id=proxy_patient_id,
        basis=basis,
        allows=tuple(sorted(allows)),
        period=Period(now, until),
        by=by,
        document=document,
    )


def of(state: Proxies | None, proxy_id: UUID) -> Proxy:
    """Raises `Unknown`."""
    found = state.granted.get(proxy_id) if state is not None else None
    if found is None:
        raise Unknown("unknown id", id=str(proxy_id))
    return found


def end(patient_id: UUID, found: Proxy, reason: EndReason, by: Party, now: datetime) -> ProxyEnded:
    if found.ended is not None or now >= found.period.end:
        raise AlreadyEnded("this proxy has ended")
    return ProxyEnded(patient_id=patient_id, proxy_id=found.id, reason=reason, by=by)
