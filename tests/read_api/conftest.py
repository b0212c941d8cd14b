"""Both APIs over real stores, and a clinic."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from infra.embedded.clickhouse import ClickHouse
from tests.clinic import Clinic
from tests.conftest import Database
from tests.served import Served, served


@pytest.fixture
async def book(database: Database, redis_server: str, tmp_path: Path) -> AsyncIterator[Served]:
    async with served(database.app, redis_server, None, tmp_path) as book:
        yield book


@pytest.fixture
async def figures(
    database: Database, redis_server: str, clickhouse: ClickHouse, tmp_path: Path
) -> AsyncIterator[Served]:
    """With figures, which take a second to set up."""
    async with served(database.app, redis_server, clickhouse, tmp_path) as book:
        yield book


@pytest.fixture
async def clinic(book: Served) -> Clinic:
    return await book.clinic(patients=3, rooms=2)
