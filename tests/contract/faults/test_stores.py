"""A read store away or emptied, under load: bookings go on, and afterwards its models show what a rebuild shows."""

from __future__ import annotations

import asyncio

import clickhouse_connect

from tests.house import FullHouse
from tests.load import assert_recovered, loaded

# So many commands are acknowledged while something is away.
MEANWHILE = 60


async def test_redis_flushed(full_house: FullHouse, organization: str) -> None:
    async with loaded(full_house, organization) as load:
        for _ in range(2):
            await asyncio.to_thread(full_house.empty, "redis")
            await load.more(MEANWHILE)
        await assert_recovered(full_house, load)


async def test_redis_killed_and_started_empty(full_house: FullHouse, organization: str) -> None:
    async with loaded(full_house, organization) as load:
        await asyncio.to_thread(full_house.kill_redis)
        await load.more(MEANWHILE)
        (full_house.data.redis / "appendonly.aof").unlink()
        await asyncio.to_thread(full_house.start_redis)
        await load.more(MEANWHILE)
        await assert_recovered(full_house, load)


async def test_redis_killed_and_started_on_what_it_kept(full_house: FullHouse, organization: str) -> None:
    async with loaded(full_house, organization) as load:
        for _ in range(2):
            await asyncio.to_thread(full_house.kill_redis)
            await load.more(MEANWHILE // 3)
            await asyncio.to_thread(full_house.start_redis)
            await load.more(MEANWHILE // 3)
        await assert_recovered(full_house, load)


async def test_clickhouse_killed(full_house: FullHouse, organization: str) -> None:
    async with loaded(full_house, organization) as load:
        for _ in range(2):
            await asyncio.to_thread(full_house.clickhouse.kill)
            await load.more(MEANWHILE)
            await asyncio.to_thread(full_house.clickhouse.start)
            await load.more(MEANWHILE // 3)
        await assert_recovered(full_house, load)


async def test_clickhouse_refuses_inserts_for_it_has_too_many_parts(full_house: FullHouse, organization: str) -> None:
    client = clickhouse_connect.get_client(dsn=full_house.clickhouse.url)
    async with loaded(full_house, organization) as load:
        for kind in ("appointment", "event", "progress"):
            tables = [
                row[0]
                for row in client.query(
                    f"SELECT name FROM system.tables WHERE database = 'daybook' AND name LIKE '{kind}_facts_%'"
                ).result_rows
            ]
            for name in tables:
                client.command(
                    f"ALTER TABLE daybook.{name} MODIFY SETTING parts_to_throw_insert = 1, parts_to_delay_insert = 0"
                )
            await load.more(MEANWHILE // 3)
            for name in tables:
                client.command(f"ALTER TABLE daybook.{name} RESET SETTING parts_to_throw_insert, parts_to_delay_insert")
        client.close()
        await assert_recovered(full_house, load)
