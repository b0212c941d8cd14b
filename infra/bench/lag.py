"""A booking acknowledged until it is visible in every read model, at several loads, embedded and on the full stack.

Both are started anew, filled with a clinic, and asked over HTTP as anybody would. The top load is measured first, as
fast as 64 clients get their answers; then bookings come at a quarter, a half and three quarters of it, or of what the
slowest read model keeps up with, in an open loop. Beside it stands what each part's processes cost: processor time a
booking, at half the top load, which is what docs/scale.md reckons with.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, Final

import httpx
from pydantic_core import to_json

from infra.bench.load import drive, request
from infra.bench.served import Clinic, Served, daybook, folder, free_port, open_clinic
from infra.bench.visible import Load, Seen

CLIENTS: Final = 64
TOP_SECONDS: Final = 12.0
SECONDS: Final = 30.0
SHARES: Final = (0.25, 0.5, 0.75)
HOLD: Final = {"embedded": 0.1, "full": 1.0}


def run(size: float = 1.0) -> dict[str, Any]:
    """`figure` is the worst read model's p99 on the full stack at half the top load, in seconds."""
    told: dict[str, Any] = {}
    with daybook("lag") as served:
        told["embedded"] = _measured(served, lambda: _embedded(served), size)
    if (missing := missing_parts()) is None:
        told["full"] = on_the_full_stack(size)
    else:
        told["full"] = f"left out: {missing}"
    kind = "embedded" if missing else "full"
    worst = _worst(told[kind]["loads"]["0.5"])
    holds = {name: _worst(told[name]["loads"]["0.5"]) <= HOLD[name] for name in HOLD if isinstance(told[name], dict)}
    return {
        "figure": round(worst, 3),
        "unit": "s, p99 of the slowest read model",
        "baseline": HOLD[kind],
        "ratio": round(worst / HOLD[kind], 3),
        "holds": all(holds.values()),
        "details": {"hold": holds, **told},
    }


def _worst(load: Mapping[str, Any]) -> float:
    return float(max(load["p99_visible_s"].values()))


@cache
def on_the_full_stack(size: float) -> dict[str, Any]:
    """The same of the full stack alone, with seconds a transaction of the relay took. Measured once in a run."""
    with stack("lag") as served:
        told = _measured(served, lambda: _services(served), size)
        return told | {"relay_transaction_s": round(_relay_transaction(served), 4)}


def missing_parts() -> str | None:
    """What of the full stack is not to be had here, in words."""
    from infra.local import fetch, java  # noqa: PLC0415 - only the full stack needs them
    from infra.troubles import Trouble  # noqa: PLC0415

    try:
        java.find(17, "Kafka")
        java.find(21, "Elasticsearch")
        fetch.fetch(fetch.KAFKA)
        fetch.fetch(fetch.ELASTICSEARCH)
    except Trouble as trouble:
        return str(trouble)
    return None


@contextlib.contextmanager
def stack(name: str) -> Iterator[Served]:
    """The full stack on an empty folder, until the block ends."""
    with folder(name) as data:
        port = free_port()
        environ = {**os.environ, "DATA": str(data), "PORT": str(port), "DAYBOOK_RATE_LIMIT": "0"}
        program = [sys.executable, "-m", "infra.cli.main"]
        try:
            subprocess.run([*program, "stack", "up"], env=environ, check=True, stdout=subprocess.DEVNULL)
            mint = [*program, "token", "--role", "admin", "--org", "bench"]
            token = subprocess.run(mint, env=environ, check=True, capture_output=True, text=True)
            yield Served("127.0.0.1", port, data, token.stdout.strip().splitlines()[-1])
        finally:
            subprocess.run([*program, "stack", "down"], env=environ, check=False, stdout=subprocess.DEVNULL)


def bookings(served: Served, clinic: Clinic) -> Iterator[tuple[str, bytes]]:
    """Providers and requests without end, as long as there is free time."""
    chance = random.Random(11)  # noqa: S311 - a load, not a secret
    for number, (provider, start) in enumerate(clinic.slots()):
        body = {
            "patient_id": clinic.patients[number % len(clinic.patients)],
            "provider_id": provider,
            "location_id": clinic.location_id,
            "visit_type_id": clinic.visit_type_id,
            "start": start,
        }
        key = f"lag-{chance.getrandbits(64):x}"
        asked = request("POST", "/write/appointments", token=served.token, body=to_json(body), Idempotency_Key=key)
        yield provider, asked


