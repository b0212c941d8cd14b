"""The Redis of live views and limits. In: its URL. Out: a client for one process."""

from __future__ import annotations

from typing import Final

from redis.asyncio import BlockingConnectionPool, Redis

_CONNECTIONS: Final = 64
_WAITED_FOR: Final = 5.0


def live_views_at(url: str) -> Redis:
    """Where all connections are in use the next is waited for: a burst of questions gets slower, and no errors. The
    client's own pool would refuse whatever is asked beyond its bound."""
    pool = BlockingConnectionPool.from_url(url, max_connections=_CONNECTIONS, timeout=_WAITED_FOR)
    return Redis.from_pool(pool)
