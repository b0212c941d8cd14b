"""Figures of the log, the commands, the read models and the process for `/metrics`.

In: what the parts count anyway, read when it is asked for, and what they tell as it happens. Out: Prometheus metrics.
Labels name operations, models, parts and codes, never a person or an address. docs/operations/observability.md lists
all.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, Counter, GCCollector, Histogram, Info, PlatformCollector
from prometheus_client import ProcessCollector as OfProcess
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from commands.loop import Answer, Busy, Command, Desk
from domain.ports import Clock, Context, KeyReused, LogUnavailable, Recorded
from domain.refusals import Refusal
from infra.backup.manifest import Manifest
from infra.event_log.checkpoints import Checkpointer
from infra.event_log.log import PostgresEventLog
from infra.troubles import Trouble
from projections.model import Model
from streams.follower import Follower, State, Status
from streams.relay import Relay
from streams.relay import State as RelayState
from streams.worker import Worker

_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_AGES: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 1800.0)
_COUNTS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
_LAGS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
_LOOK_EVERY: Final = 0.25


def registry_of(service: str) -> CollectorRegistry:
    """A registry with what every process tells of itself."""
    registry = CollectorRegistry()
    OfProcess(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    about = Info("daybook_build", "Which service this is, and of which version.", registry=registry)
    about.info({"service": service, "version": version("daybook")})
    return registry


@asynccontextmanager
async def loop_watched(registry: CollectorRegistry) -> AsyncIterator[None]:
    """Measure by how much the event loop wakes a sleeper too late."""
    lags = Histogram(
        "daybook_event_loop_lag_seconds",
        "By how much the event loop was late, looked at every quarter of a second.",
        buckets=_LAGS,
        registry=registry,
    )

    async def look() -> None:
        while True:
            began = time.monotonic()
            await asyncio.sleep(_LOOK_EVERY)
            lags.observe(max(0.0, time.monotonic() - began - _LOOK_EVERY))

    task = asyncio.create_task(look(), name="event loop lag")
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


class CommandMetrics(Collector):
    """How commands fare at a desk: a `commands.loop.Observer`, which the desk hears of from here."""

    def __init__(self, desk: Desk, registry: CollectorRegistry) -> None:
        self._desk = desk
        self._seconds = Histogram(
            "daybook_command_seconds",
            "Time that a command took, by its name, however it ended.",
            ["command"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._ended = Counter(
            "daybook_commands",
            "Commands by name and how they ended: done, replayed, refused, busy, key_reused, unavailable, failed.",
            ["command", "outcome"],
            registry=registry,
        )
        self._refusals = Counter(
            "daybook_refusals", "Refusals, by command and code.", ["command", "code"], registry=registry
        )
        self._children: dict[type[Command], tuple[Histogram, Counter]] = {}
        desk.observers = (*desk.observers, self)
        registry.register(self)

    def began(self, command: Command, context: Context) -> tuple[type[Command], float]:
        return type(command), time.perf_counter()

    def ended(self, begun: tuple[type[Command], float], answer: Answer | None, error: BaseException | None) -> None:
        kind, began = begun
        children = self._children.get(kind)
        if children is None:
            children = self._children[kind] = (
                self._seconds.labels(kind.__name__),
                self._ended.labels(kind.__name__, "done"),
            )
        children[0].observe(time.perf_counter() - began)
        if answer is not None and not answer.replayed:
            children[1].inc()
            return
        if isinstance(error, Refusal):
            self._refusals.labels(kind.__name__, error.code).inc()
        self._ended.labels(kind.__name__, _outcome(error)).inc()

    def collect(self) -> Iterable[Metric]:
        desk = self._desk
        again = CounterMetricFamily(
            "daybook_command_decisions_repeated",
            "Decisions made again, since the log had moved on (conflict), or to be sure of a no (second_look).",
            labels=["why"],
        )
        again.add_metric(["conflict"], desk.stats.conflicts)
        again.add_metric(["second_look"], desk.stats.second_looks)
        yield again
        yield GaugeMetricFamily(
            "daybook_page_queue_waiting", "Places waited for in the queues before pages.", value=desk.queues.waiting
        )
        yield GaugeMetricFamily("daybook_states_cached", "Folded states kept in memory.", value=len(desk.cache))


def _outcome(error: BaseException | None) -> str:
    match error:
        case None:
            return "replayed"
        case Refusal():
            return "refused"
        case Busy():
            return "busy"
        case KeyReused():
            return "key_reused"
        case LogUnavailable():
            return "unavailable"
        case _:
            return "failed"


class LogMetrics(Collector):
    """What the writer of this process did, and how far the log is."""

    def __init__(self, log: PostgresEventLog) -> None:
        self._log = log
        self._saves = Histogram("daybook_log_batch_saves", "Saves in one transaction.", buckets=_COUNTS, registry=None)
        self._events = Histogram(
            "daybook_log_batch_events", "Events in one transaction.", buckets=_COUNTS, registry=None
        )
        self._seconds = Histogram(
            "daybook_log_transaction_seconds",
            "Time that a transaction took, from asking for the log's head to the commit.",
            buckets=_SECONDS,
            registry=None,
        )
        log.on_batch(self._batch)

    def _batch(self, saves: int, events: int, seconds: float) -> None:
        self._saves.observe(saves)
        self._events.observe(events)
        self._seconds.observe(seconds)

    def collect(self) -> Iterable[Metric]:
        stats = self._log.stats
        yield CounterMetricFamily("daybook_log_saves", "Saves committed.", value=stats.saves)
        yield CounterMetricFamily("daybook_log_events", "Events committed.", value=stats.events)
        yield CounterMetricFamily("daybook_log_batches", "Transactions that they took.", value=stats.batches)
        yield CounterMetricFamily("daybook_log_conflicts", "Saves that came too late.", value=stats.conflicts)
        yield CounterMetricFamily("daybook_log_replays", "Repeats answered from memory.", value=stats.replays)
        yield CounterMetricFamily("daybook_log_retries", "Transactions tried again.", value=stats.retries)
        yield CounterMetricFamily("daybook_log_connects", "Connections that the writer opened.", value=stats.connects)
        yield GaugeMetricFamily("daybook_log_pending_saves", "Saves that wait to commit.", value=self._log.pending)
        yield GaugeMetricFamily(
            "daybook_log_head_position", "The last position that this process has heard of.", value=self._log.seen
        )
        for histogram in (self._saves, self._events, self._seconds):
            yield from histogram.collect()


class SigningMetrics(Collector):
    """How far the log is signed, by the process that signs it."""

    def __init__(self, checkpointer: Checkpointer) -> None:
        self._checkpointer = checkpointer

    def collect(self) -> Iterable[Metric]:
        altered = int(self._checkpointer.fault is not None)
        yield GaugeMetricFamily("daybook_log_signed_position", "Last signed position.", value=self._checkpointer.size)
        yield GaugeMetricFamily(
            "daybook_log_altered", "1 when the log no longer continues what was signed.", value=altered
        )


class BackupMetrics(Collector):
    """How old a backup is, and how far it goes. Nothing while there is none, which is as bad as one that is too old."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterable[Metric]:
        made = GaugeMetricFamily("daybook_backup_timestamp_seconds", "When the backup was last added to.")
        position = GaugeMetricFamily("daybook_backup_position", "Up to where the backup holds the log.")
        with suppress(OSError, Trouble):
            manifest = Manifest.load(self._folder)
            made.add_metric([], manifest.made_at.timestamp())
            position.add_metric([], manifest.position)
        yield made
        yield position


