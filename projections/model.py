"""What every read model has in common: a position, generations, and events that it can't take.

In: batches of recorded events. Out: rows in a store, with the position that they stand for. A model has one filler at a
time; whoever asks may be another process.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
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
    """One read model, filled from one part of the log or the whole of it.

    `batch` is how many events are best applied at once, `linger` how many seconds a filler may wait for more after it
    has applied some.
    """

    name: ClassVar[str]
    batch: ClassVar[int] = 2000
    linger: ClassVar[float] = 0.0

    def __init__(self) -> None:
        self._reached: int | None = None
        self._moved: asyncio.Event | None = None

    async def apply(self, batch: Sequence[Recorded]) -> int:
        """Apply what is not applied yet; return how many events that was.

        Events of one stream come in order; a repeat changes nothing. Raises `Poison`, `OutOfStep`, and what the store
        raises; in each case the same batch may be applied again.
        """
        if self._reached is None:
            self._reached = await self.position()
        at = self._reached
        fresh = [recorded for recorded in batch if recorded.position > at]
        if not fresh:
            return 0
        try:
            await self._apply(fresh, at)
        except Poison as poison:
            self._note(max(at, poison.position - 1))
            raise
        except BaseException:
            # Whether the store took it is not known, so nothing remembered of it counts.
            self.forget()
            raise
        self._note(fresh[-1].position)
        return len(fresh)

    def _note(self, position: int) -> None:
        self._reached = position
        if self._moved is not None:
            self._moved.set()
            self._moved = None

    def forget(self) -> None:
        """Ask the store anew before the next batch."""
        self._reached = None

    async def wait_until(self, position: int, timeout: float) -> bool:
        """Whether the model has got as far as `position` before `timeout` seconds are over."""
        end = time.monotonic() + timeout
        while True:
            if self._reached is not None and self._reached >= position:
                return True
            if self._reached is None and await self.position() >= position:
                return True
            left = end - time.monotonic()
            if left <= 0:
                return False
            if self._moved is None:
                self._moved = asyncio.Event()
            patience = left if self._reached is not None else min(left, _LOOK_EVERY)
            try:
                await asyncio.wait_for(self._moved.wait(), patience)
            except TimeoutError:
                continue

    @abstractmethod
    async def position(self) -> int:
        """The position that the live rows stand for; 0 for none. Asks the store."""

    @abstractmethod
    async def _apply(self, fresh: Sequence[Recorded], at: int) -> None:
        """Write what the events change, and the last one's position, at once or in an order that a crash can't hurt."""

    @abstractmethod
    async def next_generation(self) -> Self:
        """An empty model of the same kind beside this one, which goes on serving. Leftovers of earlier attempts go."""

    @abstractmethod
    async def take_over(self, filled: Self) -> None:
        """Serve from the rows of `filled`, made by `next_generation`, from one moment to the next."""

    @abstractmethod
    async def clean(self) -> None:
        """Remove every generation but the live one."""
