"""Durable saves of a booking's three events: the log, the library's own recorder, and bare INSERTs by pgbench.

One server, fsync on, 64 at once each, in turn, so that a busy moment of the machine meets all three. The saves are made
beforehand; what is measured is from the event to the commit. The library's recorder gets its events encoded already.
"""

from __future__ import annotations

import asyncio
import gc
import re
import statistics
import subprocess
import time as clock
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import uuid_utils.compat as uuids
import uvloop
from eventsourcing.persistence import StoredEvent
from eventsourcing.postgres import PostgresApplicationRecorder, PostgresDatastore
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from domain.appointment import AppointmentBooked, Party
from domain.availability import TimeReserved
from domain.events import Event
from domain.ports import Context, Memory, NewEvent, Save
from domain.provider import Mode
from domain.time import Period
from infra.bench.served import folder
from infra.embedded.data_folder import DataFolder
from infra.embedded.postgres import Postgres, program
from infra.event_log.codec import encode
from infra.event_log.log import PostgresEventLog
from infra.event_log.schema import app_dsn, migrate
from infra.event_log.verify import verify
from infra.keyring import MasterKeyFile, PostgresKeyring

AT_ONCE = 64
ROUNDS = 5
SAVES = 12_000
STOCK_SAVES = 1_500
RAW_SECONDS = 3.0

_RAW_TABLE = """
CREATE TABLE raw_events (
    position bigserial PRIMARY KEY, organization text NOT NULL, stream text COLLATE "C" NOT NULL,
    version bigint NOT NULL, event_id uuid NOT NULL, name text NOT NULL, payload bytea NOT NULL, actor text NOT NULL,
    on_behalf_of text, purpose text, command_id uuid NOT NULL, correlation_id uuid NOT NULL, causation_id uuid,
    occurred_at timestamptz NOT NULL, recorded_at timestamptz NOT NULL, UNIQUE (stream, version)
)
"""
_RAW_INSERT = (
    "INSERT INTO raw_events (organization, stream, version, event_id, name, payload, actor, command_id, correlation_id,"
    " occurred_at, recorded_at) VALUES ('bench', 'bench/{kind}/' || gen_random_uuid(), 1, gen_random_uuid(), '{name}',"
    " '{payload}'::bytea, '{actor}', gen_random_uuid(), gen_random_uuid(), now(), clock_timestamp());\n"
)


def run(size: float = 1.0) -> dict[str, Any]:
    saves, stock_saves = max(640, int(SAVES * size)), max(128, int(STOCK_SAVES * size))
    with folder("append") as data:
        postgres = Postgres(DataFolder.open(data))
        postgres.ensure_running()
        try:
            ours, keyed, stock, raw = (
                _Ours(postgres, data),
                _Ours(postgres, data, keyed=True),
                _Stock(postgres),
                _Raw(postgres, data),
            )
            rounds = [
                (
                    ours.round(saves),
                    keyed.round(saves),
                    stock.round(stock_saves),
                    raw.round(max(0.5, RAW_SECONDS * size)),
                )
                for _ in range(ROUNDS)
            ]
            stock.close()
            report = verify(ours.dsn)
        finally:
            postgres.stop()
    medians = [statistics.median(column) for column in zip(*rounds, strict=True)]
    over_stock = statistics.median(ours / stock for ours, _, stock, _ in rounds)
    over_raw = statistics.median(ours / raw for ours, _, _, raw in rounds)
    return {
        "figure": round(medians[0]),
        "unit": "saves/s",
        "baseline": round(medians[3]),
        "ratio": round(over_raw, 2),
        "holds": over_raw >= 0.8 and over_stock >= 5,
        "details": {
            "raw_inserts_by_pgbench": round(medians[3]),
            "times_raw_inserts": round(over_raw, 2),
            "stock_recorder": round(medians[2]),
            "times_stock_recorder": round(over_stock, 1),
            "with_a_key_remembered": round(medians[1]),
            "at_once": AT_ONCE,
            "events_a_save": 3,
            "bytes_a_payload": [len(payload) for payload in _payloads()],
            "chain_verified": report.ok,
        },
    }


def booking() -> tuple[dict[str, Event], datetime]:
    """A booking's events by their streams: the appointment, and a page each of the provider and the patient."""
    appointment, patient, provider, location, visit_type = (uuids.uuid7() for _ in range(5))
    start = datetime(2026, 3, 2, 9, tzinfo=UTC)
    period, occupied = (Period(start, start + timedelta(minutes=minutes)) for minutes in (30, 40))
    booked = AppointmentBooked(
        appointment_id=appointment,
        patient_id=patient,
        provider_id=provider,
        location_id=location,
        visit_type_id=visit_type,
        mode=Mode.IN_PERSON,
        period=period,
        occupied=occupied,
        time_zone="Europe/Berlin",
        session_id=appointment,
        by=Party.PATIENT,
    )
    events: dict[str, Event] = {f"appointment/{appointment}": booked}
    for resource in (provider, patient):
        events[f"page/{resource}/2026-03-02"] = TimeReserved(
            resource_id=resource,
            day=start.date(),
            appointment_id=appointment,
            visit=period,
            occupied=occupied,
            session_id=appointment,
        )
    return events, start


