"""The in-process follower: reads the log by position and fills every read model, each at its own pace.

In: the log. Out: models that are as far as the log, and for each what it is doing. A model whose store is down waits
alone and tries again; one that meets an event it can't take stops there, in the open, and the others go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self, TypeVar

from domain.ports import EventLog, LogError, Recorded, UnreadableEvent
from projections.model import Model, OutOfStep, Poison

T = TypeVar("T")
Progress = Callable[[int, int], Awaitable[None]]

# Reading is done in bites of this many events, so that whoever else lives in the event loop gets a turn.
_BITE = 500
# Decoded events that are kept for the models that come later: some of the largest batches.
_WINDOW = 20_000
_LONGEST_WAIT = 1.0
# Looks, origins and refusals come by the hundred where people read, and change nothing that is shown. They ride along
# with what does, and by themselves only now and then; while only they come, the log is read a little less often.
_QUIET_WITHIN = 0.25
_QUIET_PAUSE = 0.02
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
# The old generation stays for readers elsewhere that have not heard of the new one yet.
GRACE = 5.0
_RATE_OVER = 10.0
_END_WITHIN = 15.0

_log = logging.getLogger("daybook.follower")


class State(StrEnum):
    STARTING = "starting"
    FOLLOWING = "following"
    FILLING = "filling"
    WAITING = "waiting"
    FAILED = "failed"
    STOPPED = "stopped"


class UnknownModel(Exception):
    """No read model has this name."""


class AlreadyRebuilding(Exception):
    """This model is being rebuilt already."""


@dataclass(frozen=True, slots=True)
class Status:
    """What a model is doing. `waiting` tries again by itself after `error`; `failed` needs a rebuild or a restart, and
    `failed_at` is the position of the event that it could not take. `lag` is in events; `behind` says for how many
    seconds it has not been level with the log."""

    model: str
    state: State
    position: int
    head: int
    error: str | None
    failed_at: int | None
    events_per_second: float
    rebuilding: bool
    behind: float = 0.0

    @property
    def lag(self) -> int:
        return max(0, self.head - self.position)


class Feed:
    """The log, read once for all models that are at about the same place. A model far behind reads for itself."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._first = 1
        self._events: list[Recorded] = []
        self._more = True
        self._reading = asyncio.Lock()

    async def after(self, position: int, limit: int) -> Sequence[Recorded]:
        """Up to `limit` events after `position`, in order, without a gap. Raises `LogError`."""
        found: list[Recorded] = []
        more = True
        while more and len(found) < limit:
            bite, more = await self._bite(position + len(found), limit - len(found))
            found += bite
            await asyncio.sleep(0)
        return found

    async def _bite(self, position: int, limit: int) -> tuple[Sequence[Recorded], bool]:
        """Some events, and whether there may be more."""
        if self._first - 1 <= position < self._last:
            return self._cut(position, limit)
        if position < self._first - 1:
            events = await self._read(position, min(limit, _BITE))
            return events, bool(events)
        async with self._reading:
            if position < self._first - 1:
                return (), True
            if position > self._last:
                # Nobody is here yet: the window moves along.
                self._events, self._first = [], position + 1
            if position == self._last:
                read = await self._read(position, _BITE)
                self._events += read
                self._more = len(read) == _BITE
                excess = max(0, len(self._events) - _WINDOW)
                del self._events[:excess]
                self._first += excess
            return self._cut(position, limit)

    def _cut(self, position: int, limit: int) -> tuple[Sequence[Recorded], bool]:
        start = position + 1 - self._first
        events = self._events[start : start + limit]
        return events, self._more or position + len(events) < self._last

    @property
    def _last(self) -> int:
        return self._first + len(self._events) - 1

    async def _read(self, position: int, limit: int) -> Sequence[Recorded]:
        try:
            return await self._log.read(position, limit)
        except UnreadableEvent as error:
            # One unreadable event must not hide the readable ones before it.
            if error.position <= position + 1:
                raise
            return await self._log.read(position, error.position - position - 1)


