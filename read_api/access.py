"""The one place where it is decided whether a question reaches whom it is about.

In: who asks, for which row of the policy table, and whose it is. Out: in what standing they ask, or a refusal. What
decides is read from the log at that moment: no read model, and no answer of a moment ago, says who somebody is to
somebody else.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final
from uuid import UUID

from domain import access, glass, proxy
from domain.access import Actor, Standing, Tie, Ties, Whose
from domain.ports import EventLog
from projections.as_of import AsOf
from read_api.folding import folded

_NOW: Final = 2**63 - 1
_ALL: Final = 1_000_000


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
    page = await AsOf(log, organization, _NOW).of_patient(patient_id, limit=_ALL)
    return any(access.makes_own(row, provider_id) for row in page.appointments)
