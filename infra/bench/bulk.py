"""The log at size: a million events (`--size 10`: ten millions, some 12 GB of disk), beside a third and a tenth of it.

The rows are of the real shape (bookings with their pages, some of them completed), chained and signed like any others,
and brought in by COPY. At each size: durable saves, loads of one stream, the position of an instant, the room that an
event takes, verification. At the end the older half goes into the archive, and all is asked again. `cold` is with
the server started anew and the files gone from the system's cache.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import statistics
import time as clock
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import psycopg
import uuid_utils.compat as uuids
import uvloop

from domain.ports import Context, NewEvent, Save
from infra.bench.append import booking
from infra.bench.served import folder
from infra.embedded.data_folder import DataFolder
from infra.embedded.postgres import Postgres
from infra.event_log.archive import archive
from infra.event_log.checkpoints import CheckpointFile, SigningKey, publish
from infra.event_log.codec import encode
from infra.event_log.log import PostgresEventLog
from infra.event_log.merkle import Frontier
from infra.event_log.rows import (
    COLUMNS,
    COPY_HEADER,
    COPY_TRAILER,
    FIRST_HASH,
    author,
    copy_tuple,
    draft,
    instant,
    leaf_of,
    link,
    microseconds,
    row_v1,
)
from infra.event_log.scan import recorded_at_in, row_and_hash, tuples
from infra.event_log.schema import APP_ROLE, ARCHIVIST_ROLE, migrate
from infra.event_log.verify import verify
from infra.keyring import MasterKeyFile, PostgresKeyring

EVENTS: Final = 1_000_000
SAVES: Final = 6_000
AT_ONCE: Final = 64
LOADS: Final = 1_500
COLD_LOADS: Final = 200
MOMENTS: Final = 300
PROVIDERS: Final = 200
A_DAY: Final = 24
A_BATCH: Final = 30_000
CHECKPOINTS: Final = 20

_SIZES = (
    "SELECT c.relname, CASE c.relkind WHEN 'r' THEN pg_table_size(c.oid) ELSE pg_relation_size(c.oid) END"
    " FROM pg_class AS c WHERE c.relkind IN ('r', 'i') AND c.relnamespace = 'public'::regnamespace"
    " AND (c.relname LIKE '%events%' OR c.relname LIKE 'archived_streams%')"
)


def run(size: float = 1.0) -> dict[str, Any]:
    events = max(60_000, int(EVENTS * size))
    saves, loads = max(640, int(SAVES * min(1, 4 * size))), max(100, int(LOADS * min(1, 4 * size)))
    steps = sorted({events // 10, events // 3, events})
    with folder("bulk") as data:
        postgres = Postgres(DataFolder.open(data))
        postgres.ensure_running()
        try:
            bench = _Bench(postgres, DataFolder.open(data), events, saves, loads)
            seen = [bench.grown_to(step) for step in steps]
            cold = bench.cold()
            archived = bench.archived()
        finally:
            postgres.stop()
    first, last = seen[0], seen[-1]
    ratio = last["saves_a_second"] / first["saves_a_second"]
    return {
        "figure": last["saves_a_second"],
        "unit": f"saves/s at {events:,} events",
        "baseline": first["saves_a_second"],
        "ratio": round(ratio, 2),
        "holds": ratio >= 1 / 1.2 and all(one["sound"] for one in (*seen, archived)),
        "details": {f"{one['events']:,}": one for one in seen} | {"cold": cold, "half_archived": archived},
    }


@dataclass(slots=True)
class _History:
    """Rows without end, a booking after another. Pages fill up through the day; some visits come to their end."""

    payloads: Sequence[bytes]
    number: int = 0
    appointments: list[str] = field(default_factory=list)
    pages: list[str] = field(default_factory=list)

    def drafts(self) -> Iterator[tuple[str, int, str, bytes]]:
        """Stream, version, event's name and payload."""
        booked, reserved, _ = self.payloads
        while True:
            provider, place = self.number % PROVIDERS, self.number // PROVIDERS
            day = date(2020, 1, 1) + timedelta(days=place // A_DAY)
            page = f"bench/page/{UUID(int=provider)}/{day}"
            appointment = f"bench/appointment/{uuids.uuid7()}"
            if place % A_DAY == 0:
                self.pages.append(page)
            self.appointments.append(appointment)
            yield appointment, 1, "AppointmentBooked.v1", booked
            yield page, place % A_DAY + 1, "TimeReserved.v1", reserved
            yield f"bench/page/{uuids.uuid4()}/{day}", 1, "TimeReserved.v1", reserved
            self.number += 1
            if self.number > 20 * PROVIDERS:
                earlier = self.appointments[self.number - 10 * PROVIDERS]
                yield earlier, 2, "PatientCheckedIn.v1", b'{"by":"desk"}'
                yield earlier, 3, "AppointmentCompleted.v1", b'{"outcome":"done"}'


class _Bench:
    def __init__(self, postgres: Postgres, data: DataFolder, events: int, saves: int, loads: int) -> None:
        self._postgres, self._data = postgres, data
        self._saves, self._loads = saves, loads
        self._owner = postgres.dsn()
        self._app = postgres.dsn(APP_ROLE)
        migrate(self._owner)
        with psycopg.connect(self._owner, autocommit=True) as connection:
            # So that half of the log is several parts.
            size = 1 << max(12, (events // 8).bit_length())
            connection.execute("UPDATE archive_floor SET part_size = %s", (size,))
        self._folder = data.checkpoints
        self._checkpoints = CheckpointFile(self._folder)
        self._key = SigningKey(bytes(32))
        publish(self._folder, self._key)
        self._every = events // CHECKPOINTS
        self._tree = Frontier()
        self._hash = FIRST_HASH
        self._moments_of_batches: list[int] = []
        self._recorded = microseconds(datetime.now(UTC) - timedelta(days=3650))
        payloads = [encode(event, "bench", UUID(int=0)) for event in booking()[0].values()]
        self._history = _History(payloads)
        self._drafts = self._history.drafts()

    def grown_to(self, events: int) -> dict[str, Any]:
        started, before = clock.perf_counter(), self._tree.size
        self._fill(events)
        filled = (self._tree.size - before) / (clock.perf_counter() - started)
        return {"events": self._tree.size, "filled_a_second": round(filled)} | self._asked()

    def _asked(self) -> dict[str, Any]:
        report = verify(self._app, self._folder)
        found = {
            "saves_a_second": round(self._run(self._appended())),
            "load_of_3_ms": self._run(self._loaded(self._history.appointments, self._loads)),
            "load_of_24_ms": self._run(self._loaded(self._history.pages, self._loads)),
            "position_at_ms": self._run(self._moments()),
            "verified_a_second": round(report.events / report.seconds),
            "sound": report.ok,
            "bytes_an_event": self._sizes(),
        }
        self._catch_up()
        return found

    def cold(self) -> dict[str, Any]:
        """Loads that find nothing in memory."""
        found: dict[str, Any] = {}
        for name, streams in (("load_of_3_ms", self._history.appointments), ("load_of_24_ms", self._history.pages)):
            self._postgres.stop()
            for path in self._postgres_files():
                with path.open("rb") as file, contextlib.suppress(OSError):
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            self._postgres.ensure_running()
            found[name] = self._run(self._loaded(streams, COLD_LOADS))
        return found

    def archived(self) -> dict[str, Any]:
        """The older half moved, and everything asked again."""
        started = clock.perf_counter()
        done = archive(self._postgres.dsn(ARCHIVIST_ROLE), self._folder, upto=self._tree.size // 2)
        moved = clock.perf_counter()
        with psycopg.connect(self._owner, autocommit=True) as connection:
            connection.execute("VACUUM ANALYZE events")
            vacuumed = clock.perf_counter()
            connection.execute("VACUUM ANALYZE archived_events")
            connection.execute("VACUUM ANALYZE archived_streams")
        half = len(self._history.appointments) // 3
        return {
            "moved": done.events,
            "moved_a_second": round(done.events / (moved - started)),
            "vacuum_seconds": round(vacuumed - moved, 1),
            "archived_load_of_3_ms": self._run(self._loaded(self._history.appointments[:half], self._loads)),
        } | self._asked()

    def _fill(self, events: int) -> None:
        by = author(
            organization="bench",
            actor=str(UUID(int=1)),
            on_behalf_of=None,
            purpose=None,
            command_id=UUID(int=2),
            correlation_id=UUID(int=2),
            causation_id=None,
        )
        at = instant(self._recorded)
        with psycopg.connect(self._app) as connection:
            while (first := self._tree.size) < events:
                rows: list[bytes] = []
                for stream, version, name, payload in self._drafts:
                    self._recorded += 1000
                    row = row_v1(
                        draft(by, stream, uuids.uuid7(), name, payload, at),
                        first + len(rows) + 1,
                        version,
                        self._recorded,
                    )
                    leaf = leaf_of(row)
                    self._hash = link(self._hash, leaf)
                    self._tree.append(leaf)
                    rows.append(copy_tuple(row, self._hash))
                    if len(rows) >= A_BATCH or self._tree.size >= events:
                        break
                with connection.cursor() as cursor:
                    with cursor.copy(f"COPY events ({', '.join(COLUMNS)}) FROM STDIN (FORMAT BINARY)") as copy:
                        copy.write(b"".join((COPY_HEADER, *rows, COPY_TRAILER)))
                    cursor.execute(
                        "UPDATE log_head SET position = %s, hash = %s, recorded_at = %s",
                        (self._tree.size, self._hash, instant(self._recorded)),
                    )
                connection.commit()
                self._moments_of_batches.append(self._recorded)
                self._sign()
        with psycopg.connect(self._owner, autocommit=True) as connection:
            connection.execute("VACUUM ANALYZE events")
            connection.execute("CHECKPOINT")

    def _sign(self) -> None:
        last = self._checkpoints.last
        if self._tree.size - (last.size if last else 0) >= self._every:
            moment = instant(self._recorded)
            self._checkpoints.append(self._key.sign(self._tree, self._hash, moment, datetime.now(UTC)))

    def _catch_up(self) -> None:
        """Over what was saved meanwhile."""
        with psycopg.connect(self._app) as connection:
            for data in tuples(connection, self._tree.size, 2**62):
                row, self._hash = row_and_hash(data)
                self._tree.append(leaf_of(row))
                self._recorded = max(self._recorded, recorded_at_in(row))

    def _run(self, asked: Any) -> Any:
        gc.collect()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(asked)

    @contextlib.asynccontextmanager
    async def _opened(self) -> Any:
        keyring = PostgresKeyring(self._app, MasterKeyFile(bytes(32)))
        async with PostgresEventLog(self._app, keyring) as log:
            yield log
        await keyring.close()

    async def _appended(self) -> float:
        """Saves a second, of a booking on streams that nobody has seen."""
        events, at = booking()
        kinds = [(stream.split("/")[0], event) for stream, event in events.items()]

        def save() -> Save:
            new = [NewEvent(f"{kind}/{uuids.uuid7()}", event, at, uuids.uuid7()) for kind, event in kinds]
            context = Context("bench", "bench", uuids.uuid7(), uuids.uuid7())
            return Save(context, {one.stream: 0 for one in new}, new)

        asked = iter([save() for _ in range(self._saves)])
        async with self._opened() as log:
            await log.append(save())

            async def client() -> None:
                for one in asked:
                    await log.append(one)

            started = clock.perf_counter()
            await asyncio.gather(*(client() for _ in range(AT_ONCE)))
            return self._saves / (clock.perf_counter() - started)

    async def _loaded(self, streams: Sequence[str], count: int) -> dict[str, float]:
        """Milliseconds of one load after another, streams of all ages."""
        dice = random.Random(2)  # noqa: S311
        # The newest may not have come to their end yet.
        old = len(streams) - min(len(streams) // 10, 11 * PROVIDERS)
        wanted = [streams[dice.randrange(old)].removeprefix("bench/") for _ in range(count)]
        took: list[float] = []
        async with self._opened() as log:
            await log.head()
            for stream in wanted:
                started = clock.perf_counter()
                await log._reader.load({f"bench/{stream}": 0}, None)
                took.append(1000 * (clock.perf_counter() - started))
        return _percentiles(took)

    async def _moments(self) -> dict[str, float]:
        dice = random.Random(3)  # noqa: S311
        took: list[float] = []
        async with self._opened() as log:
            await log.head()
            for _ in range(MOMENTS):
                moment = instant(dice.choice(self._moments_of_batches) + dice.randint(-1000 * A_BATCH, 0))
                started = clock.perf_counter()
                await log.position_at(moment)
                took.append(1000 * (clock.perf_counter() - started))
        return _percentiles(took)

    def _sizes(self) -> dict[str, int]:
        with psycopg.connect(self._owner) as connection:
            sizes: dict[str, int] = dict(connection.execute(_SIZES).fetchall())
            counts = connection.execute(
                "SELECT (SELECT position FROM log_head), (SELECT position FROM archive_floor)"
            ).fetchone()
        head, floor = counts or (0, 0)
        hot, streams = head - floor, sum(n for name, n in sizes.items() if name.startswith("archived_streams"))
        parts = {name: n for name, n in sizes.items() if name.startswith("archived_events")}
        found = {
            "table": sizes["events"] // hot,
            "index_position": sizes["events_pkey"] // hot,
            "index_stream_version": sizes["events_stream_version_key"] // hot,
        }
        if floor:
            found["archive_with_indexes"] = sum(parts.values()) // floor
            found["archived_streams"] = streams // floor
        return found

    def _postgres_files(self) -> list[Path]:
        return [path for path in (self._data.postgres / "base").rglob("*") if path.is_file()]


def _percentiles(took: Sequence[float]) -> dict[str, float]:
    cuts = statistics.quantiles(took, n=100)
    return {"median": round(cuts[49], 3), "p99": round(cuts[98], 3)}
