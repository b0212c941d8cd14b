"""Whatever a superuser does to the log behind its back is found, and the first position at fault is named."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from infra.event_log import verify as verification
from infra.event_log.checkpoints import (
    FILE,
    AnotherSigner,
    Checkpointer,
    CheckpointsBusy,
    SigningKey,
    is_signed,
    public_keys,
    publish,
    read_checkpoints,
)
from infra.event_log.log import PostgresEventLog
from infra.event_log.merkle import is_consistent, is_included
from infra.event_log.rows import FIRST_HASH, leaf_of, link
from infra.event_log.scan import position_in, row_and_hash, tuples
from infra.event_log.verify import Fault, FaultKind, Report, prove, prove_continuation, verify
from infra.key_files import replace
from tests.conftest import Database
from tests.infra.event_log.conftest import notes, until

EVENTS = 60
KEY = SigningKey(bytes(range(32)))


@pytest.fixture(autouse=True)
def _short_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "_RANGE", 16)


async def fill(log: PostgresEventLog, first: int = 0, last: int = EVENTS) -> None:
    for number in range(first, last):
        await log.append(notes(f"page/{number % 4}", number // 4, number))


async def sign(database: Database, folder: Path, log: PostgresEventLog) -> None:
    """One checkpoint of what is there."""
    checkpointer = Checkpointer(database.app, folder, KEY, log.wait)
    await checkpointer.close()


@contextmanager
def tampered(database: Database) -> Iterator[psycopg.Connection[Any]]:
    """The log as it is left by a superuser who switched the trigger off; afterwards it is as it was before."""
    with psycopg.connect(database.superuser, autocommit=True) as connection:
        connection.execute("ALTER TABLE events DISABLE TRIGGER USER")
        connection.execute("CREATE TABLE good_events AS SELECT * FROM events")
        connection.execute("CREATE TABLE good_head AS SELECT * FROM log_head")
        yield connection
        connection.execute("TRUNCATE events, log_head")
        connection.execute("INSERT INTO events SELECT * FROM good_events")
        connection.execute("INSERT INTO log_head SELECT * FROM good_head")
        connection.execute("DROP TABLE good_events, good_head")


def check(database: Database, folder: Path | None = None, **options: Any) -> Report:
    return verify(database.app, folder, processes=1, **options)


def first(report: Report) -> tuple[int, FaultKind]:
    assert report.first is not None
    return report.first.position, report.first.kind


async def test_a_sound_log_is_found_sound(database: Database, log: PostgresEventLog, tmp_path: Path) -> None:
    assert check(database).ok
    for upto in (1, 15, 16, 17, 40, EVENTS):
        await fill(log, await log.head(), upto)
        await sign(database, tmp_path, log)
    seen: list[tuple[int, int]] = []
    report = check(database, tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert report.faults == ()
    assert (report.ok, report.events, report.checkpoints) == (True, EVENTS, 6)
    assert seen == [(16, 60), (32, 60), (48, 60), (60, 60)]


async def test_processes_side_by_side_find_the_same(
    database: Database, log: PostgresEventLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "_WORTH_A_PROCESS", 1)
    await fill(log)
    await sign(database, tmp_path, log)
    assert verify(database.app, tmp_path, processes=2).ok
    with tampered(database) as connection:
        connection.execute("UPDATE events SET actor = 'nobody' WHERE position = 33")
        assert first(verify(database.app, tmp_path, processes=2)) == (33, FaultKind.ALTERED)


CHANGES = [
    "payload = set_byte(payload, 3, get_byte(payload, 3) # 1)",
    "organization = 'Clinic'",
    "stream = stream || 'x'",
    "version = version + 100",
    "event_id = gen_random_uuid()",
    "name = 'TestNoted.v2'",
    "actor = actor || ' '",
    "on_behalf_of = 'somebody'",
    "purpose = ''",
    "command_id = gen_random_uuid()",
    "correlation_id = gen_random_uuid()",
    "causation_id = gen_random_uuid()",
    "occurred_at = occurred_at + interval '1 microsecond'",
    "recorded_at = recorded_at + interval '1 microsecond'",
    "hash = set_byte(hash, 31, get_byte(hash, 31) # 1)",
    "hash = ''",
    "hash = hash || '\\x00'",
]


@pytest.mark.parametrize("position", [1, 16, 17, EVENTS])
async def test_a_changed_byte(database: Database, log: PostgresEventLog, position: int) -> None:
    await fill(log)
    for change in CHANGES:
        with tampered(database) as connection:
            connection.execute(f"UPDATE events SET {change} WHERE position = {position}".encode())
            assert first(check(database)) == (position, FaultKind.ALTERED), change
    assert check(database).ok


async def test_a_row_removed(database: Database, log: PostgresEventLog) -> None:
    await fill(log)
    for position in (1, 16, 17, 37, EVENTS - 1):
        with tampered(database) as connection:
            connection.execute("DELETE FROM events WHERE position = %s", (position,))
            assert first(check(database)) == (position, FaultKind.GAP)


async def test_two_rows_swapped(database: Database, log: PostgresEventLog) -> None:
    await fill(log)
    for one, other in ((1, 2), (16, 17), (5, 9), (5, 50), (59, 60), (1, 60)):
        with tampered(database) as connection:
            swap(connection, one, other)
            report = check(database)
            assert (first(report), f"{other}" in str(report.first)) == ((one, FaultKind.SWAPPED), True)
            connection.execute(
                "UPDATE events SET hash = (SELECT hash FROM events AS e WHERE e.position = %s + %s - events.position)"
                " WHERE position IN (%s, %s)",
                (one, other, one, other),
            )
            report = check(database)
            assert (first(report), f"{other}" in str(report.first)) == ((one, FaultKind.SWAPPED), True)


def swap(connection: psycopg.Connection[Any], one: int, other: int) -> None:
    for now, then in ((one, -1), (other, one), (-1, other)):
        connection.execute("UPDATE events SET position = %s WHERE position = %s", (then, now))


async def test_a_tail_cut_off(database: Database, log: PostgresEventLog) -> None:
    await fill(log)
    for kept in (0, 1, 16, 33, EVENTS - 1):
        with tampered(database) as connection:
            connection.execute("DELETE FROM events WHERE position > %s", (kept,))
            assert first(check(database)) == (kept + 1, FaultKind.TAIL)


async def test_a_tail_cut_off_together_with_the_head(database: Database, log: PostgresEventLog, tmp_path: Path) -> None:
    await fill(log)
    await sign(database, tmp_path, log)
    for kept in (0, 16, 33, EVENTS - 1):
        with tampered(database) as connection:
            connection.execute("DELETE FROM events WHERE position > %s", (kept,))
            connection.execute(
                "UPDATE log_head SET position = %s,"
                " hash = coalesce((SELECT hash FROM events WHERE position = %s), decode(repeat('00', 32), 'hex'))",
                (kept, kept),
            )
            assert check(database).ok, "nothing inside the database tells"
            assert first(check(database, tmp_path)) == (kept + 1, FaultKind.TAIL)


async def test_a_chain_computed_anew(database: Database, log: PostgresEventLog, tmp_path: Path) -> None:
    await fill(log, 0, 20)
    await sign(database, tmp_path, log)
    await fill(log, 20, 40)
    await sign(database, tmp_path, log)
    with tampered(database) as connection:
        connection.execute("UPDATE events SET actor = 'nobody' WHERE position = 33")
        rechain(connection)
        assert check(database).ok, "nothing inside the database tells"
        assert first(check(database, tmp_path)) == (21, FaultKind.REWRITTEN)


def rechain(connection: psycopg.Connection[Any]) -> None:
    hash = FIRST_HASH
    for data in list(tuples(connection, 0, 2**62)):
        row, _ = row_and_hash(data)
        hash = link(hash, leaf_of(row))
        connection.execute("UPDATE events SET hash = %s WHERE position = %s", (hash, position_in(row)))
    connection.execute("UPDATE log_head SET hash = %s", (hash,))


async def test_time_running_backwards_and_versions_that_jump(database: Database, log: PostgresEventLog) -> None:
    await fill(log)
    with tampered(database) as connection:
        connection.execute("UPDATE events SET recorded_at = recorded_at - interval '1 day' WHERE position = 40")
        connection.execute("UPDATE events SET version = -version WHERE stream = 'clinic/page/1' AND version > 9")
        connection.execute("UPDATE events SET version = 7 - version WHERE version < 0")
        rechain(connection)
        report = check(database)
    assert [(fault.position, fault.kind) for fault in report.faults] == [
        (38, FaultKind.VERSIONS),
        (40, FaultKind.BACKWARDS),
    ]


async def test_a_head_that_does_not_fit(database: Database, log: PostgresEventLog) -> None:
    await fill(log)
    with psycopg.connect(database.superuser) as connection:
        connection.execute("UPDATE log_head SET position = 50")
    assert first(check(database)) == (51, FaultKind.HEAD)
    with psycopg.connect(database.superuser) as connection:
        connection.execute("UPDATE log_head SET position = 60, hash = decode(repeat('11', 32), 'hex')")
    assert first(check(database)) == (60, FaultKind.HEAD)


async def test_checkpoints_that_were_touched(database: Database, log: PostgresEventLog, tmp_path: Path) -> None:
    await fill(log, 0, 20)
    await sign(database, tmp_path, log)
    await fill(log, 20, 40)
    await sign(database, tmp_path, log)
    file = tmp_path / FILE
    lines = file.read_bytes().splitlines(keepends=True)

    def altered(**fields: Any) -> bytes:
        return json.dumps(json.loads(lines[0]) | fields).encode() + b"\n"

    for line in (altered(size=19), altered(root="00" * 32), altered(hash="00" * 32), altered(key="0123")):
        file.write_bytes(line + lines[1])
        assert check(database, tmp_path).first is not None
        assert first(check(database, tmp_path))[1] is FaultKind.SIGNATURE
    file.write_bytes(b"{}\n" + lines[1])
    assert first(check(database, tmp_path)) == (1, FaultKind.CHECKPOINT)
    file.write_bytes(lines[1] + lines[0])
    assert first(check(database, tmp_path)) == (41, FaultKind.CHECKPOINT)
    file.write_bytes(b"".join(lines))
    assert check(database, tmp_path).ok
    assert first(check(database, tmp_path, keys={})) == (20, FaultKind.SIGNATURE)


async def test_a_torn_last_line_is_left_out_and_repaired(
    database: Database, log: PostgresEventLog, tmp_path: Path
) -> None:
    await fill(log, 0, 20)
    await sign(database, tmp_path, log)
    whole = (tmp_path / FILE).read_bytes()
    for torn in (b"{", whole[:-1], whole[: len(whole) // 2]):
        (tmp_path / FILE).write_bytes(whole + torn)
        assert check(database, tmp_path).ok
        await sign(database, tmp_path, log)
        assert (tmp_path / FILE).read_bytes() == whole
    (tmp_path / FILE).write_bytes(whole + b'{"si')
    await fill(log, 20, 30)
    await sign(database, tmp_path, log)
    assert [checkpoint and checkpoint.size for checkpoint in read_checkpoints(tmp_path)] == [20, 30]
    assert check(database, tmp_path).ok


async def test_a_public_key_that_was_torn_by_a_crash_is_laid_there_again(
    database: Database, log: PostgresEventLog, tmp_path: Path
) -> None:
    key = SigningKey(bytes(32))
    await log.append(notes("page/1", 0, 1))
    await Checkpointer(database.app, tmp_path, key, log.wait).close()
    (tmp_path / f"{key.id}.pub").write_bytes(b"")
    await log.append(notes("page/1", 1, 2))
    await Checkpointer(database.app, tmp_path, key, log.wait).close()
    assert (tmp_path / f"{key.id}.pub").read_text().strip() == key.public.hex()
    assert verify(database.app, tmp_path).checkpoints == 2


async def test_checkpoints_are_made_as_the_log_grows(database: Database, log: PostgresEventLog, tmp_path: Path) -> None:
    checkpointer = Checkpointer(database.app, tmp_path, KEY, log.wait, events=10, seconds=0.1)
    checkpointer.start()
    await fill(log, 0, 3)
    await until(lambda: checkpointer.size == 3)
    with pytest.raises(CheckpointsBusy):
        Checkpointer(database.app, tmp_path, KEY, log.wait)
    await fill(log, 3, 40)
    await checkpointer.close()
    assert checkpointer.fault is None
    checkpoints = [checkpoint for checkpoint in read_checkpoints(tmp_path) if checkpoint]
    assert (checkpoints[-1].size, len(checkpoints) >= 3) == (40, True)
    assert all(is_signed(checkpoint, public_keys(tmp_path)) for checkpoint in checkpoints)
    assert check(database, tmp_path).ok


async def test_another_key_never_signs_beside_the_checkpoints_unless_it_was_put_there(
    database: Database, log: PostgresEventLog, tmp_path: Path
) -> None:
    folder, first = tmp_path / "checkpoints", SigningKey(bytes(32))
    await fill(log, 0, 3)
    await Checkpointer(database.app, folder, first, log.wait).close()
    await fill(log, 3, 5)
    second = SigningKey(replace(tmp_path / "checkpoints.ed25519"))
    with pytest.raises(AnotherSigner, match="rotate checkpoints") as refused:
        Checkpointer(database.app, folder, second, log.wait)
    assert first.id in str(refused.value)
    assert set(public_keys(folder)) == {first.id}
    publish(folder, second)
    await Checkpointer(database.app, folder, second, log.wait).close()
    assert set(public_keys(folder)) == {first.id, second.id}


async def test_an_altered_log_is_never_signed(database: Database, log: PostgresEventLog, tmp_path: Path) -> None:
    await fill(log, 0, 20)
    await sign(database, tmp_path, log)
    await fill(log, 20, 30)
    for change, position in (
        ("UPDATE events SET hash = decode(repeat('11', 32), 'hex') WHERE position = 20", 20),
        ("UPDATE events SET actor = 'nobody' WHERE position = 25", 25),
        ("DELETE FROM events WHERE position = 25", 25),
        ("DELETE FROM events WHERE position = 30", 30),
    ):
        with tampered(database) as connection:
            connection.execute(change.encode())
            checkpointer = Checkpointer(database.app, tmp_path, KEY, log.wait, events=1, seconds=0.1)
            checkpointer.start()
            await until(lambda: checkpointer.fault is not None)  # noqa: B023
            await checkpointer.close()
            assert checkpointer.fault is not None
            assert (checkpointer.fault.position, checkpointer.size) == (position, 20)


async def test_one_event_is_proved_without_the_others(
    database: Database, log: PostgresEventLog, tmp_path: Path
) -> None:
    await fill(log, 0, 23)
    await sign(database, tmp_path, log)
    await fill(log, 23, 40)
    await sign(database, tmp_path, log)
    older, newer = (checkpoint for checkpoint in read_checkpoints(tmp_path) if checkpoint)
    for position in (1, 16, 40):
        row, path = prove(database.app, position, newer.size)
        assert len(path) <= 6
        assert is_included(leaf_of(row), position - 1, newer.size, path, newer.root)
        assert not is_included(leaf_of(row + b"x"), position - 1, newer.size, path, newer.root)
    path = prove_continuation(database.app, older.size, newer.size)
    assert is_consistent(older.size, newer.size, older.root, newer.root, path)
    with pytest.raises(ValueError, match="position"):
        prove(database.app, 41, 41)
    with pytest.raises(ValueError, match="reach"):
        prove(database.app, 1, 41)


def test_a_fault_reads_as_a_sentence() -> None:
    assert str(Fault(7, FaultKind.GAP, "a row is missing")) == "position 7: gap (a row is missing)"
