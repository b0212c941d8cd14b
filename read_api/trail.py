"""Reading personal data is an event too: who looked, at whose, on which screen, why.

In: what an answer shows, and of whom. Out: a save that is under way while the answer is being made. The answer waits
for it (`asking.Answer`): what can't be recorded is not shown (45 CFR 164.312(b)).
"""

from __future__ import annotations

import hashlib
import hmac
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from starlette.types import Scope

from domain.access import Actor, Standing
from domain.look import LISTS, RecordSeen, Screen, stream
from domain.ports import Clock, Context, EventLog, Ids, NewEvent, Save
from domain.purpose import Purpose
from infra.http.origins import Origins

# How long a patient who was shown in a list is not written down again for the same asker, list and purpose.
COALESCED: Final = timedelta(minutes=1)
_REMEMBERED: Final = 100_000

_Key = tuple[str, str, UUID | None, Screen, UUID, Purpose]


@dataclass(frozen=True, slots=True)
class Look:
    """One answer's look: at whom, and at what of theirs."""

    organization: str
    actor: Actor
    purpose: Purpose
    correlation_id: UUID
    screen: Screen
    patients: tuple[UUID, ...]
    resource_id: UUID | None
    standing: Standing


class Trail:
    """Writes looks. `secret` makes the names under which patients are told of those who looked."""

    def __init__(self, log: EventLog, clock: Clock, ids: Ids, origins: Origins, secret: bytes) -> None:
        self._log = log
        self._clock = clock
        self._origins = origins
        self._names = hmac.digest(secret, b"daybook lookers v1", hashlib.sha256)
        self._listed: OrderedDict[_Key, datetime] = OrderedDict()
        self.ids = ids

    async def write(self, scope: Scope, look: Look) -> None:
        """Returns when the look is in the log. Raises `LogUnavailable`."""
        patients = self._to_tell(look)
        if not patients:
            return
        origin = await self._origins.of(scope, look.organization, look.actor)
        new, now = self.ids.new, self._clock.now()
        # A list is one save, and each of its patients one event.
        behalf = look.standing.on_behalf_of
        context = Context(
            look.organization,
            look.actor.id,
            new(),
            look.correlation_id,
            causation_id=origin,
            on_behalf_of=None if behalf is None else str(behalf),
            purpose=look.purpose.value,
        )
        events = []
        for patient_id in patients:
            look_id = new()
            seen = RecordSeen(
                patient_id=patient_id,
                screen=look.screen,
                role=look.actor.role,
                client_id=look.actor.client_id,
                resource_id=look.resource_id,
                behind_glass=look.standing.behind_glass,
            )
            events.append(NewEvent(stream(patient_id, look_id), seen, now, look_id))
        await self._log.append(Save(context, {event.stream: 0 for event in events}, events))
        # Only now: what was not written must be tried again.
        if look.screen in LISTS:
            self._note(look, patients, now)

    def alias(self, organization: str, patient_id: UUID, actor: str) -> str:
        """Under which name a patient is told of an actor: always the same to this patient, and to no other."""
        said = "\0".join((organization, str(patient_id), actor)).encode()
        return hmac.digest(self._names, said, hashlib.sha256)[:8].hex()

    def _to_tell(self, look: Look) -> list[UUID]:
        patients = list(dict.fromkeys(look.patients))
        if look.screen not in LISTS:
            return patients
        now = self._clock.now()
        return [one for one in patients if not self._told_lately(_key(look, one), now)]

    def _told_lately(self, key: _Key, now: datetime) -> bool:
        told = self._listed.get(key)
        return told is not None and now - told < COALESCED

    def _note(self, look: Look, patients: Iterable[UUID], now: datetime) -> None:
        for patient_id in patients:
            key = _key(look, patient_id)
            self._listed[key] = now
            self._listed.move_to_end(key)
        while len(self._listed) > _REMEMBERED:
            self._listed.popitem(last=False)


def _key(look: Look, patient_id: UUID) -> _Key:
    return (look.organization, look.actor.id, look.actor.session_id, look.screen, patient_id, look.purpose)
