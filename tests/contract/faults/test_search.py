"""Elasticsearch away, red or emptied, under load: bookings go on, and the directory ends up as a rebuild would."""

from __future__ import annotations

import asyncio

import httpx

from tests.house import FullHouse
from tests.load import assert_recovered, loaded

MEANWHILE = 60


async def test_elasticsearch_down_then_red_then_back(full_house: FullHouse, organization: str) -> None:
    async with loaded(full_house, organization) as load, httpx.AsyncClient(timeout=60) as search:
        await asyncio.to_thread(full_house.elasticsearch.kill)
        await load.more(MEANWHILE)
        await asyncio.to_thread(full_house.elasticsearch.start)
        await load.more(MEANWHILE // 3)

        url = full_house.elasticsearch.url
        indexes = await _indexes(search, url)
        # Nowhere to go: after it was closed and opened again no shard of it is anywhere.
        nowhere = {"index.routing.allocation.require._name": "nobody"}
        for name in indexes:
            (await search.put(f"{url}/{name}/_settings", json=nowhere)).raise_for_status()
            (await search.post(f"{url}/{name}/_close")).raise_for_status()
            (await search.post(f"{url}/{name}/_open?wait_for_active_shards=0")).raise_for_status()
        assert (await search.get(f"{url}/_cluster/health")).json()["status"] == "red"
        await load.more(MEANWHILE)
        for name in indexes:
            anywhere = {"index.routing.allocation.require._name": None}
            (await search.put(f"{url}/{name}/_settings", json=anywhere)).raise_for_status()
        await assert_recovered(full_house, load)


async def test_the_index_deleted(full_house: FullHouse, organization: str) -> None:
    async with loaded(full_house, organization) as load:
        await asyncio.to_thread(full_house.empty, "elasticsearch")
        await load.more(MEANWHILE)
        await assert_recovered(full_house, load)


async def _indexes(search: httpx.AsyncClient, url: str) -> list[str]:
    found = (await search.get(f"{url}/_cat/indices?format=json")).json()
    names = [one["index"] for one in found if not one["index"].startswith(".")]
    assert names
    return names
