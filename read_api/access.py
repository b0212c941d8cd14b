"""The one place where it is decided whether a question reaches whom it is about.

In: who asks, for which row of the policy table, and whose it is. Out: in what standing they ask, or a refusal. What
decides is read from the log at that moment: no read model, and no answer of a moment ago, says who somebody is to
somebody else.
"""

from __future__ import annotations

from datetime import date, datetime
from uuid import UUID

from domain import access, appointment, glass, proxy
from domain.access import Actor, Standing, Tie, Ties, Whose
from domain.availability import TimeReserved, page_stream
from domain.ports import EventLog
from read_api.folding import folded


async def reached(log: EventLog, now: datetime, organization: str, actor: Actor, what: str, whose: Whose) -> Standing:
    """Raises `NotAllowed`, `InsufficientScope` and `Unknown`."""
    ties = await _ties(log, organization, actor, access.undecided(actor, what, whose), whose.patient_id)
    return access.reached(actor, what, whose, ties, now)


async def _ties(
    log: EventLog, organization: str, actor: Actor, wanted: frozenset[Tie], patient_id: UUID | None
) -> Ties:
    if patient_id is None or not wanted:
        return Ties()
    if Tie.CARE in wanted and await _in_care(log, organization, actor.provider_id, patient_id):
        return Ties(in_care=True)
    proxies, broken = proxy.stream(patient_id), glass.stream(actor.person, patient_id)
    streams = [stream for tie, stream in ((Tie.PROXY, proxies), (Tie.GLASS, broken)) if tie in wanted]
    found = await log.load(organization, dict.fromkeys(streams, 0))
    return Ties(
        proxies=folded(proxy.evolve, found.get(proxies, ())),
        glass=folded(glass.evolve, found.get(broken, ())),
    )


async def _in_care(log: EventLog, organization: str, provider_id: UUID | None, patient_id: UUID) -> bool:
    """Whether the patient has a visit with the provider, past or to come."""
    if provider_id is None:
        return False
    first, last = page_stream(patient_id, date.min), page_stream(patient_id, date.max)
    pages = await log.load(organization, dict.fromkeys(await log.streams(organization, first, last), 0))
    reserved = [one.event for told in pages.values() for one in told if isinstance(one.event, TimeReserved)]
    visits = await log.load(organization, {appointment.stream(event.appointment_id): 0 for event in reserved})
    states = (folded(appointment.evolve, told) for told in visits.values())
    return any(state is not None and access.makes_own(state, provider_id) for state in states)
