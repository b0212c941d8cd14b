"""The report of suspicious patterns, asked of the log itself.

In: a period. Out: findings (`domain/suspicion.py`), on the events of the period, of the weeks before it, and on the
visits and deeds that give a reason to look.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID
from zoneinfo import ZoneInfo

from domain.appointment import AppointmentBooked, AppointmentHeld, AppointmentRequested, AppointmentRescheduled
from domain.events import EVENTS
from domain.inquiry import Inquiries, Inquiry
from domain.look import RecordSeen
from domain.ports import Recorded
from domain.suspicion import BASELINE, LOOKED, NEAR, Finding, Ground, findings

# A visit may have been booked so long before it took place.
_BOOKED_AHEAD: Final = timedelta(days=400)
_ARRANGED: Final = (AppointmentHeld, AppointmentRequested, AppointmentBooked, AppointmentRescheduled)


async def suspicious(
    inquiries: Inquiries, organization: str, first: datetime, last: datetime, place: ZoneInfo
) -> list[Finding]:
    """Raises `LogUnavailable`, `InquiryTooLong`, `UnreadableEvent`."""
    names = LOOKED & EVENTS.keys()
    asked = Inquiry(organization=organization, names=names, first=first - BASELINE, last=last)
    told = [recorded async for recorded in inquiries.answered(asked)]
    ground = await _ground(inquiries, organization, told, last)
    # Months of looks are counted through several times: others go on meanwhile.
    return await asyncio.to_thread(findings, told, ground, first, last, place)


async def _ground(inquiries: Inquiries, organization: str, told: Sequence[Recorded], last: datetime) -> Ground:
    """Visits of the patients who were looked at, and what was done for them."""
    looked = {recorded.event.patient_id for recorded in told if isinstance(recorded.event, RecordSeen)}
    visits: dict[UUID, list[datetime]] = defaultdict(list)
    deeds: dict[tuple[str, UUID], list[datetime]] = defaultdict(list)
    if looked:
        earliest = min(recorded.occurred_at for recorded in told)
        async for recorded in _about_patients(inquiries, organization, earliest - NEAR - _BOOKED_AHEAD, last):
            patient_id = getattr(recorded.event, "patient_id", None)
            if patient_id not in looked:
                continue
            deeds[recorded.actor, patient_id].append(recorded.occurred_at)
            if isinstance(recorded.event, _ARRANGED):
                visits[patient_id].append(recorded.event.period.start)
    return Ground(visits, deeds)


async def _about_patients(
    inquiries: Inquiries, organization: str, first: datetime, last: datetime
) -> AsyncIterator[Recorded]:
    """Whatever names a patient, but looks: a look is no reason for another. Nor is a broken glass."""
    names = {name for name, kind in EVENTS.items() if "patient_id" in kind.model_fields}
    wanted = frozenset(names - {RecordSeen.NAME, "GlassBroken.v1"})
    async for recorded in inquiries.answered(Inquiry(organization=organization, names=wanted, first=first, last=last)):
        yield recorded
