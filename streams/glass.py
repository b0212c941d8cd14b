"""When somebody breaks the glass, tell the privacy officer.

In: broken glasses in the log, from the mark on up to which all are told of. Out: letters. A letter that did not leave
is written again later; after a crash one may come twice, and none is left out.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from datetime import UTC
from typing import Final, Protocol

from domain.glass import GlassBroken
from domain.ports import LogError, Mailer, MailLost, Recorded
from streams.while_open import WhileOpen

_BITE: Final = 20_000
_PAUSE: Final = 0.5
_PATIENCE: Final = 30.0

_log = logging.getLogger("daybook.glass")


class Log(Protocol):
    async def head(self) -> int: ...

    async def wait(self, after: int, timeout: float) -> int: ...

    async def named(self, names: Sequence[str], after: int, upto: int) -> Sequence[Recorded]: ...


class Mark(Protocol):
    async def read(self) -> int: ...

    async def write(self, position: int) -> None: ...


def letter_about(recorded: Recorded, event: GlassBroken) -> tuple[str, str]:
    """Subject and text. Ids and codes alone: a letter lies in the open, and the words are read in the book."""
    reason = event.reason.replace("_", " ")
    at = recorded.occurred_at.astimezone(UTC)
    text = (
        f"Somebody reached a patient who is not theirs, for a stated reason.\n\n"
        f"Who      {recorded.actor}\n"
        f"Patient  {event.patient_id}\n"
        f"Reason   {reason}\n"
        f"When     {at:%d %B %Y, %H:%M} UTC, until {event.until.astimezone(UTC):%H:%M}\n\n"
        f"What they wrote, and what they then looked at, is in the book: GET /read/glass and\n"
        f"GET /read/patients/{event.patient_id}/looks.\n"
    )
    return f"The glass was broken ({reason})", text


class GlassNotices(WhileOpen):
    """Tells of broken glasses while it is open."""

    title = "glass notices"

    def __init__(self, log: Log, mark: Mark, mailer: Mailer, officer: str) -> None:
        self._log = log
        self._mark = mark
        self._mailer = mailer
        self._officer = officer

    async def sweep(self) -> int:
        """Tell of every glass that was broken by now; return how far that is. Raises `LogUnavailable` and `MailLost`;
        who was told of is not told of again."""
        position, head = await self._mark.read(), await self._log.head()
        while position < head:
            upto = min(position + _BITE, head)
            broken = await self._log.named((GlassBroken.NAME,), position, upto)
            for recorded in broken:
                if isinstance(recorded.event, GlassBroken):
                    await self._mailer.send(self._officer, *letter_about(recorded, recorded.event))
                    await self._mark.write(recorded.position)
            if upto - position == _BITE:
                await self._mark.write(upto)
            position = upto
        return position

    async def _run(self) -> None:
        position = 0
        while True:
            try:
                position = await self.sweep()
                await self._log.wait(position, _PATIENCE)
            except (LogError, MailLost, OSError) as error:
                _log.warning("the privacy officer is told later (%s)", type(error).__name__)
                await asyncio.sleep(_PATIENCE)
            await asyncio.sleep(_PAUSE)
