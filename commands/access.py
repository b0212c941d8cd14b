"""The one place where it is decided whether a command reaches whom it is about.

In: a command's reading, who asks, and whose it is. Out: nothing, or a refusal. What decides is read from the log
through the reading, so that it still holds when the command is saved.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from functools import partial
from typing import Any
from uuid import UUID

from commands.loop import APPOINTMENT, NOTHING, PROXIES, Aggregate, Reading
from domain import access, appointment, glass
from domain.access import Actor, Tie, Ties, Whose
from domain.availability import page_stream
from domain.glass import Glass


async def reach(
    reading: Reading,
    actor: Actor,
    what: str,
    *,
    patient_id: UUID | None = None,
    provider_id: UUID | None = None,
    account_id: UUID | None = None,
    named: UUID | None = None,
) -> None:
    """Go on only where the actor reaches it. Without ids it is nobody's in person. `named` is the id that was asked
    for, where that is neither. Raises `NotAllowed`, `InsufficientScope` and `Unknown`."""
    whose = Whose(patient_id, provider_id, account_id, named)
    ties = await _ties(reading, actor, access.undecided(actor, what, whose), patient_id)
    standing = access.reached(actor, what, whose, ties, reading.now)
    if reading.standing is None or reading.standing == access.PLAIN:
        reading.standing = standing


def glass_of(actor: Actor) -> Aggregate[Glass]:
    """The glass that an actor breaks, by patient."""
    return Aggregate(partial(glass.stream, actor.person), glass.evolve)


async def _ties(reading: Reading, actor: Actor, wanted: frozenset[Tie], patient_id: UUID | None) -> Ties:
    if patient_id is None or not wanted:
        return Ties()
    if Tie.CARE in wanted and await _in_care(reading, actor.provider_id, patient_id):
        return Ties(in_care=True)
    if Tie.PROXY in wanted:
        proxies = await reading.find(PROXIES, patient_id)
        return Ties(proxies)
    broken = await reading.find(glass_of(actor), patient_id)
    return Ties(glass=broken)


async def _in_care(reading: Reading, provider_id: UUID | None, patient_id: UUID) -> bool:
    """Whether the patient has a visit with the provider. The patient's pages are looked through without a guard; the
    visit that is found is read again with one."""
    if provider_id is None:
        return False
    first, last = page_stream(patient_id, date.min), page_stream(patient_id, date.max)
    pages = await _now(reading, await reading.desk.log.streams(reading.organization, first, last))
    entries = [entry for page in pages for entry in page.entries.values() if entry.block is None]
    for visit in await _now(reading, [appointment.stream(entry.id) for entry in entries]):
        if access.makes_own(visit, provider_id):
            seen = await reading.get(APPOINTMENT, visit.id)
            return access.makes_own(seen, provider_id)
    return False


async def _now(reading: Reading, streams: Sequence[str]) -> list[Any]:
    """States as the log has them now, without a guard."""
    if not streams:
        return []
    known = {stream: reading.desk.cache.get(reading.organization, stream) or NOTHING for stream in streams}
    found = await reading.desk.catch_up(reading.organization, known)
    return [state for _, state in found.values() if state is not None]
