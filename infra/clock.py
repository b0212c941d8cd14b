"""The database's clock, followed by a measured offset.

In: readings of the database's time, each with the moments before and after the question. Out: the present instant.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime

# How far two crystals may drift apart: ten times what an ordinary one does.
_DRIFT = 1e-4


class DatabaseClock:
    """Implements `domain.ports.Clock`. Until the first reading it is this machine's own clock."""

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()
        self._doubt = float("inf")
        self._measured = time.monotonic()

    def now(self) -> datetime:
        return datetime.fromtimestamp(time.monotonic() + self._offset, UTC)

    def observe(self, reading: datetime, before: float, after: float) -> None:
        """Take in the database's time, read between two moments of `time.monotonic()`.

        A reading counts when it is sharper than what is known by now, or contradicts it (a clock that was set)."""
        doubt = (after - before) / 2
        offset = reading.timestamp() - (before + after) / 2
        aged = self._doubt + _DRIFT * (after - self._measured)
        if doubt <= aged or abs(offset - self._offset) > doubt + aged:
            self._offset, self._doubt, self._measured = offset, doubt, after

    @property
    def doubt(self) -> float:
        """Half the width, in seconds, of the interval in which the true offset lies; infinite before a reading."""
        return self._doubt + _DRIFT * (time.monotonic() - self._measured)
