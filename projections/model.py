"""What every read model has in common: a position, generations, and events that it can't take.

In: batches of recorded events. Out: rows in a store, with the position that they stand for. A model has one filler at a
time; whoever asks may be another process.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Self

from domain.ports import Recorded

# How often a process that does not fill the model looks whether it has come far enough.
_LOOK_EVERY = 0.02


class OutOfStep(Exception):
    """The store stands at another position than its filler thought: another filled it, or it was emptied. Nothing was
    written; going on from `position` is right."""

    def __init__(self, position: int) -> None:
        super().__init__(f"the store stands at position {position}")
        self.position = position


class Poison(Exception):
    """An event that the model can't take. All before it is applied. Says no word of what the event holds."""

    def __init__(self, position: int, name: str, error: Exception) -> None:
        super().__init__(f"position {position}, {name}: {type(error).__name__}")
        self.position = position
        self.name = name
        self.error = type(error).__name__


class Model(ABC):
    """One read model, filled from the log.

    `batch` is how many events are best applied at once, `linger` how many seconds a filler may wait for more after it
    has applied some, and `pulse` how often it asks the store, when nothing happens, whether all is still there.
    """

    name: ClassVar[str]
    batch: ClassVar[int] = 500
    linger: ClassVar[float] = 0.0
    pulse: ClassVar[float] = 1.0

    def __init__(self) -> None:
        # By part, as this process left the store; None when that is not known.
        self._at: dict[str, int] | None = None
        self._moved: asyncio.Event | None = None

    async def apply(self, batch: Sequence[Recorded], part: str = "") -> int:
        """Apply what is not applied yet; return how many events that was.

        `part` names one of the parts in which the log arrives; "" is the whole log, in order. Within a part positions
        rise, and a stream belongs to one part. A repeat changes nothing. Raises `Poison`, `OutOfStep`, and what the
        store raises; in each case the same batch may be applied again.
        """
        if self._at is None:
            self._at = dict(await self.positions())
        at = self._at.get(part, 0)
        fresh = [recorded for recorded in batch if recorded.position > at]
        if not fresh:
            return 0
        try:
            await self._apply(fresh, part, at)
        except Poison as poison:
            before = [recorded.position for recorded in fresh if recorded.position < poison.position]
            self._note(part, before[-1] if before else at)
            raise
        except BaseException:
            # Whether the store took it is not known, so nothing remembered of it counts.
            self.forget()
            raise
        self._note(part, fresh[-1].position)
        return len(fresh)

    def _note(self, part: str, position: int) -> None:
        self._at = {**(self._at or {}), part: position}
        if self._moved is not None:
            self._moved.set()
            self._moved = None

    def forget(self) -> None:
        """Ask the store anew before the next batch."""
        self._at = None

    async def position(self) -> int:
        """The position up to which the live rows hold everything; 0 for none. Asks the store."""
        return min((await self.positions()).values(), default=0)

    async def wait_until(self, position: int, timeout: float) -> bool:
        """Whether the model has got as far as `position` before `timeout` seconds are over."""
        end = time.monotonic() + timeout
        while True:
            # Only who fills the whole of it knows without asking.
            mine = self._at is not None and self._at.keys() == {""}
            reached = self._at[""] if self._at is not None and mine else await self.position()
            if reached >= position:
                return True
            left = end - time.monotonic()
            if left <= 0:
                return False
            if self._moved is None:
                self._moved = asyncio.Event()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._moved.wait(), left if mine else min(left, _LOOK_EVERY))

    @abstractmethod
    async def positions(self) -> Mapping[str, int]:
        """How far each part has come, as the store knows it; empty when nothing is kept, or no longer."""

    @abstractmethod
    async def _apply(self, fresh: Sequence[Recorded], part: str, at: int) -> None:
        """Write what the events change, and the last one's position, at once or in an order that a crash can't hurt.
        The part stands at `at`."""

    @abstractmethod
    async def next_generation(self) -> Self:
        """An empty model of the same kind beside this one, which goes on serving. Leftovers of earlier attempts go."""

    @abstractmethod
    async def take_over(self, filled: Self) -> None:
        """Serve from the rows of `filled`, made by `next_generation`, from one moment to the next."""

    @abstractmethod
    async def clean(self) -> None:
        """Remove every generation but the live one."""
