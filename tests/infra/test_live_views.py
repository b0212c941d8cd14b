"""A burst of questions waits for its turn at Redis."""

from __future__ import annotations

import asyncio

from infra.live_views import live_views_at


async def test_more_questions_than_connections_are_all_answered(redis_server: str) -> None:
    async with live_views_at(redis_server) as client:
        # Each holds its connection for a moment, since nothing comes.
        asked = [client.blpop([f"nothing-{number}"], timeout=0.05) for number in range(300)]  # type: ignore[misc]
        assert await asyncio.gather(*asked) == [None] * 300
        used = [one for one in await client.client_list() if one["cmd"] == "blpop"]
        assert len(used) <= 64