class _Follow:
    """One model's way through the log."""

    def __init__(self, log: EventLog, feed: Feed, model: Model) -> None:
        self.model = model
        self.position = 0
        self.head = 0
        self.state = State.STARTING
        self.error: str | None = None
        self.failed_at: int | None = None
        self.rebuilding = False
        # By the monotonic clock; None while it is level with the log.
        self.behind_since: float | None = None
        self.turn = asyncio.Lock()
        self.stopping = asyncio.Event()
        self.task: asyncio.Task[None] | None = None
        self.cleaning: asyncio.Task[None] | None = None
        self._log = log
        self._feed = feed
        self._known = False
        self._looked = 0.0
        # Read and not applied yet: quiet events, and since when by the monotonic clock.
        self._held: list[Recorded] = []
        self._held_since = 0.0
        self._done: deque[tuple[float, int]] = deque()

    def start(self) -> None:
        self.stopping.clear()
        self.task = asyncio.create_task(self._run(), name=f"follower of {self.model.name}")

    async def stop(self) -> None:
        self.stopping.set()
        if self.task is not None:
            # A batch under way is finished; a store that hangs is not waited for.
            _, late = await asyncio.wait((self.task,), timeout=_END_WITHIN)
            if late:
                _log.warning("%s does not come to an end and is broken off", self.model.name)
                self.task.cancel()
                await asyncio.wait(late)
            self.task = None
        if self.state is not State.FAILED:
            self.state = State.STOPPED

    async def no_cleaning(self) -> None:
        """Have no removal of old rows under way."""
        if self.cleaning is not None:
            self.cleaning.cancel()
            await asyncio.wait((self.cleaning,))
            self.cleaning = None

    def astray(self) -> None:
        """Ask the store for the position again."""
        self._known = False

    async def _run(self) -> None:
        pause = _FIRST_PAUSE
        while not self.stopping.is_set():
            try:
                await self._step()
            except Poison as poison:
                self._fail(poison.error, poison.position)
                return
            except OutOfStep as found:
                _log.warning("%s stands at position %d, not %d", self.model.name, found.position, self.position)
                self.astray()
            except UnreadableEvent as error:
                self._fail(type(error).__name__, error.position)
                return
            except Exception as error:  # whatever a store's client raises: it may be back later
                pause = await self._try_later(error, pause)
            else:
                pause = _FIRST_PAUSE

    async def _step(self) -> None:
        if not self._known:
            async with self.turn:
                await self._look_up()
        if self.head <= self._read:
            head = await self._unless_told(self._log.wait(self._read, self._longest_wait()), self.head)
            self.head = max(self.head, head)
            if self.head <= self._read and not self._held:
                await self._idle()
                return
        if self.behind_since is None:
            self.behind_since = time.monotonic()
        began = time.monotonic()
        unreadable: UnreadableEvent | None = None
        if self.head > self._read:
            try:
                self._hold(await self._feed.after(self._read, self.model.batch - len(self._held)))
            except UnreadableEvent as error:
                # What was read before it is applied first.
                unreadable = error
        if self._may_wait_still() and unreadable is None:
            await self._until_told(_QUIET_PAUSE)
            return
        async with self.turn:
            if not self._known:
                return
            batch, self._held = self._held, []
            if batch:
                await self.model.apply(batch)
                self.position = batch[-1].position
        if unreadable is not None:
            raise unreadable
        self.head = max(self.head, self.position)
        if self.position >= self.head:
            self.behind_since = None
        self._at_work(len(batch))
        if len(batch) < self.model.batch:
            await self._until_told(self.model.linger - (time.monotonic() - began))

    @property
    def _read(self) -> int:
        return self._held[-1].position if self._held else self.position

    def _hold(self, events: Sequence[Recorded]) -> None:
        if not self._held:
            self._held_since = time.monotonic()
        self._held += events

    def _may_wait_still(self) -> bool:
        return (
            0 < len(self._held) < self.model.batch
            and time.monotonic() - self._held_since < _QUIET_WITHIN
            and all(recorded.event.QUIET for recorded in self._held)
        )

    def _longest_wait(self) -> float:
        longest = min(_LONGEST_WAIT, self.model.pulse)
        return min(longest, self._held_since + _QUIET_WITHIN - time.monotonic()) if self._held else longest

    async def _look_up(self) -> None:
        """Find out where the model stands. One that knows more than the log holds was filled from a log that lost its
        end since, in a restore, and none of it can be trusted."""
        self.model.forget()
        self._held = []
        reached = max((await self.model.positions()).values(), default=0)
        if reached > await self._log.head() and not self.rebuilding:
            _log.warning("%s stands at position %d, past the log's end; it is filled anew", self.model.name, reached)
            await self.no_cleaning()
            await start_over(self.model)
        self.position = await self.model.position()
        self._known, self._looked = True, time.monotonic()

    async def _idle(self) -> None:
        self.state, self.error, self.behind_since = State.FOLLOWING, None, None
        if time.monotonic() - self._looked < self.model.pulse:
            return
        async with self.turn:
            self._looked = time.monotonic()
            if self._known and await self.model.position() != self.position:
                self._known = False

    def _at_work(self, count: int) -> None:
        now = time.monotonic()
        self.error = None
        self.state = State.FILLING if count >= self.model.batch else State.FOLLOWING
        self._done.append((now, count))
        while self._done[0][0] < now - _RATE_OVER:
            self._done.popleft()

    def rate(self) -> float:
        """Events a second over the last ten seconds."""
        since = time.monotonic() - _RATE_OVER
        return sum(count for at, count in self._done if at >= since) / _RATE_OVER

    def _fail(self, error: str, position: int) -> None:
        self.state, self.error, self.failed_at = State.FAILED, error, position
        self.behind_since = self.behind_since or time.monotonic()
        self.position = position - 1
        _log.error("%s stops before position %d, which it can't take (%s)", self.model.name, position, error)

    async def _try_later(self, error: Exception, pause: float) -> float:
        told = _code(error)
        if self.error != told:
            _log.warning("%s waits at position %d (%s)", self.model.name, self.position, told)
        self.state, self.error = State.WAITING, told
        self.behind_since = self.behind_since or time.monotonic()
        self.astray()
        await self._until_told(pause * random.uniform(0.7, 1.3))  # noqa: S311
        return min(pause * 2, _LONGEST_PAUSE)

    async def _until_told(self, seconds: float) -> None:
        if seconds > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.stopping.wait(), seconds)

    async def _unless_told(self, waiting: Awaitable[T], otherwise: T) -> T:
        """The result, or `otherwise` as soon as it is time to stop."""
        task = asyncio.ensure_future(waiting)
        told = asyncio.ensure_future(self.stopping.wait())
        try:
            await asyncio.wait((task, told), return_when=asyncio.FIRST_COMPLETED)
            return task.result() if task.done() else otherwise
        finally:
            for one in (task, told):
                one.cancel()
            await asyncio.wait((task, told))


