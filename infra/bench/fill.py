"""All read models filled in the process, from a real log: how many events a second the whole gets through.

The log holds what a clinic group's does: bookings with the pages that they occupy, a quarter of them with a sealed
reason, and what became of each. Diary and free time go to Redis and the facts to the ClickHouse engine, by the same
follower that serves. Then each model is filled alone, and the log only read, to show where the time goes.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import redis.asyncio
import uvloop

from domain import appointment, availability, patient, provider, reminder
from domain.appointment import (
    AppointmentBooked,
    AppointmentCancelled,
    CancellationReason,
    Outcome,
    Party,
    PatientDidNotCome,
    VisitCompleted,
)
from domain.availability import ReleaseReason, TimeReleased, TimeReserved
from domain.events import Event
from domain.patient import PatientRegistered
from domain.ports import Context, NewEvent, Save
from domain.provider import Mode, Money, ProviderRegistered
from domain.reminder import Channel, ReminderSent
from domain.time import Period
from infra.bench.served import folder
from infra.embedded.clickhouse import ClickHouse
from infra.embedded.data_folder import DataFolder
from infra.embedded.postgres import Postgres
from infra.embedded.redis import Redis
from infra.event_log.log import PostgresEventLog
from infra.event_log.schema import app_dsn, migrate
from infra.garbage import few_collections
from infra.ids import TimeOrderedIds
from infra.keyring import MasterKeyFile, PostgresKeyring
from infra.turns import short_turns
from projections.diary import AppointmentDiary
from projections.facts import Facts
from projections.free_time import FreeTime
from projections.model import Model
from projections.redis_store import RedisStore
from streams.follower import Feed, Follower

EVENTS = 200_000
HOLD = 20_000
ORGANIZATION = "bench"
PROVIDERS, PATIENTS = 60, 2_000
_SAVE = 1_000
_FIRST = datetime(2026, 1, 5, 8, tzinfo=UTC)


def run(size: float = 1.0) -> dict[str, Any]:
    """`figure` is events a second with everything running: reading, three models, two stores."""
    events = max(5_000, int(EVENTS * size))
    with folder("fill") as data:
        opened = DataFolder.open(data)
        postgres, live_views, engine = Postgres(opened), Redis(opened), ClickHouse(opened.clickhouse)
        postgres.ensure_running()
        live_views.ensure_running()
        try:
            migrate(postgres.dsn())
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                return runner.run(_measure(app_dsn(postgres.dsn()), live_views.url, engine, data, events))
        finally:
            engine.close()
            live_views.stop()
            postgres.stop()


async def _measure(dsn: str, url: str, engine: ClickHouse, data: Path, events: int) -> dict[str, Any]:
    keyring = PostgresKeyring(dsn, MasterKeyFile.at(data / "master.key"))
    async with PostgresEventLog(dsn, keyring) as log, redis.asyncio.Redis.from_url(url) as client:
        await _write(log, events)
        head = await log.head()
        names = [AppointmentDiary.name, FreeTime.name, Facts.name]
        # What a process pays once: the first client, the first insert.
        await _filled(log, client, engine, names, "warm", upto=2_000)
        rates, processor = [], []
        with few_collections(), short_turns():
            for number in range(3):
                seconds, used = await _filled(log, client, engine, names, f"all_{number}")
                rates.append(head / seconds)
                processor.append(used)
            alone = {name: head / (await _filled(log, client, engine, [name], f"only_{name}"))[0] for name in names}
            read = head / await _read(log)
            lags = await _lags(log, client, engine)
    await keyring.close()
    figure = sorted(rates)[1]
    return {
        "figure": round(figure),
        "unit": "events/s",
        "baseline": HOLD,
        "ratio": round(figure / HOLD, 3),
        "holds": figure >= HOLD,
        "details": {
            "events": head,
            "rates": [round(rate) for rate in rates],
            "processor_seconds_of_this_process": [round(used, 2) for used in processor],
            "alone_per_second": {name: round(rate) for name, rate in alone.items()},
            "only_read_per_second": round(read),
            "live_lag_ms": lags,
        },
    }


def _models(client: redis.asyncio.Redis, engine: ClickHouse, names: Sequence[str], where: str) -> list[Model]:
    made: list[Model] = []
    for name in names:
        if name == AppointmentDiary.name:
            made.append(AppointmentDiary(RedisStore(client, f"{where}_diary")))
        elif name == FreeTime.name:
            made.append(FreeTime(RedisStore(client, f"{where}_free_time")))
        else:
            made.append(Facts(engine.connect(), engine.connect(), database=f"bench_{where}"))
    return made


async def _filled(
    log: PostgresEventLog,
    client: redis.asyncio.Redis,
    engine: ClickHouse,
    names: Sequence[str],
    where: str,
    upto: int | None = None,
) -> tuple[float, float]:
    """Wall and processor seconds until every model is as far as the log."""
    models = _models(client, engine, names, where)
    head = await log.head()
    began, used = time.perf_counter(), time.process_time()
    async with Follower(log, models):
        if not all(await asyncio.gather(*(model.wait_until(upto or head, 600) for model in models))):
            raise TimeoutError("a model did not get to the end")
        took = time.perf_counter() - began, time.process_time() - used
    await _closed(models)
    return took


async def _read(log: PostgresEventLog) -> float:
    feed, position = Feed(log), 0
    began = time.perf_counter()
    while batch := await feed.after(position, 2_000):
        position = batch[-1].position
    return time.perf_counter() - began


async def _lags(log: PostgresEventLog, client: redis.asyncio.Redis, engine: ClickHouse) -> dict[str, dict[str, float]]:
    """Milliseconds from acknowledged to visible in each model, with some hundred bookings a second coming in."""
    names = [AppointmentDiary.name, FreeTime.name, Facts.name]
    models = _models(client, engine, names, "lag")
    lags: dict[str, list[float]] = {name: [] for name in names}
    bookings = list(_bookings(2, 600, _FIRST + timedelta(days=1000)))
    async with Follower(log, models) as follower:
        if not await follower.caught_up(600):
            raise TimeoutError("a model did not get to the end")

        async def seen(model: Model, position: int) -> None:
            began = time.perf_counter()
            await model.wait_until(position, 30)
            lags[model.name].append(1000 * (time.perf_counter() - began))

        waiting: list[asyncio.Task[None]] = []
        versions: dict[str, int] = {}
        for events in bookings:
            saved = await log.append(_save(events, versions))
            waiting += [asyncio.create_task(seen(model, saved.position)) for model in models]
            await asyncio.sleep(0.003)
        await asyncio.gather(*waiting)
    await _closed(models)
    return {
        name: {"p50": round(sorted(some)[len(some) // 2], 1), "p99": round(sorted(some)[len(some) * 99 // 100], 1)}
        for name, some in lags.items()
    }


async def _closed(models: Sequence[Model]) -> None:
    for model in models:
        if isinstance(model, Facts):
            await model.close()


_ids = TimeOrderedIds()
_PEOPLE = [uuid4() for _ in range(PATIENTS)]
_STAFF = [uuid4() for _ in range(PROVIDERS)]
_PLACE, _VISIT = uuid4(), uuid4()
_FEE = Money.model_validate({"amount": "80.00", "currency": "EUR"})


async def _write(log: PostgresEventLog, events: int) -> None:
    people: list[tuple[str, Event]] = [(patient.stream(key), PatientRegistered(patient_id=key)) for key in _PEOPLE]
    people += [(provider.stream(key), ProviderRegistered(provider_id=key, name="Dr. Bench")) for key in _STAFF]
    for start in range(0, len(people), _SAVE):
        await log.append(_save(people[start : start + _SAVE]))
    versions: dict[str, int] = {}
    gathered: list[tuple[str, Event]] = []
    for told in _bookings(1, events, _FIRST):
        gathered += told
        if len(gathered) >= _SAVE:
            await log.append(_save(gathered, versions))
            gathered = []
        if await log.head() >= events:
            return


def _save(events: Sequence[tuple[str, Event]], versions: dict[str, int] | None = None) -> Save:
    versions = {} if versions is None else versions
    expected = {stream: versions.get(stream, 0) for stream, _ in events}
    for stream, _ in events:
        versions[stream] = versions.get(stream, 0) + 1
    now = datetime.now(UTC)
    new = [NewEvent(stream, event, now, _ids.new()) for stream, event in events]
    return Save(Context(ORGANIZATION, "bench", _ids.new(), _ids.new()), expected, new)


def _bookings(seed: int, count: int, first: datetime) -> Iterator[list[tuple[str, Event]]]:
    """Bookings, one after the other, and with each the end of an earlier one."""
    chance = random.Random(seed)  # noqa: S311
    open_ones: list[AppointmentBooked] = []
    for number in range(count):
        start = first + timedelta(days=number // (PROVIDERS * 16), minutes=30 * (number // PROVIDERS % 16))
        period = Period(start, start + timedelta(minutes=30))
        booked = AppointmentBooked(
            appointment_id=_ids.new(),
            patient_id=chance.choice(_PEOPLE),
            provider_id=_STAFF[number % PROVIDERS],
            location_id=_PLACE,
            visit_type_id=_VISIT,
            mode=Mode.IN_PERSON,
            period=period,
            occupied=period,
            time_zone="Europe/Berlin",
            session_id=uuid4(),
            fee=_FEE,
            by=Party.PATIENT,
            reason="a few words about it" if number % 4 == 0 else None,
        )
        told: list[tuple[str, Event]] = [(appointment.stream(booked.appointment_id), booked)]
        told += [_page(TimeReserved, owner, booked) for owner in (booked.provider_id, booked.patient_id)]
        open_ones.append(booked)
        if len(open_ones) > 500:
            told += _ended(open_ones.pop(chance.randrange(len(open_ones))), chance)
        yield told


def _ended(booked: AppointmentBooked, chance: random.Random) -> list[tuple[str, Event]]:
    stream = appointment.stream(booked.appointment_id)
    who: dict[str, UUID] = {
        "appointment_id": booked.appointment_id,
        "patient_id": booked.patient_id,
        "provider_id": booked.provider_id,
    }
    told: list[tuple[str, Event]] = []
    if chance.random() < 0.3:
        sent = ReminderSent(
            reminder_id=_ids.new(),
            appointment_id=booked.appointment_id,
            patient_id=booked.patient_id,
            channel=Channel.SMS,
        )
        told.append((reminder.stream(sent.reminder_id), sent))
    lot = chance.random()
    if lot < 0.15:
        cancelled = AppointmentCancelled(**who, reason=CancellationReason.PATIENT_REQUEST, by=Party.PATIENT)
        told.append((stream, cancelled))
        told += [_page(TimeReleased, owner, booked) for owner in (booked.provider_id, booked.patient_id)]
    elif lot < 0.35:
        told.append((stream, PatientDidNotCome(**who)))
    else:
        told.append((stream, VisitCompleted(**who, outcome=Outcome.DONE)))
    return told


def _page(kind: type[TimeReserved] | type[TimeReleased], owner: UUID, booked: AppointmentBooked) -> tuple[str, Event]:
    day = booked.period.start.date()
    stream = availability.page_stream(owner, day)
    if kind is TimeReleased:
        key = booked.appointment_id
        released = TimeReleased(resource_id=owner, day=day, appointment_id=key, reason=ReleaseReason.CANCELLED)
        return stream, released
    reserved = TimeReserved(
        resource_id=owner,
        day=day,
        appointment_id=booked.appointment_id,
        visit=booked.period,
        occupied=booked.occupied,
        session_id=booked.session_id,
    )
    return stream, reserved
