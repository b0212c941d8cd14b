"""Read stores for read models, a broker, and a log."""

from tests.full_stack import kafka
from tests.infra.event_log.conftest import keyring, log
from tests.stores import analytics, engine, facts, live_views, redis_server

__all__ = ["analytics", "engine", "facts", "kafka", "keyring", "live_views", "log", "redis_server"]
