"""`daybook relay`, `daybook work` and `daybook deadletter` as the processes that they are in the full stack."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import uuid_utils.compat as uuids
from redis.asyncio import Redis

from domain import patient
from domain.patient import PatientRegistered
from domain.ports import Save
from infra.embedded.redis import Redis as RedisServer
from infra.event_log.log import PostgresEventLog
from infra.kafka.connections import Brokers
from infra.kafka.letters import KafkaLetters
from infra.kafka.topics import Topics
from infra.keys import KeyFolder
from infra.local.kafka import Kafka
from infra.troubles import WrongSettings
from projections.diary import AppointmentDiary
from projections.redis_store import RedisStore
from streams.deadletters import Letter, Which, letter_of
from tests.conftest import Database
from tests.infra.event_log.conftest import new, save
from tests.streams.topic import new_topics

ROOT = Path(__file__).parents[3]


class Services:
    """What the settings name, and processes that are given them."""

    def __init__(self, settings: dict[str, str]) -> None:
        self.settings = {**os.environ, **settings, "DAYBOOK_STACK": "full", "DAYBOOK_LOG_FORMAT": "json"}
        self.running: list[subprocess.Popen[str]] = []

    def start(self, *arguments: str) -> tuple[subprocess.Popen[str], int]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = int(free.getsockname()[1])
        process = subprocess.Popen(
            [sys.executable, "-m", "infra.cli.main", *arguments],
            env={**self.settings, "PORT": str(port)},
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        self.running.append(process)
        return process, port

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "infra.cli.main", *arguments],
            env=self.settings,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            cwd=ROOT,
        )


def answer(port: int, path: str) -> tuple[int, str]:
    """Status and body; 0 while nobody answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as found:
            return found.status, found.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""


async def ready(port: int, words: str, within: float = 60.0) -> None:
    end = time.monotonic() + within
    while True:
        status, body = await asyncio.to_thread(answer, port, "/health/ready")
        if status == 200 and words in body:
            return
        assert time.monotonic() < end, f"{status} {body}"
        await asyncio.sleep(0.1)


@pytest.fixture
async def services(
    database: Database, kafka: Kafka, redis_server: RedisServer, tmp_path: Path
) -> AsyncIterator[Services]:
    KeyFolder(tmp_path, make=True).make()
    topics = await new_topics(kafka.bootstrap)
    services = Services(
        {
            "DAYBOOK_KAFKA_PREFIX": topics.prefix,
            "DAYBOOK_POSTGRES_DSN": database.app,
            "DAYBOOK_KAFKA": kafka.bootstrap,
            "DAYBOOK_REDIS_URL": redis_server.url,
            "DAYBOOK_KEYS": str(tmp_path),
        }
    )
    yield services
    for process in services.running:
        process.kill()
        process.communicate()


def patients(count: int) -> Save:
    ids = [uuids.uuid7() for _ in range(count)]
    events = [new(patient.stream(key), PatientRegistered(patient_id=key)) for key in ids]
    return save({event.stream: 0 for event in events}, *events)


async def test_a_relay_a_standby_and_a_worker(services: Services, log: PostgresEventLog, live_views: Redis) -> None:
    await log.append(patients(120))
    relay, relay_port = services.start("relay")
    await ready(relay_port, "active")
    _, standby_port = services.start("relay")
    worker, worker_port = services.start("work", "diary", "free_time")
    await ready(standby_port, "standby")
    await ready(worker_port, "12 parts")
    diary = AppointmentDiary(RedisStore(live_views, "diary"))
    assert await diary.wait_until(120, 30)
    metrics = answer(worker_port, "/metrics")[1]
    assert 'daybook_projection_lag_events{model="diary",part="3"} 0.0' in metrics
    assert "daybook_relay_position 120.0" in answer(relay_port, "/metrics")[1]

    # In order, the other takes over at once.
    relay.terminate()
    await ready(standby_port, "active")
    await log.append(patients(1))
    assert await diary.wait_until(121, 30)
    worker.terminate()
    for process in (relay, worker):
        words = process.communicate(timeout=30)[1]
        assert process.returncode == 0, words
        assert "Traceback" not in words, words


