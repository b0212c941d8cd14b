"""Figures of the log and of the read models for `/metrics`, read when they are asked for."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from infra.event_log.checkpoints import Checkpointer
from infra.event_log.log import PostgresEventLog
from streams.follower import Follower, Status


class LogMetrics(Collector):
    """What the writer of this process did."""

    def __init__(self, log: PostgresEventLog) -> None:
        self._log = log

    def collect(self) -> Iterable[Metric]:
        stats = self._log.stats
        yield CounterMetricFamily("daybook_log_saves", "Saves committed.", value=stats.saves)
        yield CounterMetricFamily("daybook_log_events", "Events committed.", value=stats.events)
        yield CounterMetricFamily("daybook_log_batches", "Transactions that they took.", value=stats.batches)
        yield CounterMetricFamily("daybook_log_conflicts", "Saves that came too late.", value=stats.conflicts)
        yield CounterMetricFamily("daybook_log_replays", "Repeats answered from memory.", value=stats.replays)


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


class ModelMetrics(Collector):
    """How far the read models are."""

    def __init__(self, follower: Follower) -> None:
        self._follower = follower

    def collect(self) -> Iterable[Metric]:
        lag = GaugeMetricFamily("daybook_projection_lag_events", "Events not applied yet.", labels=["model"])
        failed = GaugeMetricFamily("daybook_projection_failed", "1 when it stopped at an event.", labels=["model"])
        for status in self._follower.last_known():
            lag.add_metric([status.model], status.lag)
            failed.add_metric([status.model], int(status.failed_at is not None))
        yield lag
        yield failed


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
