"""The whole log verified: every row's hash, the chain, the versions, the head and the signed checkpoints."""

from __future__ import annotations

import asyncio
import statistics
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import uuid_utils.compat as uuids
import uvloop

from domain.ports import Context, NewEvent, Save
from infra.bench.append import booking
from infra.bench.served import folder
from infra.embedded.data_folder import DataFolder
from infra.embedded.postgres import Postgres
from infra.event_log.checkpoints import Checkpointer, SigningKey
from infra.event_log.log import PostgresEventLog
from infra.event_log.schema import app_dsn, migrate
from infra.event_log.verify import verify
from infra.keyring import MasterKeyFile, PostgresKeyring

EVENTS = 1_000_000
GOAL = 200_000
ROUNDS = 3
BOOKINGS_A_SAVE = 300


def run(size: float = 1.0) -> dict[str, Any]:
    bookings = max(1000, int(EVENTS * size)) // 3 + 1
    with folder("verify") as data:
        postgres = Postgres(DataFolder.open(data))
        postgres.ensure_running()
        try:
            migrate(postgres.dsn())
            dsn = app_dsn(postgres.dsn())
            checkpoints = data / "checkpoints"
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(fill(dsn, checkpoints, bookings))
            with psycopg.connect(postgres.dsn(), autocommit=True) as connection:
                connection.execute("VACUUM ANALYZE events")
            reports = [verify(dsn, checkpoints) for _ in range(ROUNDS)]
            alone = verify(dsn, checkpoints, processes=1)
        finally:
            postgres.stop()
    speed = statistics.median(report.events / report.seconds for report in reports)
    return {
        "figure": round(speed),
        "unit": "events/s",
        "baseline": GOAL,
        "ratio": round(speed / GOAL, 2),
        "holds": speed >= GOAL and all(report.ok for report in reports),
        "details": {
            "events": reports[0].events,
            "checkpoints": reports[0].checkpoints,
            "seconds": [round(report.seconds, 2) for report in reports],
            "in_one_process": round(alone.events / alone.seconds),
            "sound": all(report.ok for report in reports),
        },
    }


async def fill(dsn: str, checkpoints: Path, bookings: int) -> None:
    keyring = PostgresKeyring(dsn, MasterKeyFile(bytes(32)))
    async with PostgresEventLog(dsn, keyring) as log:
        checkpointer = Checkpointer(dsn, checkpoints, SigningKey(bytes(32)), log.wait)
        checkpointer.start()
        # One booking's events under many names: making each anew would take longer than writing and checking them.
        events, at = booking()
        kinds = [(name.split("/")[0], event) for name, event in events.items()]

        async def save(count: int) -> None:
            new = [
                NewEvent(f"{kind}/{uuids.uuid7()}", event, at, uuids.uuid7())
                for _ in range(count)
                for kind, event in kinds
            ]
            context = Context("bench", "bench", UUID(int=1), UUID(int=1))
            await log.append(Save(context, {one.stream: 0 for one in new}, new))

        left = bookings
        while left > 0:
            counts = [min(BOOKINGS_A_SAVE, left - BOOKINGS_A_SAVE * n) for n in range(4) if left > BOOKINGS_A_SAVE * n]
            await asyncio.gather(*map(save, counts))
            left -= sum(counts)
        await checkpointer.close()
    await keyring.close()