async def test_a_worker_started_while_everything_is_away(services: Services, log: PostgresEventLog) -> None:
    services.settings |= {"DAYBOOK_KAFKA": "127.0.0.1:1", "DAYBOOK_POSTGRES_DSN": "host=127.0.0.1 port=1 dbname=none"}
    running = [services.start("work", "diary"), services.start("relay")]
    for _, port in running:
        end = time.monotonic() + 60
        while (await asyncio.to_thread(answer, port, "/health/live"))[0] != 200:
            assert time.monotonic() < end
            await asyncio.sleep(0.1)
        status, body = await asyncio.to_thread(answer, port, "/health/ready")
        assert (status, "NotWell" in body) == (503, True) or "standby" in body
    for process, _ in running:
        process.terminate()
        assert process.wait(30) == 0


async def test_dead_letters_on_the_command_line(services: Services, kafka: Kafka) -> None:
    assert services.run("deadletter", "list").stdout == "No dead letters.\n"
    now = datetime(2026, 3, 1, tzinfo=UTC)
    event = Which(17, "elm", "page/a/2026-03-01", 4, "TimeReserved.v1", now)
    letters = [
        letter_of("diary", event, "ZeroDivisionError", now),
        letter_of("free_time", event, "MissingEvents", now),
        Letter("diary", "daybook.events-3-99", "NotARow", now.isoformat()),
    ]
    async with KafkaLetters(Brokers(kafka.bootstrap), Topics(services.settings["DAYBOOK_KAFKA_PREFIX"])) as box:
        await box.write(letters)
        listed = services.run("deadletter", "list", "--model", "diary")
        assert listed.returncode == 1
        assert listed.stdout.splitlines() == [
            "diary      position 17  elm/page/a/2026-03-01 version 4  TimeReserved.v1  ZeroDivisionError"
            "  2026-03-01T00:00:00+00:00",
            "diary      daybook.events-3-99  no event of the log  NotARow  2026-03-01T00:00:00+00:00",
        ]
        found: Any = json.loads(services.run("deadletter", "list", "--json").stdout)["letters"]
        assert [Letter(**one) for one in found] == letters
        some = services.run("deadletter", "retry", "--model", "diary", "--stream", "elm/page/a/2026-03-01", "--json")
        assert json.loads(some.stdout) == {"streams": 1, "put_away": 0}
        every = services.run("deadletter", "retry")
        assert every.stdout.splitlines() == [
            "2 streams will be applied again. `daybook deadletter list` tells.",
            "1 letter about what is no event put away.",
        ]
        assert set(await box.all()) == {letter.key for letter in letters[:2]}
        await box.settle([letter.key for letter in letters])
    services.settings["DAYBOOK_KAFKA"] = "127.0.0.1:1"
    away = services.run("deadletter", "list")
    assert (away.returncode, away.stderr) == (5, "daybook: Kafka does not answer (KafkaConnectionError).\n")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"servers": "kafka"}, "host:port"),
        ({"servers": "kafka:0"}, "host:port"),
        ({"servers": "kafka:9092", "security": "TLS"}, "one of PLAINTEXT"),
        ({"servers": "kafka:9092", "security": "SASL_SSL"}, "KAFKA_PASSWORD"),
        (
            {
                "servers": "kafka:9092",
                "security": "SASL_SSL",
                "mechanism": "GSSAPI",
                "username": "daybook",
                "password": "secret",
            },
            "one of PLAIN",
        ),
    ],
)
def test_brokers_are_named_rightly_or_not_at_all(given: dict[str, str], words: str) -> None:
    with pytest.raises(WrongSettings, match=words):
        Brokers(**given)


def test_secrets_of_brokers_are_not_shown() -> None:
    brokers = Brokers("a:1, b:2", "SASL_PLAINTEXT", username="daybook", password="secret")
    assert "secret" not in repr(brokers)
    assert brokers.arguments() == {
        "bootstrap_servers": ["a:1", "b:2"],
        "security_protocol": "SASL_PLAINTEXT",
        "ssl_context": None,
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": "daybook",
        "sasl_plain_password": "secret",
    }
    assert Brokers("a:1", "SSL").arguments()["ssl_context"].check_hostname
