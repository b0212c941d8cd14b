"""Brings the topics to a worker: a Faust app for the consumer group, its rebalances and its threads.

In: partitions of the topics that Faust's consumer is given. Out: whole fetches, handed to a worker in a thread of its
own, and offsets committed of what the worker has dealt with. Faust's streams, tables and web server take no part
(docs/decisions/0051-worker.md says why): messages stay raw bytes and travel by the fetch, and what reads committed is
set here, since Faust does so only for its own exactly-once mode.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

import aiokafka  # type: ignore[import-untyped]
import faust
from aiokafka.coordinator.assignors.range import RangePartitionAssignor  # type: ignore[import-untyped]
from aiokafka.structs import OffsetAndMetadata, TopicPartition  # type: ignore[import-untyped]
from faust.app.base import BootStrategy
from faust.transport.consumer import Fetcher
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from mode import Service

from streams.deadletters import Retry
from streams.inbox import Arrived
from streams.worker import Worker

T = TypeVar("T")

_COMMIT_EVERY = 1.0
_COMMIT_WITHIN = 5.0
_HELD_BACK = 0.05
_LOOK_EVERY = 0.05
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 10.0
_STOP_WITHIN = 20.0
# After so many looks, one with each commit, at which nothing was asked of Kafka though partitions are ours.
_STANDS_STILL = 30

_log = logging.getLogger("daybook.delivery")


@dataclass(frozen=True, slots=True)
class Source:
    """Where the topics are: `servers` as `host:port`, `security` as arguments of an `aiokafka` consumer, `read` makes
    its records what a worker takes."""

    servers: Sequence[str]
    group: str
    events: str
    retries: str
    read: Callable[[Iterable[Any]], list[Arrived]]
    security: Mapping[str, Any] = field(default_factory=dict)
    session_timeout: float = 15.0


class WorkerThread:
    """A worker in an event loop of its own, so that however long a model takes, Faust's heartbeats go on.

    What can't be opened is tried again until it can; `worker` is None until then, and `error` says what it waits for.
    """

    def __init__(
        self,
        opening: Callable[[], AbstractAsyncContextManager[Worker]],
        new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop,
    ) -> None:
        self._opening = opening
        self._new_loop = new_loop
        self._thread = threading.Thread(target=self._run, name="daybook worker", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = threading.Event()
        self._stopped: asyncio.Event | None = None
        self.error: str | None = None
        self.worker: Worker | None = None

    def start(self) -> None:
        self._thread.start()

    async def stop(self) -> None:
        """What is under way is finished first."""
        self._stopping.set()
        if self._loop is not None and self._stopped is not None and not self._loop.is_closed():
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._stopped.set)
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join, _STOP_WITHIN)

    def tell(self, what: Callable[..., None], *arguments: Any) -> None:
        """Have something done there, in the order of telling."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(what, *arguments)

    async def ask(self, what: Callable[[], Awaitable[T]]) -> T:
        """The answer of something done there."""
        if self._loop is None:
            raise RuntimeError("the worker is not open")

        async def asked() -> T:
            return await what()

        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(asked(), self._loop))

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=self._new_loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._loop, self._stopped = asyncio.get_running_loop(), asyncio.Event()
        pause = _FIRST_PAUSE
        while not self._stopping.is_set():
            try:
                async with self._opening() as worker:
                    self.worker, self.error = worker, None
                    await self._stopped.wait()
            except Exception as error:  # whatever a store's client raises: it may be back later
                told = type(error).__name__
                if self.error != told:
                    _log.warning("the worker can't be opened yet (%s)", told)
                self.worker, self.error = None, told
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopped.wait(), pause)
            pause = min(2 * pause, _LONGEST_PAUSE)


