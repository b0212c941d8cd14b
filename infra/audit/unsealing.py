"""Opening the log's seals by hand leaves a look, before a word is shown.

In: the events that are to be opened, and who opens them and why. Out: a record of it in the log, in each organization
that the events are of, and a look at each patient among them, also where the words are those of their account. What
proves who somebody is (`Event.CREDENTIALS`) is opened for nobody.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from domain import account
from domain.access import Role
from domain.account import AccountRegistered, RoleChanged
from domain.events import ERASED, Event
from domain.look import LogUnsealed, RecordSeen, Screen, stream, unsealing_stream
from domain.ports import Clock, Context, EventLog, Ids, NewEvent, Recorded, Save
from domain.purpose import Purpose

_LOOKS_A_SAVE: Final = 500
_ACCOUNTS_A_LOAD: Final = 500


@dataclass(frozen=True, slots=True)
class Opener:
    """Who opens the seals: an opaque id, as of any actor, and why."""

    actor: str
    purpose: Purpose


def words_in(event: Event) -> frozenset[str]:
    """The fields whose sealed words may be shown to whoever answers for it."""
    return frozenset(event.SEALED_FIELDS) - event.CREDENTIALS


def is_sealed(event: Event) -> bool:
    """Whether the event holds personal words that are readable, and may be shown."""
    return any(getattr(event, name) not in (None, ERASED) for name in words_in(event))


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
    persons = {_person(one.event) for one in opened}
    patients = await _patients(log, organization, opened)
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


def _person(event: Event) -> str:
    """Whose key seals the event's words: a patient's, an account's, an actor's, or strangers'."""
    return str(getattr(event, event.PERSON or ""))


async def _patients(log: EventLog, organization: str, opened: Sequence[Recorded]) -> Sequence[UUID]:
    """The patients whom the words are about, or whose account they are about."""
    found = {key for one in opened if isinstance(key := getattr(one.event, "patient_id", None), UUID)}
    names: dict[str, list[Recorded]] = {}
    for one in opened:
        with suppress(ValueError):
            names.setdefault(account.stream(UUID(_person(one.event))), []).append(one)
    some = list(names)
    for start in range(0, len(some), _ACCOUNTS_A_LOAD):
        told = await log.load(organization, dict.fromkeys(some[start : start + _ACCOUNTS_A_LOAD], 0))
        for name, events in told.items():
            found |= {key for one in names[name] if (key := _holder(events, one.position)) is not None}
    return sorted(found)


def _holder(events: Sequence[Recorded], position: int) -> UUID | None:
    """Which patient held the account at that position. What comes before it has a holder is its first one's: an origin
    is written before what it was asked for."""
    holder: UUID | None = None
    for number, recorded in enumerate(events):
        if number and recorded.position > position:
            break
        if isinstance(recorded.event, AccountRegistered | RoleChanged):
            holder = recorded.event.patient_id
    return holder


def _looks(patients: Iterable[UUID], screen: Screen, unsealing_id: UUID, ids: Ids, clock: Clock) -> list[NewEvent]:
    looks = []
    for patient_id in patients:
        look_id = ids.new()
        # Whoever holds the installation's keys is one of its administrators, whatever they are elsewhere.
        seen = RecordSeen(patient_id=patient_id, screen=screen, role=Role.ADMIN, resource_id=unsealing_id)
        looks.append(NewEvent(stream(patient_id, look_id), seen, clock.now(), look_id))
    return looks
