"""What every read model has in common: a position, generations, and events that it can't take.

In: batches of recorded events. Out: rows in a store, with the position that they stand for. Each part of the log has
one filler at a time; whoever asks may be another process.

The log arrives whole and in order from a follower, which is the part ""; or, through a partitioned topic, in `n` parts
named "0/n" to "n-1/n", each in order and none knowing how far the others are.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, NamedTuple, Self

from domain.ports import Recorded


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


class MissingEvents(Exception):
    """An event came before the one that stands before it in its stream."""


class Portion(NamedTuple):
    """What arrived of one part: `events` by position, and `upto`, the position up to which nothing of it is missing."""

    events: Sequence[Recorded]
    upto: int


def standing(positions: Mapping[str, int]) -> int:
    """The position up to which parts that stand so hold the whole log. A part that was not heard of stands at 0."""
    whole: list[int] = [positions.get("", 0)]
    by_count: dict[str, list[int]] = {}
    for part, position in positions.items():
        if part:
            by_count.setdefault(part.partition("/")[2], []).append(position)
    whole += [min(found) for count, found in by_count.items() if len(found) == int(count)]
    return max(whole)


def follows(known: int, recorded: Recorded) -> bool:
    """Whether an event is the next of its stream, of which `known` events are applied; False for one of those. Raises
    `MissingEvents`."""
    if recorded.version > known + 1:
        raise MissingEvents
    return recorded.version > known


class Model(ABC):
    """One read model, filled from the log.

    `batch` is how many events are best applied at once, `linger` how many seconds a filler may wait for more after it
    has applied some, and `pulse` how often it asks the store, when nothing happens, whether all is still there. A
    process that does not fill it asks every `look_every` seconds while somebody waits for a position.
    """

    name: ClassVar[str]
    batch: ClassVar[int] = 500
    linger: float = 0.0
    pulse: ClassVar[float] = 1.0
    look_every: ClassVar[float] = 0.02

    def __init__(self) -> None:
        # Hears of what was applied: the events that were new, and in how many seconds. It does not wait.
        self.applied: Callable[[Sequence[Recorded], float], None] | None = None
        # By part, as this process left the store; None when that is not known.
        self._at: dict[str, int] | None = None
        self._moved: asyncio.Event | None = None
        self._looking: asyncio.Future[int] | None = None
        self._looked = 0.0

    async def apply(self, batch: Sequence[Recorded], part: str = "", upto: int | None = None) -> int:
        """Apply what is not applied yet; return how many events that was.

        `part` names one of the parts in which the log arrives; "" is the whole log. Within a part positions rise, and a
        stream belongs to one part. `upto` says that the part has nothing more up to there, though the batch may end
        earlier or be empty. A repeat changes nothing. Raises `Poison`, `OutOfStep`, and what the store raises; in each
        case the same batch may be applied again, after `Poison` without the event that it names.
        """
        at = await self._reached(part)
        fresh = [recorded for recorded in batch if recorded.position > at]
        upto = max(upto or 0, fresh[-1].position if fresh else 0)
        if upto <= at:
            return 0
        began = time.monotonic()
        try:
            await self._apply(fresh, part, self._kept(part), upto)
        except Poison as poison:
            before = [recorded.position for recorded in fresh if recorded.position < poison.position]
            if before:
                self._note(part, before[-1])
            if poison.error == MissingEvents.__name__:
                await self._surely_missing(part)
            raise
        except BaseException:
            # Whether the store took it is not known, so nothing remembered of it counts.
            self.forget()
            raise
        self._note(part, upto)
        self._tell(fresh, began)
        return len(fresh)

    def _tell(self, events: Sequence[Recorded], began: float) -> None:
        """`began` is by the monotonic clock."""
        if self.applied is not None and events:
            self.applied(events, time.monotonic() - began)

    async def apply_parts(self, portions: Mapping[str, Portion]) -> int:
        """`apply` for several parts, by name, for which a store may have a cheaper way together.

        Raises as `apply` does, with some of the parts applied; all may be applied again."""
        return sum([await self.apply(events, part, upto) for part, (events, upto) in portions.items()])

    async def mend(self, stream: Sequence[Recorded], part: str = "") -> int:
        """Apply a stream from its first event on although its part has passed it, since some of it was left out; return
        how many events that was. Events that the part has not come to yet are left to come. Raises as `apply` does."""
        at = await self._reached(part)
        events = [recorded for recorded in stream if recorded.position <= at]
        if events:
            kept = self._kept(part)
            try:
                await self._apply(events, part, kept, kept)
            except BaseException:
                self.forget()
                raise
        return len(events)

    async def _reached(self, part: str) -> int:
        if self._at is None:
            self._at = dict(await self.positions())
        return max(standing(self._at), self._kept(part))

    async def _surely_missing(self, part: str) -> None:
        """Raises `OutOfStep` where the rows remembered here were moved on by another filler, so that nothing misses."""
        found = await self.positions()
        for name in (part, ""):
            if found.get(name, 0) != self._kept(name):
                self.forget()
                raise OutOfStep(found.get(name, 0))

    def _kept(self, part: str) -> int:
        """What the store has written beside a part's name."""
        return self._at.get(part, 0) if self._at is not None else 0

    def _note(self, part: str, position: int) -> None:
        self._at = {**(self._at or {}), part: position}
        self._looking = None
        if self._moved is not None:
            self._moved.set()
            self._moved = None

    def forget(self) -> None:
        """Ask the store anew before the next batch."""
        self._at = None

    async def position(self) -> int:
        """The position up to which the live rows hold everything; 0 for none. Asks the store."""
        return standing(await self.positions())

    async def wait_until(self, position: int, timeout: float) -> bool:
        """Whether the model has got as far as `position` before `timeout` seconds are over."""
        end = time.monotonic() + timeout
        while True:
            # Only who fills the whole of it knows without asking.
            mine = self._at is not None and self._at.keys() == {""}
            reached = self._at[""] if self._at is not None and mine else await self._glance()
            if reached >= position:
                return True
            left = end - time.monotonic()
            if left <= 0:
                return False
            if self._moved is None:
                self._moved = asyncio.Event()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._moved.wait(), left if mine else min(left, self.look_every))

    async def _glance(self) -> int:
        """The position, asked of the store once for all who wait here, and not again before `look_every` is over."""
        looking = self._looking
        if looking is None or (looking.done() and time.monotonic() - self._looked >= self.look_every):
            self._looked = time.monotonic()
            looking = self._looking = asyncio.ensure_future(self.position())
            # Whoever waits hears of an error; when nobody waits any more, nobody needs to.
            looking.add_done_callback(lambda task: task.cancelled() or task.exception())
        return await asyncio.shield(looking)

    @abstractmethod
    async def positions(self) -> Mapping[str, int]:
        """How far each part has come, as the store knows it; empty when nothing is kept, or no longer. The whole log
        ("") counts for every part."""

    @abstractmethod
    async def _apply(self, fresh: Sequence[Recorded], part: str, at: int, upto: int) -> None:
        """Write what the events change, and that the part stands at `upto` now, where the store says `at`: at once, or
        in an order that a crash can't hurt. When `upto` is `at`, only the rows change."""

    @abstractmethod
    async def next_generation(self) -> Self:
        """An empty model of the same kind beside this one, which goes on serving. Leftovers of earlier attempts go."""

    @abstractmethod
    async def take_over(self, filled: Self) -> None:
        """Serve from the rows of `filled`, made by `next_generation`, from one moment to the next."""

    @abstractmethod
    async def clean(self) -> None:
        """Remove every generation but the live one."""
