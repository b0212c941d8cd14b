"""An archived event is where it was, as far as anybody can tell; and nothing gets in or out of the archive but so."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from eventsourcing.persistence import OperationalError

from domain.ports import VersionConflict
from infra.event_log import verify as verification
from infra.event_log.archive import ArchiveBusy, aim, archive
from infra.event_log.checkpoints import Checkpointer, LogAltered, SigningKey, read_checkpoints
from infra.event_log.connections import Detached
from infra.event_log.log import PostgresEventLog
from infra.event_log.merkle import is_consistent, is_included
from infra.event_log.parts import NoSuchPart, attach, detach, parts, verify_part
from infra.event_log.persistence import Datastore, LogApplicationRecorder
from infra.event_log.ranges import FaultKind
from infra.event_log.rows import leaf_of
from infra.event_log.schema import ARCHIVIST_ROLE, as_role
from infra.event_log.verify import prove, prove_continuation, verify
from infra.keyring import MasterKeyFile, PostgresKeyring
from infra.troubles import WrongInput
from tests.conftest import Database, fresh_database
from tests.infra.event_log.conftest import new, notes, numbers, save

PART = 16
KEY = SigningKey(bytes(range(32)))


@pytest.fixture(autouse=True)
def _short_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "_RANGE", 8)


@pytest.fixture(autouse=True)
def _small_parts(database: Database) -> None:
    small_parts(database)


def small_parts(database: Database) -> None:
    with psycopg.connect(database.superuser, autocommit=True) as connection:
        connection.execute("UPDATE archive_floor SET part_size = %s", (PART,))


def archivist(database: Database) -> str:
    return as_role(database.superuser, ARCHIVIST_ROLE)


async def fill(log: PostgresEventLog, first: int, last: int) -> None:
    for number in range(first, last):
        await log.append(notes(f"page/{number % 4}", number // 4, number))


async def sign(database: Database, folder: Path, log: PostgresEventLog) -> None:
    await Checkpointer(database.app, folder, KEY, log.wait).close()


async def signed_log(database: Database, folder: Path, log: PostgresEventLog) -> None:
    """Sixty events, signed at 10, 40 and 60."""
    for upto in (10, 40, 60):
        await fill(log, await log.head(), upto)
        await sign(database, folder, log)


def in_each(database: Database) -> tuple[int, int]:
    """How many events stand in the archive, and in the table in use."""
    with psycopg.connect(database.superuser) as connection:
        row = connection.execute(
            "SELECT (SELECT count(*) FROM archived_events), (SELECT count(*) FROM events)"
        ).fetchone()
    assert row is not None
    return row[0], row[1]


async def test_it_moves_up_to_a_signed_checkpoint(database: Database, log: PostgresEventLog, tmp_path: Path) -> None:
    await signed_log(database, tmp_path, log)
    before = await log.read(0, 100)
    told: list[tuple[int, int]] = []
    for upto, moved in ((9, 0), (39, 10), (45, 40), (1000, 40)):
        planned = aim(archivist(database), tmp_path, upto=upto)
        done = archive(
            archivist(database), tmp_path, upto=upto, range_size=7, progress=lambda n, of: told.append((n, of))
        )
        assert (done.upto, in_each(database), planned) == (moved, (moved, 60 - moved), done)
    assert told[0] == (7, 10)
    assert told[-1] == (30, 30)
    assert await log.read(0, 100) == before
    await log.append(notes("page/0", 15, 60))
    await sign(database, tmp_path, log)
    assert archive(archivist(database), tmp_path, upto=1000).upto == 60, "the newest event stays"
    report = verify(database.app, tmp_path, processes=1)
    assert (report.faults, report.events, report.checkpoints) == ((), 61, 4)


async def test_age_says_what_is_old(database: Database, log: PostgresEventLog, tmp_path: Path) -> None:
    await signed_log(database, tmp_path, log)
    await fill(log, 60, 61)
    assert aim(archivist(database), tmp_path, older_than=timedelta(hours=1)).events == 0
    assert aim(archivist(database), tmp_path, older_than=timedelta(0)).upto == 60
    with pytest.raises(ValueError, match="either"):
        aim(archivist(database), tmp_path)


async def test_the_conflict_check_sees_archived_versions(
    database: Database, log: PostgresEventLog, keyring: PostgresKeyring, tmp_path: Path
) -> None:
    await signed_log(database, tmp_path, log)
    await fill(log, 60, 61)
    archive(archivist(database), tmp_path, upto=60)
    async with PostgresEventLog(database.app, keyring) as fresh:
        for writer in (log, fresh):
            with pytest.raises(VersionConflict) as conflict:
                await writer.append(save({"page/1": 0, "page/2": 14}, new("page/1", 0)))
            assert conflict.value.actual == {"page/1": 15, "page/2": 15}
        saved = await fresh.append(notes("page/1", 15, 100))
        assert saved.position == 62
    events = (await log.load("clinic", {"page/1": 0}))["page/1"]
    assert [event.version for event in events] == list(range(1, 17))
    assert numbers(events)[-2:] == [57, 100]
    assert verify(database.app, tmp_path, processes=1).ok


async def test_everything_answers_as_on_a_log_that_was_never_archived(
    postgres: str, template: str, tmp_path: Path
) -> None:
    for seed in range(6):
        await twins(postgres, template, tmp_path / str(seed), random.Random(seed))


@asynccontextmanager
async def opened(database: Database) -> AsyncIterator[PostgresEventLog]:
    keyring = PostgresKeyring(database.app, MasterKeyFile(bytes(32)))
    async with PostgresEventLog(database.app, keyring) as log:
        yield log
    await keyring.close()


async def twins(postgres: str, template: str, folder: Path, dice: random.Random) -> None:
    """The same random saves to two logs, one of which is archived at random moments: every answer is the same."""
    with fresh_database(postgres, template) as one, fresh_database(postgres, template) as other:
        small_parts(one)
        async with opened(one) as archived, opened(other) as plain:
            known: dict[str, int] = {}
            instants = {plain: [], archived: []}  # type: ignore[var-annotated]
            for _ in range(60):
                match dice.randrange(6):
                    case 0 | 1 | 2:
                        pages = dice.sample([f"page/{n}" for n in range(8)], dice.randint(1, 3))
                        # At times with a version that is not the stream's.
                        versions = {page: known.get(page, 0) - (dice.random() < 0.2) for page in pages}
                        asked = save(versions, *(new(page, dice.randrange(1000)) for page in pages))
                        said = [await outcome(log, asked) for log in (archived, plain)]
                        assert said[0] == said[1]
                        if isinstance(said[0], list):
                            known |= {page: known.get(page, 0) + 1 for page in pages}
                    case 3:
                        await sign(one, folder, archived)
                        head = await archived.head()
                        if head:
                            archive(
                                archivist(one),
                                folder,
                                upto=dice.randint(0, head),
                                range_size=dice.choice((1, 5, 100)),
                            )
                    case 4:
                        for log, seen in instants.items():
                            seen += [event.recorded_at for event in await log.read(len(seen), 100)]
                    case _:
                        await same_answers(archived, plain, dice, instants)
            await same_answers(archived, plain, dice, instants)
            report = verify(one.app, folder, processes=1)
            assert (report.faults, report.events) == ((), await plain.head())


async def outcome(log: PostgresEventLog, asked: Any) -> Any:
    try:
        return list((await log.append(asked)).positions)
    except VersionConflict as conflict:
        return conflict.actual


async def same_answers(archived: PostgresEventLog, plain: PostgresEventLog, dice: random.Random, instants: Any) -> None:
    head = await plain.head()
    upto = dice.choice((None, dice.randint(0, head)))
    after = {f"page/{n}": dice.randint(0, 6) for n in range(9)}
    position, limit = dice.randint(0, head), dice.randint(1, 30)
    said = []
    for log in (archived, plain):
        loaded = await log.load("clinic", after, upto=upto)
        seen = instants[log]
        at = dice.randrange(len(seen)) if seen else 0
        dice.seed(position)
        said.append(
            (
                {stream: facts(events) for stream, events in loaded.items()},
                facts(await log.read(position, limit)),
                await log.streams("clinic", "page/2", "page/6"),
                await log.head(),
                await log.streams("clinic", "page/1", "page/8", limit=limit % 5, backwards=bool(limit % 2)),
                [await log.position_at(when) for when in seen],
                [await log.position_at(when - timedelta(microseconds=1)) for when in seen[at : at + 1]],
            )
        )
        dice.seed(position)
    assert said[0][:5] == said[1][:5]
    # Each log has its own clock, and several events of a save share an instant.
    for log, answers in ((archived, said[0][5]), (plain, said[1][5])):
        seen = instants[log]
        for place, answer in enumerate(answers):
            last = max(n for n, when in enumerate(seen) if when == seen[place])
            assert answer == last + 1 or (last == len(seen) - 1 and answer > last)


def facts(events: Any) -> list[tuple[Any, ...]]:
    return [(event.position, event.stream, event.version, event.event_id, event.event) for event in events]


async def test_the_library_reads_across_the_border(database: Database, log: PostgresEventLog, tmp_path: Path) -> None:
    await signed_log(database, tmp_path, log)
    datastore = Datastore(database.app, "text")
    recorder = LogApplicationRecorder(datastore)

    def answers() -> list[Any]:
        return [
            recorder.select_events("clinic/page/1"),
            recorder.select_events("clinic/page/1", gt=3, lte=12, desc=True, limit=5),
            recorder.select_notifications(5, 50, 48),
            recorder.select_notifications(None, 10, topics=["TestNoted.v1"]),
            recorder.max_notification_id(),
        ]

    before = answers()
    archive(archivist(database), tmp_path, upto=40)
    assert answers() == before
    datastore.close()


async def test_proofs_hold_across_the_border(database: Database, log: PostgresEventLog, tmp_path: Path) -> None:
    await signed_log(database, tmp_path, log)
    archive(archivist(database), tmp_path, upto=45)
    oldest, older, newer = (checkpoint for checkpoint in read_checkpoints(tmp_path) if checkpoint)
    for position in (1, 16, 17, 40, 41, 60):
        row, path = prove(database.app, position, newer.size)
        assert is_included(leaf_of(row), position - 1, newer.size, path, newer.root)
    for first in (oldest, older):
        path = prove_continuation(database.app, first.size, newer.size)
        assert is_consistent(first.size, newer.size, first.root, newer.root, path)


async def test_checkpoints_go_on_from_the_floor(database: Database, log: PostgresEventLog, tmp_path: Path) -> None:
    await signed_log(database, tmp_path, log)
    await fill(log, 60, 61)
    archive(archivist(database), tmp_path, upto=60)
    await sign(database, tmp_path, log)
    assert [checkpoint and checkpoint.size for checkpoint in read_checkpoints(tmp_path)] == [10, 40, 60, 61]
    assert verify(database.app, tmp_path, processes=1).ok


async def test_what_was_altered_is_not_archived(database: Database, log: PostgresEventLog, tmp_path: Path) -> None:
    await signed_log(database, tmp_path, log)
    with altering(database) as connection:
        connection.execute("UPDATE events SET actor = 'nobody' WHERE position = 25")
    with pytest.raises(LogAltered, match="position 25"):
        archive(archivist(database), tmp_path, upto=60, range_size=10)
    assert in_each(database) == (16, 44)


async def test_without_a_known_key_nothing_is_signed(database: Database, log: PostgresEventLog, tmp_path: Path) -> None:
    await signed_log(database, tmp_path, log)
    assert aim(archivist(database), tmp_path, upto=60, keys={}).events == 0
    assert archive(archivist(database), tmp_path / "nowhere", upto=60).events == 0


@asynccontextmanager
async def archived_log(database: Database, log: PostgresEventLog, folder: Path) -> AsyncIterator[None]:
    await signed_log(database, folder, log)
    archive(archivist(database), folder, upto=40)
    yield


@contextmanager
def altering(database: Database) -> Iterator[psycopg.Connection[Any]]:
    """A superuser who switches the triggers off for a while."""
    with psycopg.connect(database.superuser, autocommit=True) as connection:
        tables = [
            name
            for name in ("events", "archived_events", "archived_events_16", "archived_events_32", "archive_floor")
            if connection.execute("SELECT to_regclass(%s)", (name,)).fetchone() != (None,)
        ]
        for name in tables:
            connection.execute(f"ALTER TABLE {name} DISABLE TRIGGER USER".encode())
        yield connection
        for name in tables:
            connection.execute(f"ALTER TABLE {name} ENABLE TRIGGER USER".encode())


@pytest.mark.parametrize(
    ("statement", "position", "kind"),
    [
        ("UPDATE archived_events SET actor = 'nobody' WHERE position = 7", 7, FaultKind.ALTERED),
        ("DELETE FROM archived_events WHERE position = 16", 16, FaultKind.GAP),
        ("INSERT INTO events SELECT * FROM archived_events WHERE position = 21", 21, FaultKind.TWICE),
        ("UPDATE archived_streams SET version = version - 1 WHERE stream = 'clinic/page/2'", 39, FaultKind.ARCHIVE),
        ("DELETE FROM archived_streams WHERE stream = 'clinic/page/2'", 3, FaultKind.ARCHIVE),
        ("UPDATE archive_parts SET root = decode(repeat('11', 32), 'hex') WHERE upto = 16", 16, FaultKind.ARCHIVE),
        ("UPDATE archive_floor SET hash = decode(repeat('11', 32), 'hex')", 40, FaultKind.ARCHIVE),
        ("UPDATE archive_floor SET frontier[2] = frontier[1]", 40, FaultKind.ARCHIVE),
    ],
)
async def test_whatever_a_superuser_does_to_the_archive_is_found(
    database: Database, log: PostgresEventLog, tmp_path: Path, statement: str, position: int, kind: FaultKind
) -> None:
    async with archived_log(database, log, tmp_path):
        with altering(database) as connection:
            connection.execute(statement.encode())
        first = verify(database.app, tmp_path, processes=1).first
        assert first is not None
        assert (first.position, first.kind) == (position, kind)


@pytest.mark.parametrize("role", ["daybook_archivist", "postgres"])
@pytest.mark.parametrize(
    "statements",
    [
        "DELETE FROM events WHERE position = 50",
        "DELETE FROM events WHERE position = 41",
        "DELETE FROM events",
        "UPDATE events SET name = 'x' WHERE position = 50",
        "TRUNCATE events",
        "UPDATE archived_events SET name = 'x' WHERE position = 3",
        "DELETE FROM archived_events WHERE position = 3",
        "TRUNCATE archived_events",
        "DELETE FROM archived_events_16 WHERE position = 3",
        "UPDATE archived_events_16 SET name = 'x'",
        "TRUNCATE archived_events_16",
        # Taken and not given away, out of turn, or not what it was.
        "INSERT INTO archived_events SELECT * FROM events WHERE position = 41",
        "INSERT INTO archived_events SELECT * FROM events WHERE position = 42",
        "INSERT INTO archived_events SELECT * FROM events WHERE position = 41; UPDATE archive_floor SET frontier ="
        " array_append(frontier, '\\x00'::bytea)",
        "INSERT INTO archived_events SELECT * FROM events WHERE position = 41; UPDATE archive_floor SET frontier ="
        " array_append(frontier, '\\x00'::bytea); DELETE FROM events WHERE position = 42",
        "INSERT INTO archived_events SELECT position, organization, stream, version, event_id, 'x', payload, actor,"
        " on_behalf_of, purpose, command_id, correlation_id, causation_id, occurred_at, recorded_at, hash FROM events"
        " WHERE position = 41; UPDATE archive_floor SET frontier = array_append(frontier, '\\x00'::bytea);"
        " DELETE FROM events WHERE position = 41",
        "INSERT INTO archived_events_48 SELECT * FROM events WHERE position = 41",
        # A table that only looks like the archive.
        "CREATE TEMP TABLE archived_events AS SELECT * FROM events; DELETE FROM public.events WHERE position > 40",
        "SET session_replication_role = replica; DELETE FROM events WHERE position = 50",
    ],
)
async def test_nobody_loses_doubles_or_changes_an_event(
    database: Database, log: PostgresEventLog, tmp_path: Path, role: str, statements: str
) -> None:
    async with archived_log(database, log, tmp_path):
        before = await log.read(0, 100)
        with (
            pytest.raises((psycopg.errors.InsufficientPrivilege, psycopg.errors.CheckViolation)),
            psycopg.connect(as_role(database.superuser, role)) as connection,
        ):
            connection.execute(statements.encode())
        assert await log.read(0, 100) == before
        assert in_each(database) == (40, 20)


async def test_a_program_from_before_the_archive_can_not_take_a_version_again(
    database: Database, log: PostgresEventLog, tmp_path: Path
) -> None:
    async with archived_log(database, log, tmp_path):
        with psycopg.connect(database.app) as connection, pytest.raises(psycopg.errors.UniqueViolation):
            connection.execute(
                "INSERT INTO events SELECT 61, organization, stream, version, gen_random_uuid(), name, payload, actor,"
                " on_behalf_of, purpose, command_id, correlation_id, causation_id, occurred_at, recorded_at, hash"
                " FROM archived_events WHERE position = 1"
            )


async def test_only_one_archives_at_a_time(
    database: Database, log: PostgresEventLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await signed_log(database, tmp_path, log)
    monkeypatch.setattr("infra.event_log.archive._SETTINGS", "SET lock_timeout = '100ms'")
    with psycopg.connect(archivist(database)) as connection:
        connection.execute("SELECT FROM archive_floor FOR UPDATE")
        with pytest.raises(ArchiveBusy):
            archive(archivist(database), tmp_path, upto=60)
    assert in_each(database) == (0, 60)


async def test_a_new_part_waits_for_those_who_may_not_know_it(
    database: Database, log: PostgresEventLog, tmp_path: Path
) -> None:
    await signed_log(database, tmp_path, log)
    with psycopg.connect(database.app) as reader:
        reader.execute("SELECT count(*) FROM archived_events")
        with pytest.raises(ArchiveBusy, match="waits for those who read"):
            archive(archivist(database), tmp_path, upto=40, patience=0.1)
        assert in_each(database) == (0, 60)
        moving = asyncio.create_task(asyncio.to_thread(archive, archivist(database), tmp_path, upto=40))
        await asyncio.sleep(0.2)
        assert in_each(database) == (0, 60)
        assert len(await log.read(0, 100)) == 60, "nobody else is kept waiting"
    assert (await moving).upto == in_each(database)[0] == 40


async def test_readers_meet_each_event_once_while_events_move(
    database: Database, log: PostgresEventLog, tmp_path: Path
) -> None:
    await fill(log, 0, 800)
    await sign(database, tmp_path, log)
    await log.append(notes("page/1", 200, 0))
    moving = asyncio.create_task(asyncio.to_thread(archive, archivist(database), tmp_path, upto=800, range_size=9))
    rounds = 0
    while not moving.done():
        assert [event.position for event in await log.read(0, 2000)] == list(range(1, await log.head() + 1))
        events = (await log.load("clinic", {"page/1": 0}))["page/1"]
        assert [event.version for event in events] == list(range(1, len(events) + 1))
        await log.append(notes("page/1", len(events), rounds))
        rounds += 1
    assert (await moving).upto == in_each(database)[0] == 800
    assert rounds > 3
    assert verify(database.app, tmp_path, processes=1).ok


_ARCHIVING = (
    "import sys; from pathlib import Path; from infra.event_log.archive import archive;"
    "print('moving', flush=True); archive(sys.argv[1], Path(sys.argv[2]), upto=10**9, range_size=5)"
)


async def test_an_archivist_killed_again_and_again_under_load(
    database: Database, log: PostgresEventLog, tmp_path: Path
) -> None:
    await fill(log, 0, 1200)
    await sign(database, tmp_path, log)
    stopping = asyncio.Event()

    async def booking() -> int:
        count = 0
        while not stopping.is_set():
            await log.append(notes(f"page/{count % 4}", 300 + count // 4, count))
            count += 1
        return count

    writing = asyncio.create_task(booking())
    dice = random.Random(1)
    places = [0]
    for _ in range(4):
        killed = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _ARCHIVING, archivist(database), str(tmp_path), stdout=asyncio.subprocess.PIPE
        )
        assert killed.stdout is not None
        await killed.stdout.readline()
        await asyncio.sleep(dice.uniform(0.05, 0.3))
        if killed.returncode is None:
            killed.kill()
        await killed.wait()
        archived, left = in_each(database)
        assert archived >= places[-1]
        places.append(archived)
        assert archived + left <= await log.head()
    stopping.set()
    count = await writing
    assert len(set(places)) > 2, "it was killed in the middle"
    assert [event.position for event in await log.read(0, 10_000)] == list(range(1, 1200 + count + 1))
    archive(archivist(database), tmp_path, upto=1200)
    report = verify(database.app, tmp_path, processes=1)
    assert (report.faults, report.events, in_each(database)) == ((), 1200 + count, (1200, count))


async def test_a_part_goes_into_a_file_and_comes_back(
    database: Database, log: PostgresEventLog, tmp_path: Path
) -> None:
    await signed_log(database, tmp_path, log)
    before = await log.read(0, 100)
    archive(archivist(database), tmp_path, upto=40)
    first, second = (detach(database.superuser, tmp_path / name, tmp_path) for name in ("1", "2"))
    assert first is not None
    assert second is not None
    assert [(one.after, one.upto, one.checkpoints) for one in (first, second)] == [(0, 16, 1), (16, 32, 0)]
    with pytest.raises(NoSuchPart):
        detach(database.superuser, tmp_path / "3", tmp_path)
    assert [one.detached for one in parts(database.app)] == [True, True, False]
    report = verify(database.app, tmp_path, processes=1)
    assert (report.faults, report.events, report.elsewhere) == ((), 28, 32)
    assert verify_part(tmp_path / "1", tmp_path).root == first.root
    newest = read_checkpoints(tmp_path)[-1]
    assert newest is not None
    for position in (33, 45, 60):
        row, path = prove(database.app, position, newest.size)
        assert is_included(leaf_of(row), position - 1, newest.size, path, newest.root)
    with pytest.raises(NoSuchPart, match="up to 16; the part that comes back"):
        attach(database.superuser, tmp_path / "1")
    attach(database.superuser, tmp_path / "2", tmp_path)
    assert await log.read(16, 100) == before[16:]
    attach(database.superuser, tmp_path / "1", tmp_path)
    assert await log.read(0, 100) == before
    assert (await log.load("clinic", {"page/1": 0}))["page/1"] == [e for e in before if e.stream == "page/1"]
    assert verify(database.app, tmp_path, processes=1).elsewhere == 0
    assert verify(database.app, tmp_path, processes=1).ok
    with psycopg.connect(database.superuser) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute("DELETE FROM archived_events_16")


async def test_what_is_away_is_never_answered_in_part(
    database: Database, log: PostgresEventLog, keyring: PostgresKeyring, tmp_path: Path
) -> None:
    await signed_log(database, tmp_path, log)
    await log.append(notes("page/9", 0, 1, 2))
    instants = [event.recorded_at for event in await log.read(0, 100)]
    archive(archivist(database), tmp_path, upto=60)
    detach(database.superuser, tmp_path / "1", tmp_path)
    for question in (
        log.read(0, 5),
        log.read(15, 5),
        log.load("clinic", {"page/1": 0}),
        log.load("clinic", {"page/9": 0, "page/2": 3}),
        log.position_at(instants[3]),
    ):
        with pytest.raises(Detached):
            await question
    assert len(await log.read(16, 100)) == 46
    assert [len(events) for events in (await log.load("clinic", {"page/1": 4, "page/9": 0})).values()] == [11, 2]
    assert await log.position_at(instants[-1]) == 62
    assert await log.streams("clinic", "page/0", "page/9") == [f"page/{n}" for n in (0, 1, 2, 3, 9)]
    with pytest.raises(VersionConflict) as conflict:
        await log.append(notes("page/1", 4, 0))
    assert conflict.value.actual == {"page/1": 15}
    await log.append(notes("page/1", 15, 0))
    await sign(database, tmp_path, log)
    assert verify(database.app, tmp_path, processes=1).ok
    datastore = Datastore(database.app, "text")
    recorder = LogApplicationRecorder(datastore)
    for library_asks in (
        lambda: recorder.select_events("clinic/page/1"),
        lambda: recorder.select_notifications(3, 10),
    ):
        with pytest.raises(OperationalError):
            library_asks()
    assert len(recorder.select_events("clinic/page/1", gt=4)) == 12
    datastore.close()


async def test_a_file_that_is_not_what_it_was_is_found(
    database: Database, log: PostgresEventLog, tmp_path: Path
) -> None:
    await signed_log(database, tmp_path, log)
    archive(archivist(database), tmp_path, upto=40)
    file = tmp_path / "part"
    detach(database.superuser, file, tmp_path)
    whole = file.read_bytes()
    for at in range(len(whole.split(b"\n", 1)[0]) + 30, len(whole), 331):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises((LogAltered, WrongInput)):
            attach(database.superuser, file, tmp_path)
    for cut in (0, 10, 400, len(whole) - 1):
        file.write_bytes(whole[:cut])
        with pytest.raises((LogAltered, WrongInput)):
            verify_part(file, tmp_path)
    file.write_bytes(whole)
    attach(database.superuser, file, tmp_path)


@pytest.mark.parametrize("step", ["marked", "pending", "detached"])
async def test_a_detaching_that_broke_off_is_finished(
    database: Database, log: PostgresEventLog, tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await signed_log(database, tmp_path, log)
    archive(archivist(database), tmp_path, upto=40)

    def breaks_off(connection: psycopg.Connection[Any], name: str) -> None:
        if step == "detached":
            connection.execute(f"ALTER TABLE archived_events DETACH PARTITION {name}".encode())
        if step == "pending":
            with psycopg.connect(database.superuser) as reader:
                reader.execute("SELECT count(*) FROM archived_events")
                connection.execute("SET lock_timeout = 0; SET statement_timeout = '300ms'")
                with pytest.raises(psycopg.errors.QueryCanceled):
                    connection.execute(f"ALTER TABLE archived_events DETACH PARTITION {name} CONCURRENTLY".encode())
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("infra.event_log.parts._finish", breaks_off)
        with pytest.raises(KeyboardInterrupt):
            detach(database.superuser, tmp_path / "1", tmp_path)
    with pytest.raises(Detached):
        await log.read(0, 10)
    assert verify(database.app, tmp_path, processes=1).ok
    again = attach if step == "marked" else detach
    again(database.superuser, tmp_path / ("1" if step == "marked" else "2"), tmp_path)
    with psycopg.connect(database.superuser) as connection:
        row = connection.execute("SELECT to_regclass('archived_events_16') IS NOT NULL").fetchone()
    assert row == (step == "marked",)
    assert verify(database.app, tmp_path, processes=1).ok
