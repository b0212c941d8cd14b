"""Next free times pass with the clock: what the directory shows is made anew when it is no longer good.

Nothing but the directory depends on it: whoever asks for free times, or books one, is answered from what is known then.
"""

from __future__ import annotations

import asyncio
import logging

from projections.directory import Directory
from streams.while_open import WhileOpen

_EVERY = 5.0
_log = logging.getLogger("daybook.openings")


class OpeningsRefresher(WhileOpen):
    """Looks for entries that are no longer good while it is open. Several may run; it costs work, and changes nothing
    else."""

    title = "openings refresher"

    def __init__(self, directory: Directory, *, every: float = _EVERY) -> None:
        """`every` is how many seconds lie between two looks."""
        self._directory = directory
        self._every = every

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._every)
            try:
                await self._directory.refresh()
            except Exception as error:  # a store is away; each client has its own errors
                _log.warning("next free times are looked for again later (%s)", type(error).__name__)