def _payloads() -> list[bytes]:
    return [encode(event, "bench", UUID(int=0)) for event in booking()[0].values()]


def _create(postgres: Postgres, name: str) -> str:
    with psycopg.connect(postgres.dsn(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    return make_conninfo(postgres.dsn(), dbname=name)


class _Ours:
    def __init__(self, postgres: Postgres, data: Path, *, keyed: bool = False) -> None:
        owner = _create(postgres, "bench_keyed" if keyed else "bench_ours")
        migrate(owner)
        self.dsn = app_dsn(owner)
        self._keyed = keyed
        self._master = MasterKeyFile.at(data / "master.key")

    def round(self, saves: int) -> float:
        """Saves a second."""
        asked = [self._save() for _ in range(saves + 5 * AT_ONCE)]
        # Thousands of saves made beforehand would have the collector walk them again and again.
        gc.collect()
        gc.freeze()
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                return runner.run(self._append(asked[: 5 * AT_ONCE], asked[5 * AT_ONCE :]))
        finally:
            gc.unfreeze()

    async def _append(self, warming: list[Save], asked: list[Save]) -> float:
        keyring = PostgresKeyring(self.dsn, self._master)
        async with PostgresEventLog(self.dsn, keyring) as log:
            await _by_clients(log, warming)
            seconds = await _by_clients(log, asked)
        await keyring.close()
        return len(asked) / seconds

    def _save(self) -> Save:
        events, at = booking()
        context = Context("bench", str(uuids.uuid7()), uuids.uuid7(), uuids.uuid7())
        new = [NewEvent(stream, event, at, uuids.uuid7()) for stream, event in events.items()]
        memory = Memory(str(uuids.uuid7()), bytes(32), b'{"status":201}') if self._keyed else None
        return Save(context, dict.fromkeys(events, 0), new, memory)


async def _by_clients(log: PostgresEventLog, asked: list[Save]) -> float:
    waiting = iter(asked)

    async def client() -> None:
        for save in waiting:
            await log.append(save)

    started = clock.perf_counter()
    await asyncio.gather(*(client() for _ in range(AT_ONCE)))
    return clock.perf_counter() - started


class _Stock:
    def __init__(self, postgres: Postgres) -> None:
        parts = conninfo_to_dict(_create(postgres, "bench_stock"))
        self._datastore = PostgresDatastore(
            dbname=str(parts["dbname"]),
            host=str(parts["host"]),
            port="5432",
            user=str(parts["user"]),
            password="",
            pool_size=10,
            originator_id_type="text",
        )
        self._recorder = PostgresApplicationRecorder(self._datastore, events_table_name="stored_events")
        self._recorder.create_table()

    def round(self, saves: int) -> float:
        asked = [self._save() for _ in range(saves + AT_ONCE)]
        with ThreadPoolExecutor(AT_ONCE) as clients:
            list(clients.map(self._recorder.insert_events, asked[:AT_ONCE]))
            started = clock.perf_counter()
            list(clients.map(self._recorder.insert_events, asked[AT_ONCE:]))
            return saves / (clock.perf_counter() - started)

    def close(self) -> None:
        self._datastore.close()

    def _save(self) -> list[StoredEvent]:
        return [
            StoredEvent(f"bench/{stream}", 1, event.NAME, encode(event, "bench", UUID(int=0)))
            for stream, event in booking()[0].items()
        ]


class _Raw:
    def __init__(self, postgres: Postgres, data: Path) -> None:
        self._dsn = _create(postgres, "bench_raw")
        with psycopg.connect(self._dsn) as connection:
            connection.execute(_RAW_TABLE.encode())
        self._script = data / "insert.sql"
        inserts = [
            _RAW_INSERT.format(
                kind=stream.split("/")[0], name=event.NAME, payload="x" * len(payload), actor=UUID(int=0)
            )
            for (stream, event), payload in zip(booking()[0].items(), _payloads(), strict=True)
        ]
        self._script.write_text(f"BEGIN;\n{''.join(inserts)}COMMIT;\n")

    def round(self, seconds: float) -> float:
        command = [str(program("pgbench")), "-n", "-M", "prepared", "-c", str(AT_ONCE), "-j", "2"]
        command += ["-f", str(self._script), "-T", str(max(1, round(seconds))), self._dsn]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found = re.search(r"tps = ([0-9.]+)", done.stdout)
        if found is None:
            raise RuntimeError("pgbench said nothing of its speed")
        return float(found[1])
