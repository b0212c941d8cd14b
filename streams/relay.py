"""The relay: what stands in the log goes to a topic, each event once, in order, for consumers that read committed.

In: rows of the log as they are stored. Out: batches, each published whole or not at all, with a manifest for every part
of the topic and the relay's own position. One relay is active, others stand by. Who loses the lease stops by itself;
that no zombie publishes is seen to by the outlet, which fences whoever opened it before.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, Protocol, TypeVar

T = TypeVar("T")

_LONGEST_WAIT = 1.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
_CLOSE_WITHIN = 10.0

_log = logging.getLogger("daybook.relay")


class Row(NamedTuple):
    """A row of the log: `stream` is the full name, `data` row v1 (docs/decisions/0001-row-v1-and-chain.md), `hash` the
    link of the chain that is stored beside it; empty where it is not known."""

    position: int
    stream: str
    data: bytes
    hash: bytes = b""


class Published(NamedTuple):
    """Up to where everything is published, and the hash of the row there; empty where it was not kept."""

    position: int
    hash: bytes = b""


class Rows(Protocol):
    """The log, raw. Every method raises `LogUnavailable` when it can't be reached."""

    async def rows(self, after: int, limit: int) -> Sequence[Row]:
        """Up to `limit` rows with positions after `after`, in order, without a gap."""

    async def head(self) -> int: ...

    async def hash_at(self, position: int) -> bytes | None:
        """The hash of the row at this position; None where there is none."""

    async def wait(self, after: int, timeout: float) -> int:
        """Return the head as soon as it is past `after`, or at the end of `timeout` seconds."""


class Fenced(Exception):
    """Another relay has opened the outlet since; nothing of this one's is published any more."""


class Outlet(Protocol):
    """Where batches go. One is open at a time: opening fences whoever had it open before."""

    async def open(self) -> Published:
        """Fence others, let nothing be half published, and return up to where everything is."""

    async def publish(self, after: int, rows: Sequence[Row]) -> None:
        """Publish all or nothing, with the manifests and the position, which was `after` before. When it raises
        anything but `Fenced`, only opening anew tells whether it was published."""

    async def close(self) -> None:
        """Let go, as far as it is open. Never raises."""


class Lease(Protocol):
    """What the active one holds."""

    async def take(self) -> bool:
        """Whether it is ours now. Raises `LogUnavailable`."""

    @property
    def held(self) -> bool:
        """Whether it is surely ours still: false before anyone else can take it."""

    async def let_go(self) -> None:
        """Never raises."""


class State(StrEnum):
    STANDBY = "standby"
    ACTIVE = "active"
    WAITING = "waiting"
    STOPPED = "stopped"


@dataclass(slots=True)
class Stats:
    """`position` is published, `head` is the log's as last heard; `seconds` were spent in `batches` transactions.
    `error` is what it waits for, the name of a class."""

    state: State = State.STANDBY
    position: int = 0
    head: int = 0
    batches: int = 0
    events: int = 0
    seconds: float = 0.0
    taken_over: int = 0
    error: str | None = None
    last: float = field(default=0.0)

    @property
    def lag(self) -> int:
        return max(0, self.head - self.position)


class AheadOfLog(Exception):
    """More was published, or is in a read model, than the log holds: the log was put back to an earlier day, or is
    another one."""


class AnotherLog(Exception):
    """What was published last is not what the log holds there: the log was put back to an earlier day and has gone on
    since, or is another one."""