def _measured(served: Served, parts: Any, size: float) -> dict[str, Any]:
    clinic = open_clinic(served, providers=40, patients=2000)
    some = bookings(served, clinic)
    return asyncio.run(_loads(served, clinic, some, parts, size))


async def _loads(
    served: Served, clinic: Clinic, some: Iterator[tuple[str, bytes]], parts: Any, size: float
) -> dict[str, Any]:
    load = Load(served, clinic, some)
    await load.at(20, max(2.0, 5 * size))
    top = await drive(
        served.host,
        served.port,
        [asked for _, asked in islice(some, max(400, int(800 * TOP_SECONDS * size)))],
        clients=CLIENTS,
    )
    # Nobody's lag counts that was made by the top load.
    await load.at(10, max(2.0, 5 * size))
    told: dict[str, Any] = {"top_bookings_per_second": round(top.rate), "loads": {}}
    for share in SHARES:
        before = parts()
        seen = await load.at(top.rate * share, max(3.0, SECONDS * size))
        after = parts()
        told["loads"][str(share)] = _load(seen, top.rate * share)
        if share == 0.5:
            count = sum(seen.statuses.values())
            told["processor_ms_a_booking"] = {
                name: round(1000 * (after[name] - before.get(name, 0.0)) / count, 3) for name in sorted(after)
            }
    load.close()
    return told


def _load(seen: Seen, rate: float) -> dict[str, Any]:
    acknowledged = sorted(seen.acknowledged)
    return {
        "bookings_per_second": round(rate),
        "statuses": {str(status): count for status, count in seen.statuses.items()},
        "p99_acknowledged_s": round(acknowledged[int(len(acknowledged) * 0.99)], 4),
        "p99_visible_s": {name: round(seen.p99(name), 4) for name in seen.visible},
        "p50_visible_s": {name: round(sorted(values)[len(values) // 2], 4) for name, values in seen.visible.items()},
        "followed": {name: len(values) for name, values in seen.visible.items()},
    }


def _embedded(served: Served) -> dict[str, float]:
    from infra.embedded.data_folder import DataFolder  # noqa: PLC0415 - only here
    from infra.embedded.postgres import Postgres  # noqa: PLC0415
    from infra.embedded.redis import Redis  # noqa: PLC0415

    opened = DataFolder.open(served.data)
    holder = opened.holder()
    pids = {"postgres": Postgres(opened).pid, "redis": Redis(opened).pid, "daybook": holder.pid if holder else None}
    return {name: _processor_time(pid) for name, pid in pids.items() if pid}


def _services(served: Served) -> dict[str, float]:
    return {str(part["name"]).lower(): _processor_time(part["pid"]) for part in _parts(served) if part["pid"]}


def _relay_transaction(served: Served) -> float:
    """The mean, of all since the start."""
    relay = next(part for part in _parts(served) if part["name"] == "relay")
    told = dict(line.rsplit(" ", 1) for line in httpx.get(f"{relay['address']}/metrics").text.splitlines())
    return float(told["daybook_relay_seconds_total"]) / max(1.0, float(told["daybook_relay_batches_total"]))


def _parts(served: Served) -> Sequence[Mapping[str, Any]]:
    found = subprocess.run(
        [sys.executable, "-m", "infra.cli.main", "stack", "status", "--json"],
        env={**os.environ, "DATA": str(served.data), "PORT": str(served.port)},
        check=True,
        capture_output=True,
        text=True,
    )
    parts: Sequence[Mapping[str, Any]] = json.loads(found.stdout)["parts"]
    return parts


def _processor_time(pid: int) -> float:
    """Seconds that a process and its descendants have worked."""
    parents: dict[int, list[int]] = {}
    ticks: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = entry.read_text().rpartition(")")[2].split()
            one = int(entry.parent.name)
            parents.setdefault(int(fields[1]), []).append(one)
            # Its own, and that of children that have ended.
            ticks[one] = sum(map(int, fields[11:15]))
    found, waiting = 0, [pid]
    while waiting:
        one = waiting.pop()
        found += ticks.get(one, 0)
        waiting += parents.get(one, [])
    return found / os.sysconf("SC_CLK_TCK")
