"""Real read stores for tests: a Redis server and a ClickHouse engine, shared, with room of its own for each test."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from itertools import count
from pathlib import Path

import pytest
import redis.asyncio
from clickhouse_connect.driver.client import Client

from infra.embedded.clickhouse import ClickHouse
from infra.embedded.data_folder import DataFolder
from infra.embedded.redis import Redis
from projections.facts import Facts

_numbers = count(1)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Redis]:
    # A socket's path is short, so the folder stands near the root.
    folder = Path(tempfile.mkdtemp(prefix="daybook-redis-", dir="/tmp"))
    server = Redis(DataFolder.open(folder))
    server.ensure_running()
    yield server
    server.stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
async def live_views(redis_server: Redis) -> AsyncIterator[redis.asyncio.Redis]:
    """A client of an empty Redis."""
    async with redis.asyncio.Redis.from_url(redis_server.url) as client:
        await client.flushall()
        yield client


@pytest.fixture(scope="module")
def engine() -> Iterator[ClickHouse]:
    """The engine of this process. Module by module, since only one folder can be open in a process at a time."""
    folder = Path(tempfile.mkdtemp(prefix="daybook-clickhouse-"))
    engine = ClickHouse(folder)
    yield engine
    engine.close()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def analytics(engine: ClickHouse) -> Iterator[tuple[Client, Client, str]]:
    """Two clients and the name of a database that is not there yet."""
    client, reader, database = engine.connect(), engine.connect(), f"daybook_{next(_numbers)}"
    yield client, reader, database
    client.command(f"DROP DATABASE IF EXISTS {database}")


@pytest.fixture
async def facts(analytics: tuple[Client, Client, str]) -> AsyncIterator[Facts]:
    client, reader, database = analytics
    facts = Facts(client, reader, database=database)
    yield facts
    await facts.close()
