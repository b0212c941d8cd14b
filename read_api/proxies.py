"""Who stands in for a patient, and for whom somebody stands in; from the log, as it is at this moment."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.responses import Response

from domain import patient, proxy
from domain.access import Actor
from domain.look import Screen
from domain.ports import Recorded
from domain.proxy import Allowance, Basis, EndReason, Proxies, Proxy
from read_api.asking import Asked, unknown
from read_api.describing import answers
from read_api.folding import folded

router = APIRouter(tags=["proxies"])


class ProxyView(BaseModel):
    """`account_id` or `proxy_patient_id` says who stands in; `holds` whether they do now."""

    proxy_id: UUID
    patient_id: UUID
    account_id: UUID | None
    proxy_patient_id: UUID | None
    basis: Basis
    allows: list[Allowance]
    start: datetime
    until: datetime
    holds: bool
    ended: EndReason | None


class ProxiesOfPatient(BaseModel):
    """In the order in which they were granted, those that have ended too."""

    proxies: list[ProxyView]


class OwnCharges(BaseModel):
    """For whom the asker stands in now."""

    charges: list[ProxyView]


@router.get("/patients/{patient_id}/proxies", response_model=ProxiesOfPatient, **answers(404))
async def read_proxies(patient_id: UUID, asked: Asked) -> Response:
    """Who stands in for a patient, or did. The patient, whoever may read for them, their providers, staff, auditors."""
    asked.may("read_proxies")
    await asked.reach(patient_id=patient_id)
    log, now = asked.library.log, asked.library.clock.now()
    head = await log.head()
    known, told = patient.stream(patient_id), proxy.stream(patient_id)
    found = await log.load(asked.organization, {known: 0, told: 0}, upto=head)
    if not found[known]:
        raise unknown(patient_id)
    asked.shows(Screen.PROXIES, patient_id)
    state = folded(proxy.evolve, found[told])
    return asked.answer(ProxiesOfPatient(proxies=[_view(patient_id, one, now) for one in _all(state)]), head)


@router.get("/proxies", response_model=OwnCharges, **answers())
async def read_own_charges(asked: Asked) -> Response:
    """For whom the asker stands in at this moment. Whoever signs in as a patient."""
    asked.may("read_own_proxies")
    await asked.reach()
    log, now, actor = asked.library.log, asked.library.clock.now(), asked.actor
    head = await log.head()
    holders = [proxy.charges_stream(one) for one in (actor.account_id, actor.patient_id) if one is not None]
    taken_on = await log.load(asked.organization, dict.fromkeys(holders, 0), upto=head)
    patients = {one for told in taken_on.values() for one in _charges(told)}
    proxies = await log.load(asked.organization, {proxy.stream(one): 0 for one in sorted(patients)}, upto=head)
    held = [
        _view(state.patient_id, one, now)
        for state in (folded(proxy.evolve, told) for told in proxies.values())
        if state is not None
        for one in _all(state)
        if _is_held(one, actor) and one.holds(now)
    ]
    return asked.answer(OwnCharges(charges=held), head)


def _charges(told: Iterable[Recorded]) -> frozenset[UUID]:
    state = folded(proxy.take_on, told)
    return state.patients if state is not None else frozenset()


def _all(state: Proxies | None) -> Iterable[Proxy]:
    return state.granted.values() if state is not None else ()


def _is_held(one: Proxy, actor: Actor) -> bool:
    return one.is_held_by(actor.account_id, actor.patient_id)


def _view(patient_id: UUID, one: Proxy, now: datetime) -> ProxyView:
    return ProxyView(
        proxy_id=one.id,
        patient_id=patient_id,
        account_id=one.account_id,
        proxy_patient_id=one.proxy_patient_id,
        basis=one.basis,
        allows=sorted(one.allows),
        start=one.period.start,
        until=one.period.end,
        holds=one.holds(now),
        ended=one.ended,
    )
