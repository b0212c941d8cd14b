"""Postgres away under load: bookings wait for it, and nothing that was acknowledged is lost."""

from __future__ import annotations

import asyncio

from tests.house import FullHouse
from tests.load import assert_recovered, loaded


async def test_postgres_restarted_in_order_and_killed(full_house: FullHouse, organization: str) -> None:
    async with loaded(full_house, organization, pace=40) as load:
        for end in (full_house.postgres.stop, full_house.kill_postgres) * 2:
            await asyncio.to_thread(end)
            before = load.answers
            await asyncio.sleep(1)
            # What was acknowledged just before may still be on its way; nothing new is.
            assert load.answers - before <= 8
            await asyncio.to_thread(full_house.start_postgres)
            await load.more(40)
        assert load.acknowledged
        await assert_recovered(full_house, load)


async def test_the_write_api_killed(full_house: FullHouse, organization: str) -> None:
    async with loaded(full_house, organization, pace=40) as load:
        for _ in range(3):
            await asyncio.to_thread(full_house.services["write"].restart)
            await load.more(40)
        await assert_recovered(full_house, load)
