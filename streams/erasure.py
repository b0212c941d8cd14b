"""When a person is erased, call off what was booked in that very moment, close their account and destroy their keys;
and destroy the key of strangers whose month is over for good, and of whoever registered and never came back.

In: erasures in the log, from the mark on up to which all are carried out. Out: keys that are no more. The event comes
first and this follows, on start for what a crash left and at once for what is new; doing it twice changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from datetime import date
from typing import Final, Protocol
from uuid import UUID

from commands.accounts import CloseAccountOf
from commands.appointments import CancelAppointment
from commands.loop import NOTHING, Busy, Desk
from domain import account, holder
from domain.access import Actor, Role
from domain.account import Account, RegistrationLapsed
from domain.appointment import CancellationReason, Override, TooLateToCancel
from domain.availability import page_stream
from domain.denial import strangers
from domain.holder import HolderNamed
from domain.patient import PersonErased
from domain.ports import EventLog, LogError, Recorded
from domain.refusals import Refusal
from domain.retention import StrangersForgotten
from domain.slots import OverrideReason
from streams.while_open import WhileOpen

ERASER = Actor("eraser", Role.SYSTEM)

_WHATEVER_THE_HOUR: Final = Override(rules=(TooLateToCancel.code,), reason=OverrideReason.PATIENT_REQUEST)

# What has keys destroyed.
FORGETTING: Final = (PersonErased.NAME, StrangersForgotten.NAME, RegistrationLapsed.NAME)
# So many positions are looked through at once.
BITE = 20_000
_PAUSE = 0.5
_PATIENCE = 30.0
_log = logging.getLogger("daybook.erasure")


class Log(Protocol):
    async def head(self) -> int: ...

    async def wait(self, after: int, timeout: float) -> int: ...

    async def named(self, names: Sequence[str], after: int, upto: int) -> Sequence[Recorded]: ...


class Keys(Protocol):
    async def names(self, organization: str, prefix: str) -> Sequence[str]: ...

    async def forget(self, organization: str, person: str) -> None: ...


class Mark(Protocol):
    async def read(self) -> int: ...

    async def write(self, position: int) -> None: ...


class Eraser(WhileOpen):
    """Carries erasures out while it is open. Several may run; each does what the others left."""

    title = "eraser"

    def __init__(self, desk: Desk, log: Log, keys: Keys, mark: Mark) -> None:
        self._desk = desk
        self._log = log
        self.keys = keys
        self._mark = mark

    async def sweep(self, after: int = 0) -> int:
        """Carry out whatever stands in the log by now; return how far that is. Up to `after` all is known to be done.

        Raises `LogUnavailable`, and `Busy` where an account can't be closed just now; what is done is done."""
        marked, head = await self._mark.read(), await self._log.head()
        position = max(marked, after)
        while position < head:
            upto = min(position + BITE, head)
            erased = await self._log.named(FORGETTING, position, upto)
            for recorded in erased:
                match recorded.event:
                    case PersonErased(patient_id=patient_id):
                        await self._erase(recorded.organization, patient_id, recorded)
                    case StrangersForgotten(month=month):
                        await self.keys.forget(recorded.organization, strangers(month))
                    case RegistrationLapsed(account_id=account_id):
                        await self.keys.forget(recorded.organization, str(account_id))
            # A mark at each commit of a busy log costs too much, and none for long costs whoever starts.
            if erased or upto - marked >= BITE:
                await self._mark.write(upto)
                marked = upto
            position = upto
        return position

    async def _erase(self, organization: str, patient_id: UUID, cause: Recorded) -> None:
        await self._call_off(organization, patient_id, cause)
        await self._desk.handle(
            CloseAccountOf(person_id=patient_id),
            ERASER,
            organization,
            correlation_id=cause.correlation_id,
            causation_id=cause.event_id,
        )
        for account_id in await accounts_of(self._desk.log, organization, patient_id):
            await self.keys.forget(organization, str(account_id))
        await self.keys.forget(organization, str(patient_id))

    async def _call_off(self, organization: str, patient_id: UUID, cause: Recorded) -> None:
        """An erasure is refused while visits are to come; this is for one that was booked between that look and the
        event. No other can follow."""
        today = self._desk.clock.now().date()
        names = await self._desk.log.streams(
            organization, page_stream(patient_id, today), page_stream(patient_id, date.max)
        )
        pages = await self._desk.catch_up(organization, dict.fromkeys(names, NOTHING))
        booked = {key for _, page in pages.values() for key, entry in page.entries.items() if entry.block is None}
        for appointment_id in sorted(booked):
            command = CancelAppointment(
                appointment_id=appointment_id, reason=CancellationReason.PATIENT_REQUEST, override=_WHATEVER_THE_HOUR
            )
            # It may have ended or been called off in the meantime.
            with suppress(Refusal):
                await self._desk.handle(
                    command,
                    ERASER,
                    organization,
                    correlation_id=cause.correlation_id,
                    causation_id=cause.event_id,
                )

    async def _run(self) -> None:
        position = 0
        while True:
            try:
                position = await self.sweep(position)
                await self._log.wait(position, _PATIENCE)
            except (LogError, Busy, OSError) as error:
                _log.warning("erasures are carried out later (%s)", type(error).__name__)
            except Exception as error:  # a fault of ours; the event stands, so it is tried again, and in the open
                _log.error("an erasure can't be carried out (%s)", type(error).__name__)
            await asyncio.sleep(_PAUSE)


async def accounts_of(log: EventLog, organization: str, patient_id: UUID) -> Sequence[UUID]:
    """Every account that ever acted as the person, but for one that has become somebody else's."""
    stream = holder.stream(patient_id)
    told = (await log.load(organization, {stream: 0}))[stream]
    named = {account.stream(one.event.account_id): 0 for one in told if isinstance(one.event, HolderNamed)}
    found = []
    for events in (await log.load(organization, named)).values():
        state: Account | None = None
        for recorded in events:
            state = account.evolve(state, recorded.event)
        # One that was given another role, or another person, holds what is a colleague's or somebody else's by now.
        if state is not None and state.person == patient_id:
            found.append(state.id)
    return found
