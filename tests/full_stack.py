"""Real servers of the full stack for tests, started when a test first asks for them, one of each for the whole run.

`conftest.py` hands these fixtures to every test; Postgres and Redis come from there too. The servers die with the run,
however that ends.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from infra.local.clickhouse import ClickHouseServer
from infra.local.elasticsearch import Elasticsearch
from infra.local.fetch import ELASTICSEARCH, KAFKA
from infra.local.kafka import Kafka
from infra.local.server import LocalServer
from tests import needs

Server = TypeVar("Server", bound=LocalServer)

# A fixture that two modules import is two fixtures to pytest, and would be two servers.
_started: dict[type[LocalServer], LocalServer] = {}


def _shared(kind: type[Server], make: Callable[[Path], Server]) -> Server:
    """The run's own server of this kind, running. A test that stops or pauses it brings it back."""
    found = _started.get(kind)
    if found is None:
        folder = Path(tempfile.mkdtemp(prefix=f"daybook-{kind.__name__.lower()}-", dir="/tmp"))
        found = _started[kind] = make(folder)
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        atexit.register(found.kill)
    found.start()
    assert isinstance(found, kind)
    return found


@pytest.fixture(scope="session")
def kafka() -> Kafka:
    """A broker; `kafka.bootstrap` is its address. The run shares it: give topics and groups names of their own."""
    needs.java(17)
    needs.maven(KAFKA)
    return _shared(Kafka, lambda folder: Kafka(folder, die_with_me=True, short_lived=True))


@pytest.fixture(scope="session")
def elasticsearch() -> Elasticsearch:
    """A search server; `elasticsearch.url` is its address. The run shares it: give indexes names of your own."""
    needs.java(21)
    needs.maven(ELASTICSEARCH)
    return _shared(Elasticsearch, lambda folder: Elasticsearch(folder, die_with_me=True, short_lived=True))


@pytest.fixture(scope="session")
def clickhouse_server() -> ClickHouseServer:
    """ClickHouse's engine behind its HTTP interface; `clickhouse_connect.get_client(dsn=clickhouse_server.url)`.

    The run shares it: give databases names of your own."""
    return _shared(ClickHouseServer, lambda folder: ClickHouseServer(folder, die_with_me=True))