class Delivery:
    """Run it with `run` until `stop` is called. Where Kafka or a store can't be reached it tries again by itself."""

    def __init__(self, source: Source, thread: WorkerThread) -> None:
        self.source = source
        self.thread = thread
        self.owned: frozenset[int] = frozenset()
        self.rebalances = 0
        self.restarts = 0
        self.ready = False
        self.error: str | None = None
        self.full: frozenset[int] = frozenset()
        self.fetches = 0
        self._committed: dict[TP, int] = {}
        self._app: Any = None
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        self._stopping.set()

    @property
    def worker(self) -> Worker:
        if self.thread.worker is None:
            raise RuntimeError("the worker is not open")
        return self.thread.worker

    async def run(self) -> None:
        self.thread.start()
        try:
            while self.thread.worker is None and not self._stopping.is_set():
                await self._until_told(_LOOK_EVERY)
            await self._run()
        finally:
            await self.thread.stop()

    async def _run(self) -> None:
        pause = _FIRST_PAUSE
        while not self._stopping.is_set():
            began = time.monotonic()
            app = self._app = _app(self)
            try:
                await self._serve(app)
            except Exception as error:  # whatever Faust or Kafka's client raises: Kafka may be back later
                self.error = type(error).__name__
                _log.warning("the delivery starts anew (%s)", self.error)
                self.restarts += 1
            finally:
                self.ready = False
                await self.revoked(self.owned)
                await self._stopped(app)
            if not self._stopping.is_set():
                pause = _FIRST_PAUSE if time.monotonic() - began > 60 else min(2 * pause, _LONGEST_PAUSE)
                await self._until_told(pause)

    async def _serve(self, app: Any) -> None:
        starting = asyncio.ensure_future(app.start())
        told = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait((starting, told), return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
            fetches, still = self.fetches, 0
            while not self._stopping.is_set():
                if app.crashed or app.should_stop:
                    raise app.crash_reason or ConnectionError("Faust ended")
                # Faust stops its flow for a rebalance and may, when another overtakes it, never start it again. Looks
                # are counted and not seconds, which pass for a process that is frozen too.
                still = still + 1 if self.owned and fetches == self.fetches else 0
                if still >= _STANDS_STILL:
                    raise ConnectionError("nothing is fetched any more")
                fetches = self.fetches
                await self._commit()
                await self._until_told(_COMMIT_EVERY)
        finally:
            for one in (starting, told):
                one.cancel()
            await asyncio.wait((starting, told))

    async def _stopped(self, app: Any) -> None:
        try:
            await asyncio.wait_for(app.stop(), _STOP_WITHIN)
        except Exception as error:
            _log.warning("Faust did not stop cleanly (%s)", type(error).__name__)

    async def assigned(self, partitions: Iterable[TP]) -> None:
        """Called by Faust: these are ours from now on, all others not."""
        numbers = frozenset(one.partition for one in partitions if one.topic == self.source.events)
        self.rebalances += 1
        self.owned = numbers
        self._committed.clear()
        self.thread.tell(self.worker.assign, numbers)
        self.ready, self.error = True, None
        _log.info("partitions assigned: %s", ", ".join(map(str, sorted(numbers))) or "none")

    async def revoked(self, numbers: Iterable[int]) -> None:
        """These are to be let go: what is under way is finished and committed."""
        gone = list(numbers)
        if gone:
            reached = await self.thread.ask(lambda: self.worker.let_go(gone))
            await self._commit_offsets(reached)
            self.owned = frozenset()
            self.full = frozenset()

    def deliver(self, partition: TP, records: Sequence[Any], unfetched: int) -> None:
        """Called by the consumer with a whole fetch of one partition."""
        self.thread.tell(self._deliver, partition, records, unfetched)

    def _deliver(self, partition: TP, records: Sequence[Any], unfetched: int) -> None:
        worker = self.worker
        if partition.topic == self.source.events:
            worker.deliver(partition.partition, self.source.read(records), unfetched)
            self.full = frozenset(worker.full())
            return
        for record in records:
            try:
                retry = Retry.from_json(record.value or b"")
            except ValueError:
                retry = None
            worker.retry(partition.partition, record.offset, retry)

    def held_back(self) -> set[TP]:
        """Partitions of which nothing more is to be fetched for now."""
        if self.full:
            self.full = frozenset(self.worker.full())
        return {TP(self.source.events, number) for number in self.full}

    async def _commit(self) -> None:
        if self.owned:

            async def offsets() -> Mapping[int, tuple[int | None, int | None]]:
                return self.worker.offsets()

            await self._commit_offsets(await self.thread.ask(offsets))

    async def _commit_offsets(self, reached: Mapping[int, tuple[int | None, int | None]]) -> None:
        wanted: dict[TP, int] = {}
        for number, (events, retries) in reached.items():
            for topic, offset in ((self.source.events, events), (self.source.retries, retries)):
                place = TP(topic, number)
                if offset is not None and self._committed.get(place) != offset:
                    wanted[place] = offset
        if wanted and await self._app.consumer.commit_now(wanted):
            self._committed |= wanted

    async def _until_told(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return


class _ConsumerThread(driver.AIOKafkaConsumerThread):
    """Faust's consumer, reading committed and with the rest as a worker needs it."""

    app: Any

    def _create_worker_consumer(self, transport: Any) -> Any:
        source, conf = self.app.delivery.source, self.app.conf
        self._assignor = RangePartitionAssignor
        return aiokafka.AIOKafkaConsumer(
            bootstrap_servers=list(source.servers),
            client_id="daybook",
            group_id=source.group,
            # Events and retries have as many partitions, so that one worker gets the same of both.
            partition_assignment_strategy=[RangePartitionAssignor],
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            max_poll_records=None,
            # A store that is away for long is no reason to give the partitions to somebody who can't write either.
            max_poll_interval_ms=24 * 60 * 60 * 1000,
            session_timeout_ms=int(conf.broker_session_timeout * 1000),
            heartbeat_interval_ms=int(conf.broker_heartbeat_interval * 1000),
            rebalance_timeout_ms=int(conf.broker_rebalance_timeout * 1000),
            request_timeout_ms=int(conf.broker_request_timeout * 1000),
            fetch_max_wait_ms=250,
            max_partition_fetch_bytes=2 * 1024 * 1024,
            metadata_max_age_ms=60_000,
            retry_backoff_ms=100,
            **source.security,
        )

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        """Whether it was committed. What was not is dealt with again, which changes nothing."""
        assignment = self.assignment()
        wanted = {
            TopicPartition(tp.topic, tp.partition): OffsetAndMetadata(offset, "")
            for tp, offset in offsets.items()
            if tp in assignment
        }
        if not wanted:
            return True
        try:
            await self._ensure_consumer().commit(wanted)
        except Exception as error:
            _log.warning("offsets were not committed (%s)", type(error).__name__)
            return False
        return True

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Faust looks here for streams that stand still; there are none, and lag is told by the worker."""


class _Consumer(driver.Consumer):
    app: Any

    def _new_consumer_thread(self) -> Any:
        return _ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def commit_now(self, offsets: Mapping[TP, int]) -> bool:
        """Whether it was committed, which it is not where the consumer's thread has come to its end."""
        try:
            return bool(await asyncio.wait_for(self._commit(offsets), _COMMIT_WITHIN))
        except (RuntimeError, TimeoutError):
            return False

    async def _getmany(self, active_partitions: Any, timeout: float) -> Any:
        wanted = set(active_partitions) - self.app.delivery.held_back()
        if not wanted:
            await self.sleep(_HELD_BACK)
            return {}
        return await super()._getmany(wanted, timeout)

    async def _drain_messages(self, fetcher: Any) -> None:
        """Hand over whole fetches, where Faust would look at each message."""
        delivery: Delivery = self.app.delivery
        while not (self.should_stop or fetcher.should_stop):
            records, asked = await self._wait_next_records(timeout=0.5)
            delivery.fetches += bool(asked)
            if not records or self.should_stop or not self.flow_active:
                # What was fetched while the flow was stopped is fetched again from where it was committed.
                await asyncio.sleep(0)
                continue
            for place, some in records.items():
                tp = TP(place.topic, place.partition)
                if some:
                    last = some[-1].offset
                    highwater = self.highwater(tp)
                    # Behind what is fetched stands at least the mark of its transaction's end.
                    delivery.deliver(tp, some, max(0, (highwater or 0) - last - 2))
            await asyncio.sleep(0)


class _Fetcher(Fetcher):
    @Service.task
    async def _fetcher(self) -> None:
        """Fetch until told to stop. Faust's own would crash the app when that happens during a rebalance."""
        consumer: Any = self.app.consumer
        try:
            await consumer._drain_messages(self)
        except asyncio.CancelledError:
            if not self.should_stop:
                raise
        finally:
            self.set_shutdown()


class _Transport(driver.Transport):
    Consumer: ClassVar[Any] = _Consumer
    Fetcher: ClassVar[Any] = _Fetcher


class _Boot(BootStrategy):
    """No producer, no web server, no leader, no replies: the consumer, and what moves partitions."""

    enable_web = False
    enable_sensors = False
    enable_kafka_producer = False

    def kafka_consumer(self) -> Any:
        return [self.app.consumer]


class _App(faust.App):
    BootStrategy = _Boot

    def _create_directories(self) -> None:
        """None: nothing is kept in files."""


def _app(delivery: Delivery) -> Any:
    source = delivery.source
    app: Any = _App(
        source.group,
        broker=[f"aiokafka://{server}" for server in source.servers],
        store="memory://",
        autodiscover=False,
        web_enabled=False,
        topic_allow_declare=False,
        topic_disable_leader=True,
        stream_wait_empty=False,
        broker_session_timeout=source.session_timeout,
        broker_heartbeat_interval=max(0.3, source.session_timeout / 5),
        broker_request_timeout=max(20.0, source.session_timeout + 5),
        broker_rebalance_timeout=30.0,
    )
    app.delivery = delivery
    app.transport = _Transport(app.conf.broker_consumer, app)
    for topic in (source.events, source.retries):
        app.topics.add(app.topic(topic, key_type=bytes, value_type=bytes))

    async def assigned(app: Any, partitions: Iterable[TP], **_: Any) -> None:
        await delivery.assigned(partitions)

    async def revoked(app: Any, partitions: Iterable[TP], **_: Any) -> None:
        await delivery.revoked(delivery.owned)

    # Faust holds its listeners weakly.
    app.on_partitions_assigned.connect(assigned, weak=False)
    app.on_partitions_revoked.connect(revoked, weak=False)
    return app
