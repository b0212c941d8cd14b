"""The worker: fills read models with the parts of the topic that it was given.

In: messages of some partitions. Out: models that stand where the manifests say, and how far each partition was dealt
with. The topic is the fast way and the log the true one: what is missing, repeated or out of order in the topic, or was
lost by a store, is read from the log, in one pass for all parts that need it. A store that is down is waited for. An
event that a model can't take becomes a dead letter, its stream stands still in that model, and all others go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from domain.ports import Recorded, UnreadableEvent
from projections.model import MissingEvents, Model, OutOfStep, Poison, Portion, standing
from streams.deadletters import DeadLetters, Letter, Retry, Unreadable, Which, letter_of, where
from streams.follower import State
from streams.inbox import Arrived, Batch, Inbox
from streams.parts import part_name, part_of
from streams.relay import AheadOfLog, Row

# How many positions are read from the log at once, and how long parts that need it are gathered for one pass.
_BITE = 5_000
_GATHER = 0.25
# A part that is not where the log was when it was assigned is read too, once nothing has come of any for so long: what
# comes of others says of this one too how far it should be.
_GRACE = 3.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
_LET_GO_WITHIN = 10.0
_RATE_OVER = 10.0

_log = logging.getLogger("daybook.worker")


class Log(Protocol):
    """The log, as the worker needs it. Every method raises `LogUnavailable` when it can't be reached."""

    async def head(self) -> int: ...

    async def rows(self, after: int, limit: int) -> Sequence[Row]: ...

    async def opened(self, rows: Sequence[Any]) -> Sequence[Recorded | Unreadable]:
        """The events of rows, as they came from `rows` or from the topic."""

    async def load(
        self, organization: str, after: Mapping[str, int], *, upto: int | None = None
    ) -> Mapping[str, Sequence[Recorded]]: ...


@dataclass(frozen=True, slots=True)
class Lag:
    """How far one model is behind in one part: `events` that wait, and the age of the first of them in seconds."""

    model: str
    part: int
    events: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Progress:
    """What one model has done since the start. `error` is what it waits for, the name of a class."""

    model: str
    state: State
    error: str | None
    events: int
    events_per_second: float
    from_log: int
    letters: int
    position: int


class Worker:
    """Fills `models`, each at its own pace, while it is open: `async with Worker(…) as worker`.

    `topic` is named in letters about what is no event. Everything is called from the event loop that it was opened in.
    """

    def __init__(
        self, log: Log, letters: DeadLetters, models: Sequence[Model], *, topic: str, parts: int, held: int = 5_000
    ) -> None:
        self.parts = parts
        self._topic = topic
        self._held = held
        self._inboxes: dict[int, Inbox] = {}
        opening = asyncio.Lock()
        self._fillers = [_Filler(log, letters, model, parts, opening) for model in models]
        self._tasks: list[asyncio.Task[None]] = []
        self._unfetched: dict[int, int] = {}

    async def __aenter__(self) -> Worker:
        self._tasks = [
            asyncio.create_task(filler.run(), name=f"filler of {filler.model.name}") for filler in self._fillers
        ]
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.let_go(list(self._inboxes))
        for filler in self._fillers:
            filler.stop()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=_LET_GO_WITHIN)
            for task in late:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def models(self) -> Sequence[str]:
        return [filler.model.name for filler in self._fillers]

    def assign(self, numbers: Iterable[int]) -> None:
        """These partitions are ours now, and what comes of them comes from where they were last dealt with."""
        for number in numbers:
            self._inboxes[number] = Inbox(number, self.parts)
            for filler in self._fillers:
                filler.assign(number)

    async def let_go(self, numbers: Iterable[int]) -> Mapping[int, tuple[int | None, int | None]]:
        """These are not ours any more: what is under way is finished, the rest forgotten. Returns how far each was
        dealt with, as `offsets` does."""
        gone = [number for number in numbers if number in self._inboxes]
        for number in gone:
            del self._inboxes[number]
            self._unfetched.pop(number, None)
        reached = await asyncio.gather(*(filler.let_go(gone) for filler in self._fillers))
        return {number: _least([one[number] for one in reached]) for number in gone}

    def deliver(self, number: int, arrived: Iterable[Arrived], unfetched: int = 0) -> None:
        """What came of a partition, in order; `unfetched` is how many more there are. Of others it is passed over."""
        inbox = self._inboxes.get(number)
        if inbox is None:
            return
        self._unfetched[number] = unfetched
        for one in inbox.take(arrived):
            for filler in self._fillers:
                if isinstance(one, Batch):
                    filler.deliver(number, one)
                else:
                    filler.deliver_junk(f"{self._topic}-{number}-{one.offset}", one)

    def retry(self, number: int, offset: int, retry: Retry | None) -> None:
        """What came of a partition of the retries; None for what is none."""
        if number in self._inboxes:
            for filler in self._fillers:
                filler.mend(number, offset, retry)

    def offsets(self) -> Mapping[int, tuple[int | None, int | None]]:
        """By partition, the next place that has not been dealt with: of the events and of the retries. None where that
        is not known yet."""
        return {number: _least([filler.offsets(number) for filler in self._fillers]) for number in self._inboxes}

    def full(self) -> Collection[int]:
        """The partitions of which enough is waiting."""
        return {
            number
            for number in self._inboxes
            if max((filler.waiting(number) for filler in self._fillers), default=0) >= self._held
        }

    def lags(self) -> Sequence[Lag]:
        return [
            filler.lag(number, self._unfetched.get(number, 0)) for filler in self._fillers for number in self._inboxes
        ]

    def progress(self) -> Sequence[Progress]:
        return [filler.progress() for filler in self._fillers]


