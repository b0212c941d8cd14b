"""A log with a clinic's day in it, made through both APIs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.clinic import Clinic
from tests.conftest import Database
from tests.served import Served, served


@pytest.fixture
async def book(database: Database, redis_server: str, tmp_path: Path) -> AsyncIterator[Served]:
    async with served(database.app, redis_server, None, tmp_path) as book:
        yield book


@pytest.fixture
async def clinic(book: Served) -> Clinic:
    return await book.clinic(patients=3)
