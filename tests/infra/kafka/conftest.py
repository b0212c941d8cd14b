"""A broker, live views and a log."""

from tests.full_stack import kafka
from tests.infra.event_log.conftest import keyring, log
from tests.stores import live_views, redis_server

__all__ = ["kafka", "keyring", "live_views", "log", "redis_server"]