class AppliedMetrics:
    """What read models apply, as they tell it: the same in a follower and in a worker."""

    def __init__(self, registry: CollectorRegistry, clock: Clock) -> None:
        self._clock = clock
        self._events = Counter("daybook_projection_events", "Events applied, by model.", ["model"], registry=registry)
        self._seconds = Histogram(
            "daybook_projection_apply_seconds",
            "Time that a batch took to be applied, by model.",
            ["model"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._batches = Histogram(
            "daybook_projection_batch_events",
            "Events in one batch, by model.",
            ["model"],
            buckets=_COUNTS,
            registry=registry,
        )
        self._delay = Histogram(
            "daybook_projection_delay_seconds",
            "From being recorded to being visible, of the oldest event of each batch, by model.",
            ["model"],
            buckets=_AGES,
            registry=registry,
        )

    def watch(self, model: Model, *others: Callable[[Sequence[Recorded], float], None]) -> None:
        """Hear of what the model applies, `others` too."""
        name, clock = model.name, self._clock
        events, seconds = self._events.labels(name), self._seconds.labels(name)
        batches, delay = self._batches.labels(name), self._delay.labels(name)

        def applied(batch: Sequence[Recorded], took: float) -> None:
            events.inc(len(batch))
            seconds.observe(took)
            batches.observe(len(batch))
            oldest = min(batch[0].recorded_at, batch[-1].recorded_at)
            delay.observe(max(0.0, (clock.now() - oldest).total_seconds()))
            for other in others:
                other(batch, took)

        model.applied = applied


class _Lags:
    """How far read models are behind: the same names whoever fills them."""

    def __init__(self) -> None:
        self.events = GaugeMetricFamily(
            "daybook_projection_lag_events", "Events not applied yet.", labels=["model", "part"]
        )
        self.seconds = GaugeMetricFamily(
            "daybook_projection_lag_seconds", "Since when it is behind.", labels=["model", "part"]
        )
        self.position = GaugeMetricFamily(
            "daybook_projection_position", "Up to where it holds everything.", labels=["model"]
        )
        self.waiting = GaugeMetricFamily(
            "daybook_projection_waiting", "1 while it waits for its store or the log.", labels=["model"]
        )

    def all(self) -> tuple[Metric, ...]:
        return self.events, self.seconds, self.position, self.waiting


class ModelMetrics(Collector):
    """How far the read models are that a follower fills."""

    def __init__(self, follower: Follower, log: PostgresEventLog) -> None:
        self._follower = follower
        self._log = log

    def collect(self) -> Iterable[Metric]:
        lags = _Lags()
        failed = GaugeMetricFamily("daybook_projection_failed", "1 when it stopped at an event.", labels=["model"])
        for status in self._follower.last_known(self._log.seen):
            lags.events.add_metric([status.model, ""], status.lag)
            lags.seconds.add_metric([status.model, ""], status.behind)
            lags.position.add_metric([status.model], status.position)
            lags.waiting.add_metric([status.model], int(status.state is State.WAITING))
            failed.add_metric([status.model], int(status.failed_at is not None))
        yield from (*lags.all(), failed)


class WorkerMetrics(Collector):
    """How far the read models are in the parts that this worker was given."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def collect(self) -> Iterable[Metric]:
        lags = _Lags()
        for lag in self._worker.lags():
            lags.events.add_metric([lag.model, str(lag.part)], lag.events)
            lags.seconds.add_metric([lag.model, str(lag.part)], lag.seconds)
        parts = GaugeMetricFamily("daybook_worker_parts", "Parts that it was given, by model.", labels=["model"])
        mended = CounterMetricFamily(
            "daybook_worker_events_from_log", "Events that the topic did not bring, by model.", labels=["model"]
        )
        letters = CounterMetricFamily(
            "daybook_worker_dead_letters", "Events that the model could not take.", labels=["model"]
        )
        counts: dict[str, int] = {}
        for lag in self._worker.lags():
            counts[lag.model] = counts.get(lag.model, 0) + 1
        for progress in self._worker.progress():
            lags.position.add_metric([progress.model], progress.position)
            lags.waiting.add_metric([progress.model], int(progress.state is State.WAITING))
            parts.add_metric([progress.model], counts.get(progress.model, 0))
            mended.add_metric([progress.model], progress.from_log)
            letters.add_metric([progress.model], progress.letters)
        yield from (*lags.all(), parts, mended, letters)


class RelayMetrics(Collector):
    """What the relay of this process does."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay

    def collect(self) -> Iterable[Metric]:
        stats = self._relay.stats
        state = GaugeMetricFamily("daybook_relay_state", "1 for what it is doing.", labels=["state"])
        for one in RelayState:
            state.add_metric([one.value], int(stats.state is one))
        yield state
        yield GaugeMetricFamily("daybook_relay_position", "Up to where everything is published.", value=stats.position)
        yield GaugeMetricFamily("daybook_relay_lag_events", "Events not published yet.", value=stats.lag)
        yield CounterMetricFamily("daybook_relay_events", "Events published.", value=stats.events)
        yield CounterMetricFamily("daybook_relay_batches", "Transactions that they took.", value=stats.batches)
        yield CounterMetricFamily("daybook_relay_seconds", "Time spent in them.", value=stats.seconds)
        yield CounterMetricFamily("daybook_relay_takeovers", "How often it became active.", value=stats.taken_over)


def as_json(status: Status) -> dict[str, object]:
    return {
        "model": status.model,
        "state": status.state.value,
        "position": status.position,
        "head": status.head,
        "lag": status.lag,
        "error": status.error,
        "failed_at": status.failed_at,
        "events_per_second": status.events_per_second,
        "rebuilding": status.rebuilding,
    }
