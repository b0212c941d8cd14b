"""Opens the read models on their stores. In: an installation. Out: models by name, closed again in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import cast

import redis.asyncio

from infra.installation import Installation
from infra.settings import MODELS
from projections.diary import AppointmentDiary
from projections.facts import Facts
from projections.free_time import FreeTime
from projections.model import Model
from projections.redis_store import RedisStore


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
    def facts(self) -> Facts:
        return cast("Facts", self._models["facts"])


@asynccontextmanager
async def models_on(place: Installation, names: Iterable[str] = MODELS) -> AsyncIterator[ReadModels]:
    """The models of these names, and only their stores."""
    wanted = set(names)
    async with AsyncExitStack() as stack:
        models: dict[str, Model] = {}
        if wanted & {"diary", "free_time"}:
            client = await stack.enter_async_context(redis.asyncio.Redis.from_url(place.redis))
            if "diary" in wanted:
                models["diary"] = AppointmentDiary(RedisStore(client, "diary"))
            if "free_time" in wanted:
                models["free_time"] = FreeTime(RedisStore(client, "free_time"))
        if "facts" in wanted:
            analytics = place.analytics()
            stack.push_async_callback(asyncio.to_thread, analytics.close)
            filler, reader = await asyncio.to_thread(lambda: (analytics.connect(), analytics.connect()))
            facts = Facts(filler, reader)
            stack.push_async_callback(facts.close)
            models["facts"] = facts
        yield ReadModels(models)
