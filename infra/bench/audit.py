"""What it costs that every look at a patient is in the log before the answer leaves; and how fast the log is replayed.

Two read APIs run on one book, one with the trail and one without, on the same PostgreSQL, which commits to disk. Rounds
of the two alternate, so that a noisy machine is noisy to both. Beside them runs the whole Daybook, whose read models
follow what the looks write, as they would.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import uvloop

from infra.audit.replay import whole
from infra.bench.load import Measured, drive, request
from infra.bench.served import Clinic, Served, daybook, folder, free_port, open_clinic, running
from infra.bench.verify import fill
from infra.embedded.data_folder import DataFolder
from infra.embedded.postgres import Postgres
from infra.event_log.log import PostgresEventLog
from infra.event_log.schema import app_dsn, migrate
from infra.event_log.verify import verify
from infra.keyring import MasterKeyFile, PostgresKeyring

CLIENTS = 16
ROUNDS = 5
READS = 3000
VISITS = 200
REPLAYED = 300_000


def run(size: float = 1.0) -> dict[str, Any]:
    per_round = max(200, int(READS * size))
    with daybook("audit") as served:
        clinic = open_clinic(served, providers=4, patients=100)
        visits = _booked(served, clinic)
        app = [sys.executable, "-m", "infra.bench.audit_app", str(served.data)]
        told, silent = free_port(), free_port()
        with (
            running([*app, str(told), "with"], told, "/read/docs") as with_trail,
            running([*app, str(silent), "without"], silent, "/read/docs") as without,
        ):
            apis = (_Api(told, with_trail.pid), _Api(silent, without.pid))
            one = [request("GET", f"/read/appointments/{key}", token=served.token) for key in visits]
            single = _compare(apis, one, per_round)
            # Somebody alone waits for their own commit, which no neighbour shares: what a look costs them is a delay.
            alone = _compare(apis, one, max(50, per_round // 4), clients=1)
            day = clinic.first.date()
            lists = [
                request("GET", f"/read/providers/{key}/day?date={day}", token=served.token) for key in clinic.providers
            ]
            listed = _compare(apis, lists, max(50, per_round // 10))
    replay = _replay(max(3000, int(REPLAYED * size)))
    return {
        "figure": single["with_trail_per_second"],
        "unit": "appointments read/s, each look in the log",
        "baseline": single["without_per_second"],
        "ratio": single["ratio"],
        "holds": None,
        "details": {
            "clients": CLIENTS,
            "single_records": single,
            "one_reader": alone,
            "provider_days": listed,
            "replay": replay,
        },
    }


def _booked(served: Served, clinic: Clinic) -> Sequence[str]:
    visits = []
    with served.client() as client:
        for number, (provider, start) in enumerate(islice(clinic.slots(), VISITS)):
            body = {
                "patient_id": clinic.patients[number % len(clinic.patients)],
                "provider_id": provider,
                "location_id": str(clinic.location_id),
                "visit_type_id": str(clinic.visit_type_id),
                "start": start.isoformat(),
            }
            answer = client.post("/write/appointments", json=body)
            if answer.status_code == 201:
                visits.append(str(answer.json()["appointment_id"]))
        position = answer.headers["position"]
        seen = client.get(f"/read/appointments/{visits[-1]}", headers={"Read-After": position})
        seen.raise_for_status()
    return visits


@dataclass(slots=True)
class _Api:
    """A read API, and the processor seconds that it took for its rounds."""

    port: int
    pid: int
    seconds: float = 0.0

    def drive(self, requests: list[bytes], clients: int) -> Measured:
        before = self._processor()
        measured = asyncio.run(drive("127.0.0.1", self.port, requests, clients=clients))
        self.seconds += self._processor() - before
        return measured

    def _processor(self) -> float:
        # proc(5): utime and stime stand in the 14th and 15th place, behind a name that may hold anything.
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _compare(
    apis: tuple[_Api, _Api], requests: Sequence[bytes], per_round: int, *, clients: int = CLIENTS
) -> dict[str, Any]:
    told, silent = apis
    reads = [requests[number % len(requests)] for number in range(per_round)]
    for api in apis:
        api.drive(reads[: per_round // 2], clients)
        api.seconds = 0.0
    rounds = [(told.drive(reads, clients), silent.drive(reads, clients)) for _ in range(ROUNDS)]
    ours, theirs = [one for one, _ in rounds], [other for _, other in rounds]
    statuses = sum((one.statuses for pair in rounds for one in pair), Counter[int]())
    ratios = [one.rate / other.rate for one, other in rounds]
    figures = {
        "with_trail_per_second": round(_median(one.rate for one in ours)),
        "without_per_second": round(_median(one.rate for one in theirs)),
        "ratio": round(_median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
        # What the machine does besides changes how long an answer takes, and hardly how much work it is.
        "processor_us_a_read": [round(1e6 * api.seconds / (ROUNDS * per_round)) for api in apis],
    }
    for share in (50, 99):
        figures[f"p{share}_ms"] = [
            round(1000 * _median(one.percentile(share / 100) for one in some), 2) for some in (ours, theirs)
        ]
    counts = {str(status): count for status, count in statuses.items()}
    return {**figures, "statuses": counts, "reads_a_round": per_round}


def _median(values: Iterable[float]) -> float:
    return statistics.median(values)


def _replay(events: int) -> dict[str, Any]:
    """The whole log folded into the book as it was, from the first event on; beside it the same rows read and hashed by
    one process, and not opened."""
    with folder("replay") as data:
        postgres = Postgres(DataFolder.open(data))
        postgres.ensure_running()
        try:
            migrate(postgres.dsn())
            dsn, checkpoints = app_dsn(postgres.dsn()), data / "checkpoints"
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(fill(dsn, checkpoints, events // 3))
                replayed = runner.run(_replayed(dsn))
            verified = verify(dsn, checkpoints, processes=1)
        finally:
            postgres.stop()
    baseline = verified.events / verified.seconds
    return {
        **replayed,
        "verified_per_second": round(baseline),
        "ratio": round(replayed["events_per_second"] / baseline, 3),
    }


async def _replayed(dsn: str) -> dict[str, Any]:
    keyring = PostgresKeyring(dsn, MasterKeyFile(bytes(32)))
    async with PostgresEventLog(dsn, keyring) as log:
        head = await log.head()
        began = time.perf_counter()
        found = await whole(log, head, lambda done, total: None)
        seconds = time.perf_counter() - began
    await keyring.close()
    return {"events": found.events, "seconds": round(seconds, 2), "events_per_second": round(found.events / seconds)}
