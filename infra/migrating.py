"""Brings every store of the full stack to its newest shape. In: settings. Out: what was done, store by store.

A store that its settings don't name is passed by, so that a part of the stack can be prepared alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

import psycopg
from aiokafka.errors import KafkaError  # type: ignore[import-untyped]
from elasticsearch import ApiError, TransportError

from infra.event_log.schema import migrate
from infra.kafka.connections import Brokers
from infra.kafka.topics import Topics, set_up
from infra.search import search_at
from infra.settings import Settings
from infra.troubles import CannotStart
from projections import elastic


@dataclass(frozen=True, slots=True)
class Step:
    what: str
    done: str


def migrated(settings: Settings) -> Iterator[Step]:
    """Raises `CannotStart` where a store does not answer; what came before it is done and stays."""
    yield Step("postgres", _postgres(settings.postgres_owner_dsn or ""))
    if settings.kafka:
        yield Step("kafka", asyncio.run(_kafka(Brokers.of(settings), Topics.of(settings))))
    if settings.elasticsearch_url:
        yield Step("elasticsearch", asyncio.run(_elasticsearch(settings.elasticsearch_url)))


async def _kafka(brokers: Brokers, topics: Topics) -> str:
    try:
        made = await set_up(brokers, topics)
    except (KafkaError, OSError) as error:
        raise CannotStart(f"The topics could not be made: {type(error).__name__}.") from error
    return f"topics {', '.join(made)} made" if made else "nothing to do"


async def _elasticsearch(url: str) -> str:
    async with search_at(url) as client:
        try:
            await elastic.migrate(client)
        except (ApiError, TransportError) as error:
            raise CannotStart(f"The index template could not be set: {type(error).__name__}.") from error
    return "index template set"


def _postgres(dsn: str) -> str:
    try:
        applied = migrate(dsn)
    except psycopg.Error as error:
        raise CannotStart(f"Postgres could not be migrated: {type(error).__name__} {error.sqlstate or ''}.") from error
    return f"migrations {', '.join(map(str, applied))} applied" if applied else "nothing to do"