class Relay:
    """Run it with `run` until `stop` is called. `batch` is how many events one transaction takes at most; `standby` how
    many seconds lie between two looks at whether the lease is free."""

    def __init__(self, log: Rows, outlet: Outlet, lease: Lease, *, batch: int = 1_000, standby: float = 0.5) -> None:
        self._log = log
        self._outlet = outlet
        self._lease = lease
        self._batch = batch
        self._standby = standby
        self._stopping = asyncio.Event()
        self._refused: Published | None = None
        self.stats = Stats()

    def stop(self) -> None:
        """A batch under way is finished first."""
        self._stopping.set()

    async def run(self) -> None:
        pause = _FIRST_PAUSE
        try:
            while not self._stopping.is_set():
                try:
                    if not await self._lease.take():
                        self._be(State.STANDBY)
                        await self._until_told(self._standby)
                        continue
                    await self._lead()
                    pause = _FIRST_PAUSE
                except Fenced:
                    _log.warning("another relay has taken over at position %d", self.stats.position)
                    await self._stand_down()
                    await self._until_told(self._standby)
                except Exception as error:  # whatever the log's or the topic's client raises: it may be back later
                    told = type(error).__name__
                    if self.stats.error != told:
                        _log.warning("the relay waits at position %d (%s)", self.stats.position, told)
                    if self.stats.state is State.ACTIVE and self.stats.last > time.monotonic() - _LONGEST_PAUSE:
                        pause = _FIRST_PAUSE
                    self._be(State.WAITING, told)
                    await self._outlet.close()
                    await self._until_told(pause * random.uniform(0.7, 1.3))  # noqa: S311
                    pause = min(2 * pause, _LONGEST_PAUSE)
        finally:
            await self._stand_down()
            self._be(State.STOPPED)

    async def _lead(self) -> None:
        """Publish until it is time to stop or the lease is lost. What raises leaves the outlet to be opened anew."""
        stats = self.stats
        published = await self._outlet.open()
        position = published.position
        stats.position, stats.head = position, await self._log.head()
        await self._see_that_it_fits(published)
        stats.taken_over += stats.state is State.STANDBY
        self._be(State.ACTIVE)
        _log.info("the relay goes on after position %d", position)
        ahead: asyncio.Task[Sequence[Row]] | None = None
        try:
            while self._lease.held and not self._stopping.is_set():
                if ahead is None and stats.head <= position:
                    waited = await self._unless_told(self._log.wait(position, _LONGEST_WAIT), stats.head)
                    stats.head = max(stats.head, waited)
                    if stats.head <= position:
                        continue
                rows = await (ahead or self._log.rows(position, self._batch))
                ahead = None
                if not rows:
                    raise AheadOfLog
                last = rows[-1].position
                stats.head = max(stats.head, last)
                if stats.head > last:
                    # The next are read while these are on their way.
                    ahead = asyncio.create_task(self._log.rows(last, self._batch))
                if not self._lease.held:
                    break
                began = time.monotonic()
                await self._outlet.publish(position, rows)
                stats.last = time.monotonic()
                stats.seconds += stats.last - began
                stats.batches += 1
                stats.events += len(rows)
                stats.position = position = last
        finally:
            if ahead is not None:
                ahead.cancel()
                with contextlib.suppress(Exception, asyncio.CancelledError):
                    await ahead
        if not self._stopping.is_set():
            _log.warning("the relay's lease is lost at position %d", position)
            await self._stand_down()

    async def _see_that_it_fits(self, published: Published) -> None:
        """Raises `AheadOfLog` or `AnotherLog` where what was published is not the log's beginning."""
        if published.position > self.stats.head:
            self._refused = published
            raise AheadOfLog
        if published == self._refused and not published.hash:
            # It was ahead before: that the log has grown past it since doesn't make it the same log.
            raise AnotherLog
        if published.position and published.hash and await self._log.hash_at(published.position) != published.hash:
            raise AnotherLog

    def _be(self, state: State, error: str | None = None) -> None:
        self.stats.state, self.stats.error = state, error

    async def _stand_down(self) -> None:
        self._be(State.STANDBY)
        # Broken off where it hangs: a standby waits for the lease, and fences what is left.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._outlet.close(), _CLOSE_WITHIN)
        await self._lease.let_go()

    async def _until_told(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)

    async def _unless_told(self, waiting: Awaitable[T], otherwise: T) -> T:
        """The result, or `otherwise` as soon as it is time to stop."""
        task = asyncio.ensure_future(waiting)
        told = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait((task, told), return_when=asyncio.FIRST_COMPLETED)
            return task.result() if task.done() else otherwise
        finally:
            for one in (task, told):
                one.cancel()
            await asyncio.wait((task, told))
