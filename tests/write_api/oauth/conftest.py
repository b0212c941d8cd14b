"""A running authorization server, and Ada, who has an account."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from domain.access import Actor
from tests.conftest import Database
from tests.signing_in import App, House, running


@pytest.fixture
async def house(database: Database, tmp_path: Path) -> AsyncIterator[House]:
    async with running(database.app, tmp_path) as house:
        yield house


@pytest.fixture
async def ada(house: House) -> Actor:
    return await house.people.patient()


@pytest.fixture
async def app(house: House, ada: Actor) -> App:
    return await house.app()
