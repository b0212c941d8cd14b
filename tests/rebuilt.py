"""Whether read models show what a rebuild from the log would show, row by row.

In: an installation. Out: nothing, or what differs. The models that it keeps are read whole, and compared with others
that are filled from the same log here and now, in one go and in order.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from redis.asyncio import Redis

from domain.ports import FixedClock, Recorded
from infra.desk import log_on
from infra.installation import Installation
from infra.read_models import models_on
from projections.diary import AppointmentDiary
from projections.directory import Directory, Index, Question
from projections.documents import DocumentModel
from projections.facts import Facts
from projections.free_time import FreeTime
from projections.memory import MemoryStore
from projections.model import Model
from projections.people import People
from projections.sqlite import SqliteIndex
from tests.house import PATIENCE, history_of

Rows = Mapping[str, Any]

_IN_REDIS: tuple[type[DocumentModel], ...] = (AppointmentDiary, FreeTime, People)
_TRIES = 5


async def assert_equals_a_rebuild(place: Installation) -> Sequence[Recorded]:
    """Every model catches up, and then holds what a rebuild holds. Returns the log."""
    for _ in range(_TRIES):
        await caught_up(place)
        history = await history_of(place)
        now = datetime.now(UTC)
        found, wanted = await shown(place, history, now), await anew(place, history, now)
        if await _head(place) == len(history):
            break
    for model, rows in wanted.items():
        assert_same(model, found[model], rows)
    return history


def assert_same(model: str, found: Rows, wanted: Rows) -> None:
    missing, besides = wanted.keys() - found.keys(), found.keys() - wanted.keys()
    assert not missing, f"{model}: {len(missing)} rows are missing, such as {sorted(missing)[:3]}"
    assert not besides, f"{model}: {len(besides)} rows are there that should not, such as {sorted(besides)[:3]}"
    other = [name for name in wanted if found[name] != wanted[name]]
    assert not other, (
        f"{model}: {len(other)} rows are not as they should be, such as {other[0]}:\n"
        f"  shown   {found[other[0]]}\n  rebuilt {wanted[other[0]]}"
    )


async def caught_up(place: Installation) -> int:
    """Wait until every model is as far as the log is now; return how far that is."""
    head = await _head(place)
    give_up = time.monotonic() + PATIENCE
    async with models_on(place) as models:
        for model in models.all:
            while (position := await _position(model)) < head:
                if time.monotonic() > give_up:
                    parts = dict(await model.positions())
                    raise AssertionError(f"{model.name} stands at {position} of {head}: {parts}")
                await asyncio.sleep(0.1)
    return head


async def _position(model: Model) -> int:
    try:
        return await model.position()
    except Exception:  # whatever a store raises that is not back yet
        return -1


async def _head(place: Installation) -> int:
    async with log_on(place) as log:
        return await log.head()


async def shown(place: Installation, history: Sequence[Recorded], now: datetime) -> dict[str, Rows]:
    """Every row of every model, by name. What the clock changes is as it is at `now`."""
    found: dict[str, Rows] = {}
    async with models_on(place) as models, Redis.from_url(place.redis) as client:
        for kind in _IN_REDIS:
            found[kind.name] = await _in_redis(client, kind.name)
        if models.directory is not None:
            await models.directory.refresh(now)
            found["directory"] = await _entries(models.directory.index, history)
    found["facts"] = await asyncio.to_thread(_in_clickhouse, place, "daybook")
    return found


async def anew(place: Installation, history: Sequence[Recorded], now: datetime) -> dict[str, Rows]:
    """What a rebuild shows."""
    found: dict[str, Rows] = {}
    diary, free_time = MemoryStore(), MemoryStore()
    await AppointmentDiary(diary).apply(history)
    found["diary"] = {**diary.kept, **diary.lists}
    times = FreeTime(free_time)
    await times.apply(history)
    found["free_time"] = {**free_time.kept, **free_time.lists}
    people = MemoryStore()
    await People(people, place.keys.search()).apply(history)
    found["people"] = {**people.kept, **people.lists}
    if place.index:
        with tempfile.TemporaryDirectory() as folder:
            index = SqliteIndex(Path(folder) / "anew.sqlite")
            await Directory(index, times, FixedClock(now)).apply(history)
            found["directory"] = await _entries(index, history)
            await index.close()
    analytics = place.analytics()
    database = f"rebuilt_{uuid4().hex}"
    facts = Facts(analytics.connect(), analytics.connect(), database=database)
    try:
        await facts.apply(history)
        found["facts"] = await asyncio.to_thread(_in_clickhouse, place, database)
    finally:
        await facts.close()
        await asyncio.to_thread(analytics.connect().command, f"DROP DATABASE IF EXISTS {database}")
    return found


async def _in_redis(client: Any, model: str) -> Rows:
    live = (await client.get(f"daybook:{model}:live") or b"1").decode()
    prefix = f"daybook:{model}:{live}:"
    found: dict[str, Any] = {}
    keys = [key async for key in client.scan_iter(match=f"{prefix}*", count=1000)]
    for key in keys:
        name = key.decode().removeprefix(prefix)
        match await client.type(key):
            case b"string":
                found[name] = await client.get(key)
            case b"zset":
                found[name] = [line.decode() for line in await client.zrange(key, 0, -1)]
            case _:
                assert name == "positions", f"nobody knows {name}"
    return found


async def _entries(index: Index, history: Sequence[Recorded]) -> Rows:
    organizations = {one.organization for one in history}
    entries = [one.entry for where in organizations for one in await index.find(where, Question(limit=1000))]
    return {f"{one.organization}/{one.provider_id}": one.model_dump() for one in entries}


def _in_clickhouse(place: Installation, database: str) -> Rows:
    client = place.analytics().connect()
    appointments = client.query(
        f"SELECT concat(organization, '/', toString(appointment_id)) AS name, * FROM {database}.appointments"
    )
    # In which part of the log an event came differs from one way of filling to the other.
    events = client.query(f"SELECT toString(position) AS name, * EXCEPT part FROM {database}.events")
    rows = [*appointments.result_rows, *events.result_rows]
    found = {row[0]: tuple(row[1:]) for row in rows}
    assert len(found) == len(rows), "a row is there twice"
    return found
