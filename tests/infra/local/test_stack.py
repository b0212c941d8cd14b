"""`daybook stack` on a machine with nothing but Java and Maven: five real servers up, found, brought back, and down."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import clickhouse_connect
import psycopg
import pytest
import redis
from aiokafka.admin import AIOKafkaAdminClient
from elasticsearch import Elasticsearch as Client

from infra.embedded.data_folder import DataFolder
from infra.embedded.redis import Redis
from infra.local.fetch import ELASTICSEARCH, KAFKA
from infra.local.stack import programs, redis_program
from tests import needs

SERVERS = ["Postgres", "Redis", "Kafka", "Elasticsearch", "ClickHouse"]


def daybook(*arguments: str, data: Path, expect: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "infra.cli.main", *arguments, "--data", data],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout if not expect else done.stderr


def parts(data: Path, expect: int = 0) -> dict[str, dict[str, Any]]:
    found = daybook("stack", "status", "--json", data=data, expect=expect)
    return {part["name"]: part for part in json.loads(found)["parts"]}


async def brokers(bootstrap: str) -> int:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    found = await admin.describe_cluster()
    await admin.close()
    return len(found["brokers"])


@pytest.fixture
def data() -> Iterator[Path]:
    needs.java(21)
    needs.maven(KAFKA)
    needs.maven(ELASTICSEARCH)
    # Sockets have short paths, and every run of pytest shuts its own folder for the users that servers run as.
    folder = Path(tempfile.mkdtemp(prefix="daybook-stack-", dir="/tmp"))
    yield folder / "data"
    daybook("stack", "down", data=folder / "data")
    shutil.rmtree(folder)


def test_the_servers_come_up_are_brought_back_and_go_down_together(data: Path) -> None:
    daybook("stack", "up", "--servers-only", data=data)
    up = parts(data)
    assert [name for name, part in up.items() if part["state"] == "running"] == SERVERS
    assert all(part["memory"] and part["since"] for name, part in up.items() if name in SERVERS)

    assert stat.S_IMODE((data / "stack.env").stat().st_mode) == 0o600
    script = 'set -a; . "$0"; exec "$1" -c "import json, os; print(json.dumps(dict(os.environ)))"'
    shell = subprocess.run(
        ["/bin/sh", "-c", script, data / "stack.env", sys.executable], capture_output=True, check=True
    )
    settings = json.loads(shell.stdout)
    assert settings["DAYBOOK_STACK"] == "full"
    with psycopg.connect(settings["DAYBOOK_POSTGRES_OWNER_DSN"]) as connection:
        connection.execute("SELECT 1")
    version = redis.Redis.from_url(settings["DAYBOOK_REDIS_URL"]).info("server")["redis_version"]
    assert int(version.split(".")[0]) >= (7 if redis_program() else 6)
    assert asyncio.run(brokers(settings["DAYBOOK_KAFKA"])) == 1
    with Client(settings["DAYBOOK_ELASTICSEARCH_URL"]) as search:
        assert search.cluster.health()["status"] == "green"
    with clickhouse_connect.get_client(dsn=settings["DAYBOOK_CLICKHOUSE_URL"]) as client:
        assert client.command("SELECT 1") == 1

    daybook("stack", "up", "--servers-only", data=data)
    assert {name: part["pid"] for name, part in parts(data).items()} == {name: part["pid"] for name, part in up.items()}
    assert "daybook stack" in daybook("serve", "--no-demo", "--port", "0", data=data, expect=3)

    for name in ("Redis", "Kafka"):
        os.killpg(up[name]["pid"], signal.SIGKILL)
    deadline = time.monotonic() + 120
    while any(parts(data)[name]["pid"] in (None, up[name]["pid"]) for name in ("Redis", "Kafka")):
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert parts(data)["Kafka"]["address"] == up["Kafka"]["address"]

    # A supervisor that is killed leaves the servers, and the next one takes them over.
    holder = DataFolder(data).holder()
    assert holder is not None
    os.kill(holder.pid, signal.SIGKILL)
    before = parts(data)
    daybook("stack", "up", "--servers-only", data=data)
    assert {name: part["pid"] for name, part in parts(data).items()} == {
        name: part["pid"] for name, part in before.items()
    }

    daybook("stack", "down", data=data)
    words = daybook("stack", "status", data=data, expect=5)
    assert "Nothing runs" in words


def test_every_service_has_a_name_of_its_own_and_words_of_the_command_line() -> None:
    names = [program.name for program in programs(8000)]
    assert len(names) == len(set(names))
    assert programs(8123)[-1].port == 8123


def test_redis_7_goes_on_with_what_the_packaged_one_kept_and_puts_aside_what_it_cannot_read() -> None:
    program = redis_program() or needs.left_out("Redis 7")
    place = Path(tempfile.mkdtemp(prefix="daybook-redis-", dir="/tmp"))
    folder = DataFolder.open(place / "data")
    packaged, newer = Redis(folder), Redis(folder, program=program)
    packaged.ensure_running()
    redis.Redis.from_url(packaged.url).set("day", "monday")
    packaged.stop()
    newer.ensure_running()
    with redis.Redis.from_url(newer.url) as client:
        assert int(client.info("server")["redis_version"].split(".")[0]) >= 7
        assert client.get("day") == b"monday"
    newer.stop()
    for file in (folder.redis / "appendonlydir").iterdir():
        file.write_bytes(b"broken" * 50)
    newer.ensure_running()
    with redis.Redis.from_url(newer.url) as client:
        assert client.get("day") is None
    newer.stop()
    assert [path for path in folder.redis.iterdir() if ".broken-" in path.name]
    shutil.rmtree(place)