class _Anew:
    """A new generation of a model on its way from the first event."""

    def __init__(self, log: EventLog, model: Model, progress: Progress | None) -> None:
        self.model = model
        self.position = 0
        self._log = log
        # A reader of its own, so that it does not pull the others' window back to the start.
        self._feed = Feed(log)
        self._progress = progress

    async def fill(self) -> None:
        """Apply everything that the log holds by now."""
        total = await self._log.head()
        while batch := await self._feed.after(self.position, self.model.batch):
            await self.model.apply(batch)
            self.position = batch[-1].position
            if self._progress is not None:
                await self._progress(self.position, max(total, self.position))


async def rebuilt(log: EventLog, model: Model, progress: Progress | None = None, *, grace: float = 0.0) -> int:
    """Fill a model anew that this process does not follow, swap, and remove the old rows; return the position. Raises
    as `Follower.rebuild` does, and then the old rows go on serving.

    `grace` is for how many seconds the old rows stay for readers elsewhere that have not heard of the new ones yet."""
    anew = _Anew(log, await model.next_generation(), progress)
    await anew.fill()
    await model.take_over(anew.model)
    await asyncio.sleep(grace)
    await model.clean()
    return anew.position


async def start_over(model: Model) -> None:
    """Have a model that nobody else fills hold nothing and stand at 0. Raises what the store raises."""
    await model.take_over(await model.next_generation())
    await model.clean()


