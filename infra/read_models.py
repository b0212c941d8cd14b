"""Opens the read models on their stores. In: an installation. Out: models by name, closed again in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import cast

from domain.ports import Clock
from infra.clock import DatabaseClock
from infra.installation import Installation
from infra.live_views import live_views_at
from infra.settings import MODELS
from projections.diary import AppointmentDiary
from projections.directory import Directory, Index
from projections.facts import Facts
from projections.free_time import FreeTime
from projections.model import Model
from projections.people import People
from projections.redis_store import RedisStore
from projections.sqlite import SqliteIndex

_LINGER = 0.2


class ReadModels:
    """Those that were opened. Asking for another raises `KeyError`."""

    def __init__(self, models: Mapping[str, Model]) -> None:
        self._models = models

    def __getitem__(self, name: str) -> Model:
        return self._models[name]

    @property
    def all(self) -> Sequence[Model]:
        return list(self._models.values())

    @property
    def diary(self) -> AppointmentDiary:
        return cast("AppointmentDiary", self._models["diary"])

    @property
    def free_time(self) -> FreeTime:
        return cast("FreeTime", self._models["free_time"])

    @property
    def people(self) -> People:
        return cast("People", self._models["people"])

    @property
    def facts(self) -> Facts:
        return cast("Facts", self._models["facts"])

    @property
    def directory(self) -> Directory | None:
        """None where the installation names no search index."""
        return cast("Directory | None", self._models.get("directory"))


@asynccontextmanager
async def models_on(
    place: Installation, names: Iterable[str] = MODELS, clock: Clock | None = None
) -> AsyncIterator[ReadModels]:
    """The models of these names, and only their stores. `clock` is this machine's where there is none better."""
    wanted = set(names)
    if not place.index:
        wanted.discard("directory")
    async with AsyncExitStack() as stack:
        models: dict[str, Model] = {}
        if wanted & {"diary", "free_time", "people", "directory"}:
            client = await stack.enter_async_context(live_views_at(place.redis))
            if "diary" in wanted:
                models["diary"] = AppointmentDiary(RedisStore(client, "diary"))
            if "people" in wanted:
                models["people"] = People(RedisStore(client, "people"), place.keys.search())
            free_time = FreeTime(RedisStore(client, "free_time"))
            if "free_time" in wanted:
                models["free_time"] = free_time
        if "facts" in wanted:
            analytics = place.analytics()
            stack.push_async_callback(asyncio.to_thread, analytics.close)
            filler, reader = await asyncio.to_thread(lambda: (analytics.connect(), analytics.connect()))
            facts = Facts(filler, reader)
            if place.settings.stack == "full":
                # A server that many insert into is better served by fewer, larger inserts; a second is allowed here.
                facts.linger = _LINGER
            stack.push_async_callback(facts.close)
            models["facts"] = facts
        if "directory" in wanted:
            index = await stack.enter_async_context(_index(place.index))
            models["directory"] = Directory(index, free_time, clock or DatabaseClock())
        yield ReadModels(models)


@asynccontextmanager
async def _index(place: str | Path) -> AsyncIterator[Index]:
    if isinstance(place, Path):
        file = SqliteIndex(place)
        try:
            yield file
        finally:
            await file.close()
        return
    # A second of import, for those who need it.
    from infra.search import search_at  # noqa: PLC0415
    from projections.elastic import ElasticIndex  # noqa: PLC0415

    async with search_at(place) as client:
        yield ElasticIndex(client)
