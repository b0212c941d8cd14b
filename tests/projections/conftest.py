"""Read stores for read models."""

from tests.stores import analytics, engine, facts, live_views, redis_server

__all__ = ["analytics", "engine", "facts", "live_views", "redis_server"]
