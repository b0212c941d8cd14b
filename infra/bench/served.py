"""A Daybook server of its own for a measurement: started on an empty folder, given a clinic, stopped and removed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
from pydantic_core import from_json, to_json

from infra.bench.load import drive, request

ZONE = "Europe/Berlin"
# Patience with a busy machine, and no measure of ours.
_READY_WITHIN = 300.0


@dataclass(frozen=True, slots=True)
class Clinic:
    """What bookings need: providers that are open around the clock, and patients."""

    location_id: UUID
    visit_type_id: UUID
    providers: Sequence[str]
    patients: Sequence[str]
    first: datetime

    def slots(self) -> Iterator[tuple[str, datetime]]:
        """Every free time of every provider, the providers in turn, two weeks of them."""
        for number in range(14 * 24 * 4):
            for provider in self.providers:
                yield provider, self.first + timedelta(minutes=15 * number)


@dataclass(frozen=True, slots=True)
class Served:
    host: str
    port: int
    data: Path
    token: str

    def client(self) -> httpx.Client:
        return httpx.Client(
            base_url=f"http://{self.host}:{self.port}", headers={"Authorization": f"Bearer {self.token}"}, timeout=30
        )


@contextlib.contextmanager
def folder(name: str) -> Iterator[Path]:
    """A folder near the root, because a socket's path is short."""
    made = Path(tempfile.mkdtemp(prefix=f"daybook-{name}-"))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(command: Sequence[str], port: int, path: str, **environ: str) -> Iterator[subprocess.Popen[bytes]]:
    """A server process that answers at `path`, until the block ends."""
    process = subprocess.Popen(
        command, env={**os.environ, **environ}, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + _READY_WITHIN
        while True:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"http://127.0.0.1:{port}{path}", timeout=2).status_code < 500:
                    break
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the server of this measurement did not start (exit code {process.poll()})")
            time.sleep(0.1)
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def daybook(name: str) -> Iterator[Served]:
    with folder(name) as data:
        port = free_port()
        serve = [sys.executable, "-m", "infra.cli.main", "serve"]
        environ = {"DATA": str(data), "PORT": str(port), "DAYBOOK_RATE_LIMIT": "0"}
        with running(serve, port, "/health/ready", **environ):
            mint = [sys.executable, "-m", "infra.cli.main", "token", "--role", "admin", "--org", "bench"]
            token = subprocess.run(mint, env={**os.environ, **environ}, check=True, capture_output=True, text=True)
            yield Served("127.0.0.1", port, data, token.stdout.strip().splitlines()[-1])


def open_clinic(served: Served, *, providers: int, patients: int) -> Clinic:
    location, visit_type = uuid4(), uuid4()
    around_the_clock = [{"start": "00:00", "end": "00:00"}]
    days = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
    provider: dict[str, Any] = {
        "name": "Dr. Bench Example",
        "locations": [{"id": str(location), "name": "Bench Street", "time_zone": ZONE}],
        "visit_types": [{"id": str(visit_type), "name": "Check-up", "duration_minutes": 15}],
        "hours": [{"location_id": str(location), "hours": dict.fromkeys(days, around_the_clock)}],
    }
    first = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) + timedelta(days=2)
    made = [("/write/providers", provider, providers), ("/write/patients", {}, patients)]
    opened = [asyncio.run(_made(served, path, to_json(body), count)) for path, body, count in made]
    return Clinic(
        location,
        visit_type,
        [str(one["provider_id"]) for one in opened[0]],
        [str(one["patient_id"]) for one in opened[1]],
        first,
    )


async def _made(served: Served, path: str, body: bytes, count: int) -> Sequence[Mapping[str, Any]]:
    """What the server says of each that it made. Many at once: thousands one after another take longer than what is
    measured with them."""
    asked = [request("POST", path, token=served.token, body=body)] * count
    measured = await drive(served.host, served.port, asked, clients=min(count, 32), keep_bodies=True)
    if measured.statuses != {201: count}:
        raise RuntimeError(f"{path} answered {dict(measured.statuses)}")
    return [from_json(one) for one in measured.bodies]
