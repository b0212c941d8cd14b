"""Proxies: somebody stands in for a patient, for a time; ended by the patient, the clinic, or whoever stands in."""

from __future__ import annotations

from typing import Annotated, Self
from uuid import UUID

from pydantic import Field, StringConstraints, model_validator

from commands.access import reach
from commands.loop import ACCOUNT, CHARGES, PATIENT, PROXIES, Command, Decision, Reading, handles
from domain import patient, proxy
from domain.access import Actor
from domain.events import Event
from domain.provider import WRITABLE
from domain.proxy import Allowance, Basis, EndReason, Proxy, ProxyTakenOn
from domain.step_up import fresh_enough
from domain.time import Instant


class GrantProxy(Command):
    """`account_id` or `proxy_patient_id` says who stands in: whoever signs in with the account, or as that patient.
    `document` is where the ground is written down; it is sealed. It ends at `until`, an instant with an offset."""

    patient_id: UUID
    account_id: UUID | None = None
    proxy_patient_id: UUID | None = None
    basis: Basis
    allows: Annotated[tuple[Allowance, ...], Field(min_length=1, max_length=2)]
    until: Instant
    document: (
        Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=500), WRITABLE] | None
    ) = None

    @model_validator(mode="after")
    def _somebody(self) -> Self:
        if (self.account_id is None) == (self.proxy_patient_id is None):
            raise ValueError("give `account_id` or `proxy_patient_id`, one of them")
        return self


class OneProxy(Command):
    patient_id: UUID
    proxy_id: UUID


class EndProxy(OneProxy):
    reason: EndReason = EndReason.WITHDRAWN


class GiveUpProxy(OneProxy):
    """Stand in no longer."""


@handles(GrantProxy, "grant_proxy")
async def grant_proxy(command: GrantProxy, reading: Reading, actor: Actor) -> Decision:
    await reach(reading, actor, "grant_proxy", patient_id=command.patient_id)
    # Whoever finds a session open must not let themselves in for years.
    fresh_enough(actor, reading.now)
    patient.present(await reading.get(PATIENT, command.patient_id))
    if command.proxy_patient_id is not None:
        patient.present(await reading.get(PATIENT, command.proxy_patient_id))
    elif command.account_id is not None:
        await reading.get(ACCOUNT, command.account_id)
    state = await reading.find(PROXIES, command.patient_id)
    granted = proxy.grant(
        state,
        patient_id=command.patient_id,
        proxy_id=reading.desk.ids.new(),
        account_id=command.account_id,
        proxy_patient_id=command.proxy_patient_id,
        basis=command.basis,
        allows=frozenset(command.allows),
        until=command.until,
        by=actor.party,
        now=reading.now,
        document=command.document,
    )
    changes: list[tuple[str, Event]] = [(proxy.stream(command.patient_id), granted)]
    holder_id = granted.account_id or granted.proxy_patient_id
    if holder_id is not None:
        charges = await reading.find(CHARGES, holder_id)
        if charges is None or command.patient_id not in charges.patients:
            taken_on = ProxyTakenOn(holder_id=holder_id, patient_id=command.patient_id)
            changes.append((proxy.charges_stream(holder_id), taken_on))
    answer = {"proxy_id": str(granted.proxy_id), "patient_id": str(command.patient_id), "until": granted.period.end}
    return Decision(changes, answer)


@handles(EndProxy, "end_proxy")
async def end_proxy(command: EndProxy, reading: Reading, actor: Actor) -> Decision:
    await reach(reading, actor, "end_proxy", patient_id=command.patient_id)
    return _ended(command, await _one(command, reading), command.reason, reading, actor)


@handles(GiveUpProxy, "give_up_proxy")
async def give_up_proxy(command: GiveUpProxy, reading: Reading, actor: Actor) -> Decision:
    held = await _one(command, reading)
    # It is theirs who stand in, not the patient's: these end it.
    await reach(
        reading,
        actor,
        "give_up_proxy",
        patient_id=held.proxy_patient_id,
        account_id=held.account_id,
        named=command.proxy_id,
    )
    return _ended(command, held, EndReason.GIVEN_UP, reading, actor)


async def _one(command: OneProxy, reading: Reading) -> Proxy:
    state = await reading.find(PROXIES, command.patient_id)
    return proxy.of(state, command.proxy_id)


def _ended(command: OneProxy, held: Proxy, reason: EndReason, reading: Reading, actor: Actor) -> Decision:
    event = proxy.end(command.patient_id, held, reason, actor.party, reading.now)
    answer = {"proxy_id": str(held.id), "patient_id": str(command.patient_id)}
    return Decision([(proxy.stream(command.patient_id), event)], answer)