def _least(found: Sequence[tuple[int | None, int | None]]) -> tuple[int | None, int | None]:
    events, retries = zip(*found, strict=True)
    return (
        None if None in events else min(events),
        None if None in retries else min(retries),
    )


class _Part:
    """What one model has to do with one part."""

    __slots__ = ("at", "batches", "due", "expected", "grace", "held", "name", "reached", "retries")

    def __init__(self, name: str) -> None:
        self.name = name
        # Where the model stands; None where that is to be asked. `due` is up to where it is to be read from the log.
        self.at: int | None = None
        self.due = 0
        # Where it should be by now, if the topic does not bring it there until `grace` is over.
        self.expected = 0
        self.grace: float | None = None
        self.batches: deque[Batch] = deque()
        self.held = 0
        self.reached: int | None = None
        self.retries: int | None = None


class _Filler:
    """One model's way through its parts."""

    def __init__(self, log: Log, letters: DeadLetters, model: Model, parts: int, opening: asyncio.Lock) -> None:
        self.model = model
        self._log = log
        self._letters = letters
        self._count = parts
        self._opening = opening
        self._parts: dict[int, _Part] = {}
        self._mends: deque[tuple[int, int, Retry | None]] = deque()
        self._junk: deque[Letter] = deque()
        # Streams of which an event is missing: what comes of them later can't be taken either.
        self._stuck: set[tuple[str, str]] = set()
        self._turn = asyncio.Lock()
        self._wake = asyncio.Event()
        self._halt = asyncio.Event()
        self._stopping = False
        self._asked_head = True
        self._ahead: int | None = None
        self._due_since: float | None = None
        self._looked = self._heard = 0.0
        self._state = State.STARTING
        self._error: str | None = None
        self._events = self._from_log_count = self._letter_count = 0
        self._done: deque[tuple[float, int]] = deque()

    def stop(self) -> None:
        self._stopping = True
        self._halt.set()
        self._wake.set()

    def assign(self, number: int) -> None:
        self._parts[number] = _Part(part_name(number, self._count))
        # Another may have moved it on meanwhile, or mended its streams.
        self._stuck.clear()
        self._astray()
        self._asked_head = False
        self._wake.set()

    async def let_go(self, numbers: Sequence[int]) -> Mapping[int, tuple[int | None, int | None]]:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LET_GO_WITHIN), self._turn:
                pass
        reached = {number: self.offsets(number) for number in numbers}
        for number in numbers:
            self._parts.pop(number, None)
        self._mends = deque(one for one in self._mends if one[0] in self._parts)
        self._astray()
        return reached

    def deliver(self, number: int, batch: Batch) -> None:
        part = self._parts[number]
        part.batches.append(batch)
        part.held += len(batch.rows) + 1
        self._heard = time.monotonic()
        self._wake.set()

    def deliver_junk(self, place: str, junk: Arrived) -> None:
        error = "Misplaced" if junk.row is not None else "NotARow"
        self._junk.append(Letter(model=self.model.name, where=place, error=error, at=_now()))
        self._wake.set()

    def mend(self, number: int, offset: int, retry: Retry | None) -> None:
        self._mends.append((number, offset, retry))
        self._wake.set()

    def offsets(self, number: int) -> tuple[int | None, int | None]:
        part = self._parts.get(number)
        return (part.reached, part.retries) if part else (None, None)

    def waiting(self, number: int) -> int:
        return self._parts[number].held

    def lag(self, number: int, unfetched: int) -> Lag:
        part = self._parts[number]
        events = sum(len(batch.rows) for batch in part.batches) + unfetched
        seconds = time.time() - part.batches[0].at if part.batches else 0.0
        if part.at is not None and part.due > part.at:
            # Its share of what is read from the log.
            events += (part.due - part.at) // self._count
        return Lag(self.model.name, number, events, round(max(0.0, seconds), 3))

    def progress(self) -> Progress:
        since = time.monotonic() - _RATE_OVER
        return Progress(
            model=self.model.name,
            state=self._state,
            error=self._error,
            events=self._events,
            events_per_second=round(sum(count for at, count in self._done if at >= since) / _RATE_OVER, 1),
            from_log=self._from_log_count,
            letters=self._letter_count,
            position=min((part.at or 0 for part in self._parts.values()), default=0),
        )

    async def run(self) -> None:
        pause = _FIRST_PAUSE
        while not self._stopping:
            self._wake.clear()
            try:
                async with self._turn:
                    wait, lingers = await self._step()
            except OutOfStep as found:
                _log.warning("%s stands at position %d, not where it was thought", self.model.name, found.position)
                self._astray()
            except Exception as error:  # whatever a store's, the log's or the letters' client raises: it may be back
                told = type(error).__name__
                if self._error != told:
                    _log.warning("%s waits (%s)", self.model.name, told)
                self._state, self._error = State.WAITING, told
                self._astray()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._halt.wait(), pause * random.uniform(0.7, 1.3))  # noqa: S311
                pause = min(2 * pause, _LONGEST_PAUSE)
            else:
                pause = _FIRST_PAUSE
                if wait > 0:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for((self._halt if lingers else self._wake).wait(), wait)
        self._state = State.STOPPED

    async def _step(self) -> tuple[float, bool]:
        """Do what there is to do. Return for how many seconds nothing else is known of, and whether what comes until
        then is to be gathered."""
        began = time.monotonic()
        if self._junk:
            await self._write([*self._junk])
            self._junk.clear()
        if not self._parts:
            self._state, self._error = State.FOLLOWING, None
            return self.model.pulse, False
        if any(part.at is None for part in self._parts.values()):
            await self._look()
        if not self._asked_head:
            await self._expect()
        taken = self._taken()
        count = await self._apply_taken(taken) if taken else 0
        mended = bool(self._mends)
        while self._mends:
            await self._mend(*self._mends[0])
            self._mends.popleft()
        caught = await self._from_log()
        self._error = None
        self._state = State.FILLING if caught or count >= self.model.batch else State.FOLLOWING
        if taken or caught or mended:
            self._looked = time.monotonic()
            return 0.0 if caught or count >= self.model.batch else began + self.model.linger - self._looked, True
        return await self._idle(), False

    def _astray(self) -> None:
        """Ask the store where it stands before anything else."""
        self.model.forget()
        for part in self._parts.values():
            if part.at is not None:
                # Should it stand further back than it did, it was emptied.
                part.expected, part.at = max(part.expected, part.at), None

    async def _look(self) -> None:
        positions = await self.model.positions()
        whole = standing(positions)
        self._looked = time.monotonic()
        await self._see_that_it_fits(max(positions.values(), default=0))
        for part in self._parts.values():
            part.at = max(whole, positions.get(part.name, 0))
            if part.grace is None and part.at < part.expected:
                self._stuck.clear()
                self._owe(part, part.expected)
            elif part.grace is None:
                part.expected = 0

    async def _see_that_it_fits(self, furthest: int) -> None:
        """Raises `AheadOfLog` where the model holds what the log does not. Others fill the model too, so only somebody
        who has stopped them all can begin it anew."""
        if self._ahead is not None and furthest < self._ahead:
            self._ahead = None
        if self._ahead is None and furthest > await self._log.head():
            self._ahead = furthest
        if self._ahead is not None:
            # Also when the log has grown past it since: it grew with another history.
            raise AheadOfLog

    def _owe(self, part: _Part, upto: int) -> None:
        part.due = max(part.due, upto)
        if self._due_since is None:
            self._due_since = time.monotonic()

    async def _expect(self) -> None:
        """A part that is new here is to come to where the log is now, by the topic or without it."""
        head = await self._log.head()
        for part in self._parts.values():
            if part.reached is None and part.grace is None:
                part.expected, part.grace = max(part.expected, head), time.monotonic() + _GRACE
        self._asked_head = True

    async def _idle(self) -> float:
        now = time.monotonic()
        for part in self._parts.values():
            if part.grace is not None and now >= max(part.grace, self._heard + _GRACE):
                part.grace = None
                if part.at is not None and part.at < part.expected:
                    self._owe(part, part.expected)
                part.expected = 0
        if now - self._looked >= self.model.pulse:
            positions = await self.model.positions()
            whole = standing(positions)
            self._looked = time.monotonic()
            if any(max(whole, positions.get(part.name, 0)) != part.at for part in self._parts.values()):
                self._astray()
                return 0.0
        waits = [part.grace - now for part in self._parts.values() if part.grace is not None]
        return max(0.01, min([self.model.pulse if self._due_since is None else _GATHER, *waits]))

    def _taken(self) -> dict[int, list[Batch]]:
        """Of each part, the batches that can be applied now, without gaps, until it is enough for once."""
        taken: dict[int, list[Batch]] = {}
        for number, part in self._parts.items():
            if part.at is None:
                continue
            at, count = part.at, 0
            while part.batches and part.batches[0].upto <= at:
                self._through(part, part.batches[0])
            for batch in part.batches:
                if batch.after > at or not batch.whole or count >= self.model.batch:
                    break
                if batch.upto > at:
                    at = batch.upto
                    count += len(batch.rows)
                taken.setdefault(number, []).append(batch)
            if part.batches and number not in taken:
                first = part.batches[0]
                self._owe(part, first.after if first.after > at else first.upto)
        return taken

    def _through(self, part: _Part, batch: Batch) -> None:
        part.batches.popleft()
        part.held -= len(batch.rows) + 1
        part.reached = batch.offset

    async def _apply_taken(self, taken: Mapping[int, Sequence[Batch]]) -> int:
        await self._open([batch for batches in taken.values() for batch in batches])
        portions = {
            number: ([event for batch in batches for event in batch.events or ()], batches[-1].upto)
            for number, batches in taken.items()
        }
        count = await self._apply(portions)
        for number, batches in taken.items():
            part = self._parts[number]
            for batch in batches:
                self._through(part, batch)
        return count

    async def _open(self, batches: Sequence[Batch]) -> None:
        # Models that share a worker share what is opened.
        async with self._opening:
            closed = [batch for batch in batches if batch.events is None]
            if not closed:
                return
            opened = await self._log.opened([one.row for batch in closed for one in batch.rows])
            start = 0
            for batch in closed:
                batch.events = opened[start : start + len(batch.rows)]
                start += len(batch.rows)

    async def _apply(self, portions: Mapping[int, tuple[Sequence[Recorded | Unreadable], int]]) -> int:
        """Apply what each part gets, up to a position. What can't be taken becomes letters, and the rest goes on."""
        letters: list[Letter] = []
        named: dict[str, Portion] = {}
        count = 0
        for number, (events, upto) in portions.items():
            part = self._parts[number]
            good = []
            for event in events:
                if isinstance(event, Unreadable):
                    if event.which is not None and event.which.position > (part.at or 0):
                        letters.append(self._letter(event.which, event.error))
                elif (event.organization, event.stream) not in self._stuck:
                    good.append(event)
                elif event.position > (part.at or 0):
                    letters.append(self._letter(_which(event), MissingEvents.__name__))
            named[part.name] = Portion(good, upto)
            count += len(events)
        if letters:
            await self._write(letters)
        while True:
            try:
                await self.model.apply_parts(named)
                break
            except Poison as poison:
                named = await self._without(named, poison)
        for number, (_, upto) in portions.items():
            self._parts[number].at = max(self._parts[number].at or 0, upto)
        self._events += count
        self._done.append((time.monotonic(), count))
        while self._done[0][0] < time.monotonic() - _RATE_OVER:
            self._done.popleft()
        return count

    async def _without(self, named: Mapping[str, Portion], poison: Poison) -> dict[str, Portion]:
        """The portions without the event that can't be taken, of which a letter is written first."""
        rest: dict[str, Portion] = {}
        letters: list[Letter] = []
        for name, (events, upto) in named.items():
            spoilt = next((event for event in events if event.position == poison.position), None)
            if spoilt is None:
                rest[name] = Portion(events, upto)
                continue
            letters.append(self._letter(_which(spoilt), poison.error))
            if poison.error == MissingEvents.__name__:
                # The rest of the stream would tell the same, one by one.
                stuck = (spoilt.organization, spoilt.stream)
                self._stuck.add(stuck)
                later = [event for event in events if event.position > spoilt.position]
                letters += [
                    self._letter(_which(event), poison.error)
                    for event in later
                    if (event.organization, event.stream) == stuck
                ]
                told = {letter.position for letter in letters}
                rest[name] = Portion([event for event in events if event.position not in told], upto)
            else:
                rest[name] = Portion([event for event in events if event is not spoilt], upto)
        if not letters:
            raise poison
        await self._write(letters)
        return rest

    async def _from_log(self) -> int:
        """One bite of the log for every part that needs it; return how many positions that was."""
        due = {
            number: part
            for number, part in self._parts.items()
            if part.due and part.at is not None and part.at < part.due
        }
        if not due:
            for part in self._parts.values():
                part.due = 0
            self._due_since = None
            return 0
        if self._due_since is None:
            self._due_since = time.monotonic()
        if time.monotonic() < self._due_since + _GATHER:
            return 0
        first = min(part.at or 0 for part in due.values())
        last = max(part.due for part in due.values())
        rows = await self._log.rows(first, min(_BITE, last - first))
        if not rows:
            raise AheadOfLog
        end = rows[-1].position
        shares: dict[int, list[Row]] = {number: [] for number in due}
        for row in rows:
            number = part_of(row.stream, self._count)
            if number in due and (due[number].at or 0) < row.position <= due[number].due:
                shares[number].append(row)
        opened = iter(await self._log.opened([row.data for share in shares.values() for row in share]))
        portions = {
            number: ([next(opened) for _ in share], min(end, due[number].due)) for number, share in shares.items()
        }
        portions = {number: portion for number, portion in portions.items() if portion[1] > (due[number].at or 0)}
        self._from_log_count += await self._apply(portions)
        return len(rows)

    async def _mend(self, number: int, offset: int, retry: Retry | None) -> None:
        part = self._parts.get(number)
        if part is None:
            return
        if retry is not None and retry.model == self.model.name:
            stream = retry.stream
            try:
                events = (await self._log.load(retry.organization, {stream: 0}))[stream]
                await self.model.mend(events, part.name)
            except UnreadableEvent as error:
                _log.warning("%s: position %d can't be read yet", self.model.name, error.position)
            except Poison as poison:
                spoilt = next(event for event in events if event.position == poison.position)
                await self._write([self._letter(_which(spoilt), poison.error)])
            else:
                self._stuck.discard((retry.organization, stream))
                await self._letters.settle(
                    [f"{self.model.name}|{where(retry.organization, stream, event.position)}" for event in events]
                )
                _log.info("%s has taken a stream again, %d events", self.model.name, len(events))
        part.retries = offset + 1

    def _letter(self, which: Which, error: str) -> Letter:
        return letter_of(self.model.name, which, error, datetime.now(UTC))

    async def _write(self, letters: Sequence[Letter]) -> None:
        await self._letters.write(letters)
        self._letter_count += len(letters)
        for letter in letters[:5]:
            _log.error("%s can't take position %d (%s)", self.model.name, letter.position, letter.error)


def _which(event: Recorded) -> Which:
    return Which(event.position, event.organization, event.stream, event.version, event.event.NAME, event.recorded_at)


def _now() -> str:
    return datetime.now(UTC).isoformat()