class Follower:
    """Fills `models` from `log` while it is open: `async with Follower(log, models) as follower`.

    It does not close the models' stores; whoever opened them does, afterwards.
    """

    def __init__(self, log: EventLog, models: Sequence[Model], *, grace: float = GRACE) -> None:
        self._log = log
        self._grace = grace
        feed = Feed(log)
        self._follows = {model.name: _Follow(log, feed, model) for model in models}

    async def __aenter__(self) -> Self:
        for follow in self._follows.values():
            follow.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await asyncio.gather(*(follow.stop() for follow in self._follows.values()))
        await asyncio.gather(*(follow.no_cleaning() for follow in self._follows.values()))

    @property
    def models(self) -> Sequence[str]:
        return list(self._follows)

    async def status(self) -> Sequence[Status]:
        """What each model is doing. The log's head is asked for, where it answers."""
        head = 0
        with contextlib.suppress(LogError):
            head = await self._log.head()
        return self.last_known(head)

    def last_known(self, head: int = 0) -> Sequence[Status]:
        """What each model is doing, beside the latest head that it has heard of itself, or a later one."""
        return [
            Status(
                model=name,
                state=follow.state,
                position=follow.position,
                head=max(head, follow.head, follow.position),
                error=follow.error,
                failed_at=follow.failed_at,
                events_per_second=round(follow.rate(), 1),
                rebuilding=follow.rebuilding,
                behind=round(time.monotonic() - follow.behind_since, 3) if follow.behind_since is not None else 0.0,
            )
            for name, follow in self._follows.items()
        ]

    async def wait_until(self, model: str, position: int, timeout: float) -> bool:
        """Whether a model got as far as `position` within `timeout` seconds. Raises `UnknownModel`."""
        return await self._follow(model).model.wait_until(position, timeout)

    async def caught_up(self, timeout: float) -> bool:
        """Whether every model got as far as the log is now."""
        head = await self._log.head()
        end = time.monotonic() + timeout
        waits = (follow.model.wait_until(head, end - time.monotonic()) for follow in self._follows.values())
        return all(await asyncio.gather(*waits))

    async def rebuild(self, model: str, progress: Progress | None = None) -> int:
        """Fill a model anew from the first event while the old rows serve, then swap; return the position at the swap.

        `progress` gets (done, total) positions. Raises `UnknownModel`, `AlreadyRebuilding`, `Poison`, `LogError`, and
        what the store raises; the old rows then go on serving.
        """
        follow = self._follow(model)
        if follow.rebuilding:
            raise AlreadyRebuilding(model)
        follow.rebuilding = True
        try:
            return await self._rebuild(follow, progress)
        except BaseException:
            self._clean_soon(follow)
            raise
        finally:
            follow.rebuilding = False

    async def _rebuild(self, follow: _Follow, progress: Progress | None) -> int:
        # It would take the new rows for left-overs.
        await follow.no_cleaning()
        anew = _Anew(self._log, await follow.model.next_generation(), progress)
        await anew.fill()
        async with follow.turn:
            # The model stands still, so what is left is little.
            await anew.fill()
            await follow.model.take_over(anew.model)
            follow.astray()
        if follow.state is State.FAILED:
            await follow.stop()
            follow.state, follow.error, follow.failed_at = State.STARTING, None, None
            follow.start()
        self._clean_soon(follow)
        return anew.position

    def _clean_soon(self, follow: _Follow) -> None:
        follow.cleaning = asyncio.create_task(self._clean_later(follow))

    async def _clean_later(self, follow: _Follow) -> None:
        await asyncio.sleep(self._grace)
        try:
            await follow.model.clean()
        except Exception as error:  # what is left lies there until the next rebuild
            _log.warning("the old rows of %s are still there (%s)", follow.model.name, _code(error))

    def _follow(self, model: str) -> _Follow:
        try:
            return self._follows[model]
        except KeyError:
            raise UnknownModel(model) from None


async def told(work: Callable[[Progress], Awaitable[T]]) -> AsyncIterator[tuple[int, int] | T]:
    """Run work that reports its progress, as a stream of reports that ends with the result."""
    reports: asyncio.Queue[tuple[int, int]] = asyncio.Queue()

    async def progress(done: int, total: int) -> None:
        reports.put_nowait((done, total))

    task = asyncio.ensure_future(work(progress))
    try:
        while not task.done():
            waiting = asyncio.ensure_future(reports.get())
            await asyncio.wait((task, waiting), return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                yield waiting.result()
            else:
                waiting.cancel()
        yield await task
    finally:
        task.cancel()


def _code(error: Any) -> str:
    """An error's class, and the store's number for it: its words may hold what nobody should read."""
    code = getattr(error, "code", None)
    return f"{type(error).__name__} {code}" if isinstance(code, int) else type(error).__name__
