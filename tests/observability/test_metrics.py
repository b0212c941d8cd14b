"""What is counted, by asking the real parts for real things."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redis.asyncio
from prometheus_client import CollectorRegistry

from commands.appointments import BookAppointment
from commands.loop import Desk
from domain.ports import KeyReused
from domain.slots import SlotTaken
from infra.event_log.log import PostgresEventLog
from infra.holidays import PublicHolidays
from infra.ids import TimeOrderedIds
from infra.keyring import MasterKeyFile, PostgresKeyring
from infra.metrics import AppliedMetrics, BackupMetrics, CommandMetrics, LogMetrics, ModelMetrics, loop_watched
from projections.free_time import FreeTime
from projections.redis_store import RedisStore
from streams.follower import Follower
from tests.clinic import CHECKUP, DESK, LOCATION, ORGANIZATION, in_days, open_clinic
from tests.conftest import Database


@pytest.fixture
async def log(database: Database, tmp_path: Path) -> AsyncIterator[PostgresEventLog]:
    keyring = PostgresKeyring(database.app, MasterKeyFile.at(tmp_path / "master.key"))
    async with PostgresEventLog(database.app, keyring) as opened:
        yield opened
    await keyring.close()


@pytest.fixture
def desk(log: PostgresEventLog) -> Desk:
    return Desk(log, log.clock, TimeOrderedIds(), PublicHolidays())


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


async def test_commands_are_counted_by_name_and_by_how_they_ended(desk: Desk, registry: CollectorRegistry) -> None:
    clinic = await open_clinic(desk, patients=2)
    CommandMetrics(desk, registry)
    booking = BookAppointment(
        patient_id=clinic.patients[0],
        provider_id=clinic.provider,
        location_id=LOCATION.id,
        visit_type_id=CHECKUP.id,
        start=in_days(3),
    )
    for _ in range(2):
        await desk.handle(booking, DESK, ORGANIZATION, key="once")
    with pytest.raises(SlotTaken):
        await desk.handle(booking.model_copy(update={"patient_id": clinic.patients[1]}), DESK, ORGANIZATION)
    with pytest.raises(KeyReused):
        await desk.handle(booking.model_copy(update={"start": in_days(4)}), DESK, ORGANIZATION, key="once")

    def count(outcome: str) -> float | None:
        return registry.get_sample_value("daybook_commands_total", {"command": "BookAppointment", "outcome": outcome})

    assert [count(one) for one in ("done", "replayed", "refused", "key_reused")] == [1, 1, 1, 1]
    refused = {"command": "BookAppointment", "code": "slot_taken"}
    assert registry.get_sample_value("daybook_refusals_total", refused) == 1
    assert registry.get_sample_value("daybook_command_seconds_count", {"command": "BookAppointment"}) == 4
    assert (registry.get_sample_value("daybook_command_decisions_repeated_total", {"why": "second_look"}) or 0) >= 1
    assert registry.get_sample_value("daybook_page_queue_waiting") == 0


async def test_commands_that_wait_for_a_page_are_seen(desk: Desk) -> None:
    page = [("elm", "page/1")]
    await desk.queues.take(page)
    waiting = [asyncio.create_task(desk.queues.take(page)) for _ in range(3)]
    await asyncio.sleep(0)
    assert desk.queues.waiting == 3
    for task in waiting:
        desk.queues.leave(page)
        await task
    desk.queues.leave(page)
    assert desk.queues.waiting == 0


async def test_transactions_are_measured(desk: Desk, log: PostgresEventLog, registry: CollectorRegistry) -> None:
    registry.register(LogMetrics(log))
    await open_clinic(desk, patients=4)
    batches = registry.get_sample_value("daybook_log_transaction_seconds_count")
    assert batches == log.stats.batches
    assert registry.get_sample_value("daybook_log_batch_events_sum") == log.stats.events
    assert registry.get_sample_value("daybook_log_batch_saves_sum") == log.stats.saves
    assert registry.get_sample_value("daybook_log_head_position") == await log.head()
    assert registry.get_sample_value("daybook_log_pending_saves") == 0


async def test_a_read_model_tells_how_far_it_is(
    desk: Desk, log: PostgresEventLog, registry: CollectorRegistry, redis_server: str
) -> None:
    async with redis.asyncio.from_url(redis_server) as client:
        await client.flushdb()
        model = FreeTime(RedisStore(client, "free_time"))
        follower = Follower(log, [model])
        AppliedMetrics(registry, log.clock).watch(model)
        registry.register(ModelMetrics(follower, log))

        def value(name: str, **labels: str) -> float:
            return registry.get_sample_value(f"daybook_projection_{name}", {"model": "free_time", **labels}) or 0.0

        await open_clinic(desk, patients=2)
        head = await log.head()
        assert value("lag_events", part="") == head
        async with follower:
            assert await follower.caught_up(10)
            await asyncio.sleep(0.1)
            assert (value("lag_events", part=""), value("lag_seconds", part="")) == (0, 0)
            assert (value("position"), value("events_total"), value("failed")) == (head, head, 0)
            assert value("delay_seconds_count") == value("apply_seconds_count") > 0


async def test_a_backup_that_is_not_there_is_not_told(registry: CollectorRegistry, tmp_path: Path) -> None:
    registry.register(BackupMetrics(tmp_path))
    assert registry.get_sample_value("daybook_backup_timestamp_seconds") is None


async def test_a_busy_event_loop_is_seen(registry: CollectorRegistry) -> None:
    async with loop_watched(registry):
        await asyncio.sleep(0)
        end = asyncio.get_running_loop().time() + 0.6
        while asyncio.get_running_loop().time() < end:
            pass
        await asyncio.sleep(0.01)
    assert (registry.get_sample_value("daybook_event_loop_lag_seconds_sum") or 0) >= 0.2
