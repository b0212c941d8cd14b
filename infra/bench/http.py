"""Bookings through HTTP, beside a bare FastAPI route that does one INSERT by itself.

Both servers run on their own, one worker each, on the same PostgreSQL, which commits to disk. Rounds of the two
alternate, so that a noisy machine is noisy to both.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Any

from pydantic_core import to_json

from infra.bench.load import Measured, drive, request
from infra.bench.served import Clinic, Served, daybook, free_port, open_clinic, running
from infra.settings import Settings

CLIENTS = 64
ROUNDS = 5
BOOKINGS = 3000


def run(size: float = 1.0) -> dict[str, Any]:
    per_round = max(200, int(BOOKINGS * size))
    with daybook("http") as served:
        clinic = open_clinic(served, providers=400, patients=2000)
        port = free_port()
        bare = [sys.executable, "-m", "uvicorn", "infra.bench.bare_app:app", "--port", str(port), "--no-access-log"]
        bare += ["--log-level", "warning"]
        with running(bare, port, "/docs", BENCH_DSN=_dsn(served)):
            return _measure(served, clinic, port, per_round)


def _dsn(served: Served) -> str:
    from infra.embedded.data_folder import DataFolder  # noqa: PLC0415 - only a measurement goes around the log
    from infra.embedded.postgres import Postgres  # noqa: PLC0415

    return Postgres(DataFolder.open(Settings.load(data=served.data).data)).dsn()


def _measure(served: Served, clinic: Clinic, bare_port: int, per_round: int) -> dict[str, Any]:
    bookings = _bookings(served, clinic)
    body = to_json({"patient_id": clinic.patients[0], "provider_id": clinic.providers[0], "start": "2026-01-01"})
    bare = [request("POST", "/book", body=body)] * per_round
    empty = [request("POST", "/empty", body=body)] * per_round
    ours: list[Measured] = []
    theirs: list[Measured] = []
    nothing: list[Measured] = []
    _drive(served.port, list(islice(bookings, per_round // 2)))
    _drive(bare_port, bare[: per_round // 2])
    for _ in range(ROUNDS):
        ours.append(_drive(served.port, list(islice(bookings, per_round))))
        theirs.append(_drive(bare_port, bare))
        nothing.append(_drive(bare_port, empty))
    ratios = [mine.rate / other.rate for mine, other in zip(ours, theirs, strict=True)]
    tails = [mine.percentile(0.99) / other.percentile(0.99) for mine, other in zip(ours, theirs, strict=True)]
    ratio, tail = statistics.median(ratios), statistics.median(tails)
    return {
        "figure": round(statistics.median(one.rate for one in ours)),
        "unit": "bookings/s",
        "baseline": round(statistics.median(one.rate for one in theirs)),
        "ratio": round(ratio, 3),
        "holds": ratio >= 1.0 and tail <= 1.0,
        "details": {
            "p99_ms": round(1000 * statistics.median(one.percentile(0.99) for one in ours), 1),
            "baseline_p99_ms": round(1000 * statistics.median(one.percentile(0.99) for one in theirs), 1),
            "p99_ratio": round(tail, 3),
            "p50_ms": round(1000 * statistics.median(one.percentile(0.5) for one in ours), 1),
            "ratios": [round(one, 3) for one in ratios],
            "empty_route_per_second": round(statistics.median(one.rate for one in nothing)),
            "statuses": {str(status): count for status, count in _statuses(ours).items()},
            "clients": CLIENTS,
            "bookings_a_round": per_round,
        },
    }


def _statuses(rounds: list[Measured]) -> Counter[int]:
    return sum((one.statuses for one in rounds), Counter())


def _drive(port: int, requests: list[bytes]) -> Measured:
    return asyncio.run(drive("127.0.0.1", port, requests, clients=CLIENTS))


def _bookings(served: Served, clinic: Clinic) -> Iterator[bytes]:
    chance = random.Random(7)  # noqa: S311 - a load, not a secret
    for number, (provider, start) in enumerate(clinic.slots()):
        body = {
            # Each patient in turn, so that none is asked for two visits at one time.
            "patient_id": clinic.patients[number % len(clinic.patients)],
            "provider_id": provider,
            "location_id": clinic.location_id,
            "visit_type_id": clinic.visit_type_id,
            "start": start,
        }
        key = f"bench-{chance.getrandbits(64):x}"
        yield request("POST", "/write/appointments", token=served.token, body=to_json(body), **{"Idempotency_Key": key})
