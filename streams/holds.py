"""When a hold has ended by the clock, let the log say so.

Nothing depends on it: the time has been free since the hold ended. It is written down so that whoever listens to the
log hears of it (the waitlist, for one), and so that the pages get rid of it.
"""

from __future__ import annotations

import asyncio
import logging
from uuid import UUID, uuid5

from commands.appointments import LapseHold
from commands.loop import Busy, Desk
from domain.access import Actor, Role
from domain.ports import LogError
from domain.refusals import Refusal
from projections.diary import AppointmentDiary
from streams.while_open import WhileOpen

SWEEPER = Actor("hold-sweeper", Role.SYSTEM)

_EVERY = 10.0
_COMMANDS = UUID("5b9cf2a1-6c4e-5d17-8f4c-2b0f4f2a9e70")
_log = logging.getLogger("daybook.holds")


class HoldSweeper(WhileOpen):
    """Looks for ended holds while it is open. Several may run; each hold lapses once."""

    title = "hold sweeper"

    def __init__(self, desk: Desk, diary: AppointmentDiary, *, every: float = _EVERY) -> None:
        """`every` is how many seconds lie between two looks."""
        self._desk = desk
        self._diary = diary
        self._every = every

    async def sweep(self) -> int:
        """Let every hold lapse that has ended by now; return how many the log had not heard of."""
        count = 0
        for organization, appointment_id in await self._diary.ended_holds(self._desk.clock.now()):
            count += await self._lapse(organization, appointment_id)
        return count

    async def _lapse(self, organization: str, appointment_id: UUID) -> bool:
        command = LapseHold(appointment_id=appointment_id)
        try:
            await self._desk.handle(
                command, SWEEPER, organization, command_id=uuid5(_COMMANDS, f"{organization}/{appointment_id}")
            )
        except Refusal:
            # It was booked or given back in the meantime, or another sweeper was faster.
            return False
        return True

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._every)
            try:
                await self.sweep()
            except (LogError, Busy, OSError) as error:
                _log.warning("ended holds are looked for again later (%s)", type(error).__name__)
            except Exception as error:  # the read store is away; its client has its own errors
                _log.warning("ended holds can't be looked for (%s)", type(error).__name__)
