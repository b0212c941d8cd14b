"""The whole server under load, killed with -9 again and again, and its Postgres too.

Every command that was acknowledged is in the log, whole and once; the chain verifies; the read models catch up; nobody
was booked twice.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import httpx
import pytest

from domain.appointment import AppointmentBooked
from infra.bench.served import free_port
from infra.desk import log_on
from infra.embedded.servers import Servers
from infra.installation import Installation
from infra.settings import Settings
from tests.invariants import assert_never_double_booked

DAYBOOK = [sys.executable, "-m", "infra.cli.main"]
ORGANIZATION = "elm-street"
ROUNDS = 6
CLIENTS = 8
PATIENTS = 24

LOCATION, VISIT_TYPE = str(uuid4()), str(uuid4())


@dataclass
class House:
    """A data folder and the server on it, which comes and goes."""

    data: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None
    token: str = ""

    @property
    def environ(self) -> dict[str, str]:
        return {**os.environ, "DATA": str(self.data), "PORT": str(self.port), "DAYBOOK_RATE_LIMIT": "0"}

    def run(self, *arguments: str) -> str:
        done = subprocess.run(
            [*DAYBOOK, *arguments], env=self.environ, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start(self) -> None:
        self.process = subprocess.Popen(
            [*DAYBOOK, "serve"], env=self.environ, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )

    def kill_server(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.start()

    def kill_postgres(self) -> None:
        os.kill(int(json.loads(self.run("status", "--json"))["postgres"]), signal.SIGKILL)

    def stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(60)

    @asynccontextmanager
    async def http(self) -> AsyncIterator[httpx.AsyncClient]:
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{self.port}", headers={"Authorization": f"Bearer {self.token}"}, timeout=10
        ) as client:
            yield client

    async def ready(self, client: httpx.AsyncClient) -> None:
        for _ in range(600):
            with suppress(httpx.HTTPError):
                if (await client.get("/health/ready")).status_code == 200:
                    return
            await asyncio.sleep(0.1)
        pytest.fail("the server is not ready after a minute")


@pytest.fixture
def house() -> Iterator[House]:
    with TemporaryDirectory(prefix="daybook-crash-") as folder:
        house = House(Path(folder))
        house.start()
        try:
            yield house
        finally:
            house.stop()


async def made(client: httpx.AsyncClient, path: str, body: dict[str, Any], key: str) -> str:
    answer = await client.post(path, json=body)
    assert answer.status_code == 201, answer.text
    return str(answer.json()[key])


async def persist(client: httpx.AsyncClient, path: str, body: dict[str, Any], key: str) -> httpx.Response:
    """Ask until there is an answer that is no outage, as a client with an idempotency key may."""
    while True:
        with suppress(httpx.HTTPError):
            answer = await client.post(path, json=body, headers={"Idempotency-Key": key})
            if answer.status_code != 503:
                return answer
            assert "retry-after" in answer.headers
        await asyncio.sleep(0.05)


async def test_nothing_acknowledged_is_lost_in_any_crash(house: House) -> None:
    house.token = house.run("token", "--role", "admin", "--org", ORGANIZATION).strip().splitlines()[-1]
    chance = random.Random(11)
    days = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
    opening = {
        "name": "Dr. Crash Example",
        "locations": [{"id": LOCATION, "name": "Elm Street", "time_zone": "Europe/Berlin"}],
        "visit_types": [{"id": VISIT_TYPE, "name": "Check-up", "duration_minutes": 15}],
        "hours": [{"location_id": LOCATION, "hours": {day: [{"start": "00:00", "end": "00:00"}] for day in days}}],
    }
    acknowledged: dict[str, str] = {}
    refused: dict[str, int] = {}
    async with house.http() as client:
        await house.ready(client)
        providers = [await made(client, "/write/providers", opening, "provider_id") for _ in range(4)]
        patients = [await made(client, "/write/patients", {}, "patient_id") for _ in range(PATIENTS)]
        first = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=2)
        over = asyncio.Event()

        async def client_at_work(number: int) -> None:
            while not over.is_set():
                key = str(uuid4())
                wish = {
                    "patient_id": chance.choice(patients),
                    "provider_id": chance.choice(providers),
                    "location_id": LOCATION,
                    "visit_type_id": VISIT_TYPE,
                    # Few enough times that clients meet at some.
                    "start": (first + timedelta(minutes=15 * chance.randrange(900))).isoformat(),
                }
                answer = await persist(client, "/write/appointments", wish, key)
                if answer.status_code == 201:
                    acknowledged[key] = answer.json()["appointment_id"]
                else:
                    assert answer.status_code == 409, answer.text
                    refused[answer.json()["code"]] = refused.get(answer.json()["code"], 0) + 1

        clients = [asyncio.create_task(client_at_work(number)) for number in range(CLIENTS)]
        for number in range(ROUNDS):
            await asyncio.sleep(1 + chance.random())
            if number % 2:
                await asyncio.to_thread(house.kill_postgres)
            else:
                await asyncio.to_thread(house.kill_server)
            await house.ready(client)
        await asyncio.sleep(1)
        over.set()
        await asyncio.gather(*clients)
        assert len(acknowledged) > 50
        assert set(refused) <= {"slot_taken", "patient_busy"}

        # The read models catch up, and show what was acknowledged.
        last = await persist(client, "/write/patients", {}, "last")
        position = last.headers["position"]
        for appointment_id in chance.sample(sorted(acknowledged.values()), 40):
            shown = await client.get(f"/read/appointments/{appointment_id}", headers={"Read-After": position})
            assert shown.status_code == 200, shown.text
            assert shown.json()["status"] == "booked"
    house.run("log", "verify")
    settings = Settings.load(data=house.data)
    with Servers(settings, redis=False) as servers:
        async with log_on(Installation.embedded(settings, servers)) as log:
            history = await log.read(0, 1_000_000)
    booked = [str(one.event.appointment_id) for one in history if isinstance(one.event, AppointmentBooked)]
    assert len(booked) == len(set(booked))
    assert set(acknowledged.values()) == set(booked)
    assert_never_double_booked(history)
    assert [one.position for one in history] == list(range(1, len(history) + 1))
