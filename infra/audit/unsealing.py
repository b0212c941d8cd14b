"""Opening the log's seals by hand leaves a look, before a word is shown.

In: the events that are to be opened, and who opens them and why. Out: a record of it in the log, in each organization
that the events are of, and a look at each patient among them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from domain.access import Role
from domain.events import ERASED, Event
from domain.look import LogUnsealed, RecordSeen, Screen, stream, unsealing_stream
from domain.ports import Clock, Context, EventLog, Ids, NewEvent, Recorded, Save
from domain.purpose import Purpose

_LOOKS_A_SAVE: Final = 500


@dataclass(frozen=True, slots=True)
class Opener:
    """Who opens the seals: an opaque id, as of any actor, and why."""

    actor: str
    purpose: Purpose


def is_sealed(event: Event) -> bool:
    """Whether the event holds personal words that are readable."""
    return any(getattr(event, name) not in (None, ERASED) for name in event.SEALED_FIELDS)


async def record(
    log: EventLog, clock: Clock, ids: Ids, opener: Opener, screen: Screen, opened: Sequence[Recorded]
) -> None:
    """Raises `LogUnavailable`; then nothing may be shown."""
    for organization in sorted({recorded.organization for recorded in opened}):
        mine = [one for one in opened if one.organization == organization and is_sealed(one.event)]
        if mine:
            await _record(log, clock, ids, opener, screen, organization, mine)


async def _record(
    log: EventLog,
    clock: Clock,
    ids: Ids,
    opener: Opener,
    screen: Screen,
    organization: str,
    opened: Sequence[Recorded],
) -> None:
    persons = {str(getattr(one.event, one.event.PERSON or "")) for one in opened}
    patients = sorted({key for one in opened if isinstance(key := getattr(one.event, "patient_id", None), UUID)})
    unsealing_id = ids.new()
    unsealed = LogUnsealed(
        unsealing_id=unsealing_id,
        screen=screen,
        events=len(opened),
        persons=len(persons),
        first=min(one.position for one in opened),
        last=max(one.position for one in opened),
    )
    context = Context(organization, opener.actor, unsealing_id, unsealing_id, purpose=opener.purpose.value)
    now = clock.now()
    events = [NewEvent(unsealing_stream(unsealing_id), unsealed, now, ids.new())]
    events += _looks(patients, screen, unsealing_id, ids, clock)
    for start in range(0, len(events), _LOOKS_A_SAVE):
        some = events[start : start + _LOOKS_A_SAVE]
        await log.append(Save(context, {one.stream: 0 for one in some}, some))


def _looks(patients: Iterable[UUID], screen: Screen, unsealing_id: UUID, ids: Ids, clock: Clock) -> list[NewEvent]:
    looks = []
    for patient_id in patients:
        look_id = ids.new()
        # Whoever holds the installation's keys is one of its administrators, whatever they are elsewhere.
        seen = RecordSeen(patient_id=patient_id, screen=screen, role=Role.ADMIN, resource_id=unsealing_id)
        looks.append(NewEvent(stream(patient_id, look_id), seen, clock.now(), look_id))
    return looks
