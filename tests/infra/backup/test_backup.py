"""What is backed up comes back as it was: events, answers, keys, signatures; and nothing that was to be forgotten."""

from __future__ import annotations

import asyncio
import fcntl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.conninfo import make_conninfo

from domain.events import ERASED
from domain.ports import KeyReused, Memory
from infra.backup import create as making
from infra.backup import parts
from infra.backup.create import BackupBusy, LogNotWhole, OtherLog
from infra.backup.manifest import COMMANDS, KEYS, ROWS, BackupTrouble, Manifest, NoBackup, fingerprint, fingerprints
from infra.backup.parts import Damaged
from infra.backup.restore import NEEDED, NotEmpty, OlderBackup, WrongKeys
from infra.event_log.checkpoints import SigningKey, read_checkpoints
from infra.event_log.log import PostgresEventLog
from infra.event_log.schema import app_dsn, migrate
from infra.event_log.verify import verify as verify_log
from infra.event_log.writer import Tracked
from infra.key_marks import settle, succeed
from infra.keyring import MasterKeyFile, PostgresKeyring
from infra.keys import KeyFolder
from infra.troubles import CannotStart
from tests.conftest import Database, fresh_database
from tests.infra.backup.conftest import (
    ANNA,
    BERT,
    KEY,
    PUBLIC,
    back_up,
    bring_back,
    check,
    confide,
    everything_in,
    fill,
    reopened,
    sign,
    words_of,
)
from tests.infra.event_log.conftest import new, notes, save

Databases = Callable[[], Database]


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long log in small: parts are full with eight items."""
    for module in (making, parts):
        monkeypatch.setattr(module, "FULL", 8)
    monkeypatch.setattr(parts, "_MERGED", 4)


async def test_what_was_backed_up_comes_back_and_goes_on(
    database: Database,
    log: PostgresEventLog,
    keyring: PostgresKeyring,
    master: MasterKeyFile,
    another_database: Databases,
    tmp_path: Path,
) -> None:
    folder, signed, signed_on = tmp_path / "backup", tmp_path / "signed", tmp_path / "signed on"
    await fill(log, 0, 30)
    await confide(log, "visit/anna", ANNA, "a cough")
    await sign(database, signed, log)
    # A command that changed nothing, and a follower of the library's.
    nothing = save({}, memory=Memory("nothing", b"body", b"as it was"))
    await log.append(nothing)
    await log._writer.submit({}, (), tracked=Tracked("reports", 17))
    before = everything_in(database)
    assert len(before["commands"]) == 31
    assert len(before["tracking"]) == len(before["data_keys"]) == 1
    made = back_up(database, folder, checkpoints=signed)
    assert (made.events, made.manifest.position) == (31, 31)
    assert check(folder).ok

    other = another_database()
    restored = bring_back(folder, other, master, checkpoints=signed_on)
    assert (restored.verified.ok, restored.verified.events, restored.lost) == (True, 31, 0)
    assert everything_in(other) == before

    async def goes_on(log: PostgresEventLog) -> None:
        assert words_of(list(await log.read(0, 100))) == ["a cough"]
        # Commands are remembered: the same answer to a repeat, none to another body under the same key.
        repeated = await log.append(save({"page/3": 0}, new("page/3", 3), memory=Memory("key-3", b"body", b"?")))
        assert (repeated.replayed, repeated.position, repeated.result) == (True, 4, b"3")
        assert (await log.append(nothing)).replayed
        with pytest.raises(KeyReused):
            await log.append(save({"page/3": 0}, new("page/3", 3), memory=Memory("key-3", b"another", b"?")))
        saved = await log.append(notes("page/0", 8, 99))
        assert saved.position == 32
        await sign(other, signed_on, log)

    await reopened(other, master, goes_on)
    report = verify_log(other.app, signed_on)
    assert (report.ok, report.events, report.checkpoints) == (True, 32, 3)
    # The restored log's backup goes on in the same folder.
    assert back_up(other, folder, checkpoints=signed_on).events == 1
    assert check(folder, checkpoints=signed_on).ok


@pytest.mark.usefixtures("small_parts")
async def test_each_run_adds_what_is_new_and_many_small_parts_become_one(
    database: Database, log: PostgresEventLog, master: MasterKeyFile, another_database: Databases, tmp_path: Path
) -> None:
    folder, signed = tmp_path / "backup", tmp_path / "signed"
    await fill(log, 0, 20)
    assert back_up(database, folder).events == 20
    first = {path.name: path.read_bytes() for path in folder.glob("rows-*")}
    assert len(first) == 3
    for number in range(20, 50):
        await fill(log, number, number + 1)
        await sign(database, signed, log)
        assert back_up(database, folder, checkpoints=signed).events == 1
        assert check(folder, checkpoints=signed).ok
    # Full parts are never written again; the small ones behind them were gathered.
    for name in sorted(first)[:2]:
        assert (folder / name).read_bytes() == first[name]
    assert {path.name for path in folder.glob("*.zst")} == Manifest.load(folder).files
    for kind in (ROWS, COMMANDS, "checkpoints"):
        assert len(Manifest.load(folder).parts[kind]) <= 13
    assert back_up(database, folder, checkpoints=signed).events == 0
    other = another_database()
    assert bring_back(folder, other, master).verified.checkpoints == 31
    assert everything_in(other) == everything_in(database)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("events"), st.integers(1, 12)),
        st.tuples(st.just("nothing"), st.integers(1, 3)),
        st.tuples(st.just("confide"), st.sampled_from([ANNA, BERT])),
        st.tuples(st.just("forget"), st.sampled_from([ANNA, BERT])),
        st.tuples(st.just("sign"), st.none()),
        st.tuples(st.just("back up"), st.none()),
    ),
    min_size=1,
    max_size=25,
)


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=STEPS)
@pytest.mark.usefixtures("small_parts")
def test_whatever_happens_between_the_runs(
    steps: list[tuple[str, Any]], postgres: str, template: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The backup holds exactly what the database held when it was made."""
    here = tmp_path_factory.mktemp("any")
    folder, signed, master = here / "backup", here / "signed", MasterKeyFile(bytes(32))

    async def live(database: Database) -> None:
        keyring = PostgresKeyring(database.app, master)
        async with PostgresEventLog(database.app, keyring) as log:
            count = nothings = 0
            for number, (what, how) in enumerate(steps):
                if what == "events":
                    await fill(log, count, count + how)
                    count += how
                elif what == "nothing":
                    for _ in range(how):
                        nothings += 1
                        await log.append(save({}, memory=Memory(f"nothing-{nothings}", b"", b"")))
                elif what == "confide":
                    await confide(log, f"visit/{number}", how, "words")
                elif what == "forget":
                    await keyring.forget("clinic", str(how))
                elif what == "sign":
                    await sign(database, signed, log)
                else:
                    back_up(database, folder, checkpoints=signed)
            made = back_up(database, folder, checkpoints=signed)
            head = await log.head()
        await keyring.close()
        assert made.manifest.position == head
        assert made.manifest.items(COMMANDS) == count + nothings

    with fresh_database(postgres, template) as database, fresh_database(postgres, template) as other:
        asyncio.run(live(database))
        assert check(folder, checkpoints=signed).faults == []
        assert bring_back(folder, other, master).verified.ok
        assert everything_in(other) == everything_in(database)


async def test_who_was_forgotten_is_in_no_backup_made_afterwards_nor_comes_back_from_one_before(
    database: Database,
    log: PostgresEventLog,
    keyring: PostgresKeyring,
    master: MasterKeyFile,
    another_database: Databases,
    tmp_path: Path,
) -> None:
    folder, older = tmp_path / "backup", tmp_path / "older"
    await confide(log, "visit/anna", ANNA, "a cough")
    await confide(log, "visit/bert", BERT, "a knee")
    back_up(database, folder)
    back_up(database, older)
    (wrapped,) = [bytes(row[2]) for row in everything_in(database)["data_keys"] if row[1] == str(ANNA)]

    def is_held(where: Path) -> bool:
        held = [item for part in Manifest.load(where).parts[KEYS] for item in parts.unpack(where, part).items]
        return any(wrapped in item for item in held)

    assert is_held(folder)
    await keyring.forget("clinic", str(ANNA))
    await confide(log, "visit/bert-2", BERT, "the other knee")
    back_up(database, folder)
    assert not is_held(folder)
    # No file of an earlier run is left that could hold it.
    assert len(list(folder.glob("keys-*"))) == 1

    async def read(log: PostgresEventLog) -> list[Any]:
        return words_of(list(await log.read(0, 100)))

    newer, old_one = another_database(), another_database()
    bring_back(folder, newer, master)
    assert await reopened(newer, master, read) == [ERASED, "a knee", "the other knee"]
    bring_back(older, old_one, master, newest=folder)
    assert await reopened(old_one, master, read) == [ERASED, "a knee"]
    with pytest.raises(OlderBackup, match="older"):
        bring_back(folder, another_database(), master, newest=older)


async def test_a_newest_backup_of_another_log_is_not_believed(
    database: Database, log: PostgresEventLog, master: MasterKeyFile, another_database: Databases, tmp_path: Path
) -> None:
    await fill(log, 0, 3)
    back_up(database, tmp_path / "one")
    elsewhere = another_database()

    async def write(log: PostgresEventLog) -> None:
        await fill(log, 0, 5)

    await reopened(elsewhere, master, write)
    back_up(elsewhere, tmp_path / "two")
    with pytest.raises(OlderBackup, match="another log"):
        bring_back(tmp_path / "one", another_database(), master, newest=tmp_path / "two")
    with pytest.raises(OtherLog):
        back_up(elsewhere, tmp_path / "one")
    with pytest.raises(OtherLog, match="ends at position"):
        back_up(another_database(), tmp_path / "one")
    assert check(tmp_path / "one").ok


async def test_only_an_empty_database_that_nobody_uses_is_restored_into(
    database: Database, log: PostgresEventLog, master: MasterKeyFile, another_database: Databases, tmp_path: Path
) -> None:
    await fill(log, 0, 5)
    back_up(database, tmp_path / "backup")
    before = everything_in(database)
    with pytest.raises(NotEmpty):
        bring_back(tmp_path / "backup", database, master)
    assert everything_in(database) == before
    other = another_database()

    async def meanwhile(log: PostgresEventLog) -> None:
        await log.append(save({}, memory=Memory("nothing", b"", b"")))
        await asyncio.to_thread(bring_back, tmp_path / "backup", other, master)

    with pytest.raises(NotEmpty):
        await reopened(other, master, meanwhile)
    used = another_database()

    async def looking_on(log: PostgresEventLog) -> None:
        await asyncio.to_thread(bring_back, tmp_path / "backup", used, master)

    with pytest.raises(BackupTrouble, match="Stop every service"):
        await reopened(used, master, looking_on)
    assert everything_in(used)["events"] == []


def test_a_restore_makes_the_tables_itself(
    database: Database, postgres: str, master: MasterKeyFile, tmp_path: Path
) -> None:
    back_up(database, tmp_path / "backup")
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("CREATE DATABASE daybook_bare")
    bare = make_conninfo(postgres, dbname="daybook_bare")
    restored = bring_back(tmp_path / "backup", Database("daybook_bare", app_dsn(bare), bare), master)
    assert (restored.verified.ok, restored.manifest.position) == (True, 0)
    assert migrate(bare) == []
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("DROP DATABASE daybook_bare")


async def test_keys_that_do_not_fit_are_noticed_before_anything_is_touched(
    database: Database, log: PostgresEventLog, master: MasterKeyFile, another_database: Databases, tmp_path: Path
) -> None:
    folder = tmp_path / "backup"
    await confide(log, "visit/anna", ANNA, "a cough")
    secrets = {"master.key": fingerprint(b"m"), "commands": fingerprint(b"c"), "blind": fingerprint(b"b")}
    back_up(database, folder, secrets=secrets)
    other = another_database()
    with pytest.raises(WrongKeys, match="master key does not open"):
        bring_back(folder, other, MasterKeyFile(bytes(32)))
    with pytest.raises(WrongKeys, match=r"master\.key is missing"):
        bring_back(folder, other, master, secrets={})
    with pytest.raises(WrongKeys, match="blind is another"):
        bring_back(folder, other, master, secrets={**secrets, "blind": fingerprint(b"d")})
    with pytest.raises(Damaged, match="not signed by a known key"):
        bring_back(folder, other, master, keys={SigningKey(bytes(32)).id: SigningKey(bytes(32)).public})
    assert everything_in(other)["events"] == []
    assert bring_back(folder, other, master, secrets=secrets).verified.ok


async def test_a_restored_log_is_opened_with_the_keys_of_its_backup(
    database: Database, log: PostgresEventLog, another_database: Databases, tmp_path: Path
) -> None:
    keys, folder, other = KeyFolder(tmp_path / "keys", make=True), tmp_path / "backup", another_database()
    await settle(database.app, keys)
    await reopened(database, keys.master(), lambda log: confide(log, "visit/anna", ANNA, "a cough"))
    back_up(database, folder, secrets=fingerprints(keys.path, NEEDED))
    # Somebody began with an empty log and other keys before they thought of the backup.
    await settle(other.app, KeyFolder(tmp_path / "others", make=True))
    (keys.path / "commands").write_bytes(bytes(32))
    assert bring_back(folder, other, keys.master(), secrets=fingerprints(keys.path, NEEDED)).verified.ok
    with pytest.raises(CannotStart, match=r"(?s)commands is another.*daybook keys rotate commands"):
        await settle(other.app, keys)
    await succeed(other.app, keys.path, "commands")
    await settle(other.app, keys)


async def test_a_backup_from_before_another_key_signs_comes_back(
    database: Database, log: PostgresEventLog, master: MasterKeyFile, another_database: Databases, tmp_path: Path
) -> None:
    folder, signed, new_key = tmp_path / "backup", tmp_path / "signed", SigningKey(b"n" * 32)
    await fill(log, 0, 3)
    back_up(database, folder)
    other, only = another_database(), {new_key.id: new_key.public}
    with pytest.raises(Damaged, match="--checkpoints FOLDER"):
        bring_back(folder, other, master, keys=only)
    assert bring_back(folder, other, master, keys={**PUBLIC, **only}, checkpoints=signed).verified.ok
    # The key that is at hand for it signs on.
    await reopened(other, master, lambda log: fill(log, 3, 5))
    await reopened(other, master, lambda log: sign(other, signed, log, new_key))
    assert verify_log(other.app, signed).ok


async def test_a_backup_by_a_newer_daybook_is_not_taken_apart(
    database: Database, log: PostgresEventLog, master: MasterKeyFile, another_database: Databases, tmp_path: Path
) -> None:
    await fill(log, 0, 1)
    with psycopg.connect(database.superuser) as connection:
        connection.execute("INSERT INTO schema_migrations (number, name) VALUES (9999, 'of_tomorrow')")
    back_up(database, tmp_path / "backup")
    with pytest.raises(BackupTrouble, match="newer Daybook"):
        bring_back(tmp_path / "backup", another_database(), master)


async def test_signatures_ahead_of_the_restored_log_are_kept_aside_and_signing_goes_on(
    database: Database, log: PostgresEventLog, master: MasterKeyFile, another_database: Databases, tmp_path: Path
) -> None:
    folder, signed = tmp_path / "backup", tmp_path / "signed"
    await fill(log, 0, 10)
    await sign(database, signed, log)
    back_up(database, folder, checkpoints=signed)
    await fill(log, 10, 14)
    await sign(database, signed, log)
    other = another_database()
    restored = bring_back(folder, other, master, checkpoints=signed)
    assert restored.lost == 4
    assert restored.set_aside is not None
    assert len(restored.set_aside.read_bytes().splitlines()) == 2
    assert [one.size for one in read_checkpoints(signed) if one] == [10, 10]

    async def goes_on(log: PostgresEventLog) -> None:
        await fill(log, 10, 12)
        await sign(other, signed, log)

    await reopened(other, master, goes_on)
    assert verify_log(other.app, signed).checkpoints == 3
    assert verify_log(other.app, signed).ok


async def test_a_restore_that_breaks_off_leaves_the_database_empty(
    database: Database,
    log: PostgresEventLog,
    master: MasterKeyFile,
    another_database: Databases,
    tmp_path: Path,
    small_parts: None,
) -> None:
    folder = tmp_path / "backup"
    await fill(log, 0, 40)
    back_up(database, folder)
    last = sorted(folder.glob("rows-*"))[-1]
    whole = last.read_bytes()
    last.write_bytes(whole[:-1])
    other = another_database()
    with pytest.raises(Damaged):
        bring_back(folder, other, master)
    assert everything_in(other)["events"] == []
    last.write_bytes(whole)
    assert bring_back(folder, other, master).verified.events == 40


async def test_an_altered_log_is_not_backed_up(database: Database, log: PostgresEventLog, tmp_path: Path) -> None:
    folder, signed = tmp_path / "backup", tmp_path / "signed"
    await fill(log, 0, 10)
    back_up(database, folder)
    await fill(log, 10, 20)
    await sign(database, signed, log)

    def tamper(sql: str) -> None:
        with psycopg.connect(database.superuser) as connection:
            connection.execute("SET session_replication_role = replica")
            connection.execute("ALTER TABLE events DISABLE TRIGGER ALL")
            connection.execute(sql.encode())
            connection.execute("ALTER TABLE events ENABLE ALWAYS TRIGGER append_only")

    tamper("UPDATE events SET actor = 'nobody' WHERE position = 15")
    with pytest.raises(LogNotWhole, match="position 15"):
        back_up(database, folder, checkpoints=signed)
    tamper("UPDATE events SET actor = 'desk' WHERE position = 15")
    tamper("UPDATE log_head SET hash = decode(repeat('ab', 32), 'hex')")
    with pytest.raises(LogNotWhole, match="head"):
        back_up(database, folder, checkpoints=signed)
    tamper("DELETE FROM events WHERE position = 20")
    with pytest.raises(LogNotWhole, match="position 20 is missing"):
        back_up(database, folder, checkpoints=signed)
    tamper("DELETE FROM events WHERE position > 9")
    tamper("UPDATE log_head SET position = 9")
    with pytest.raises(OtherLog, match="lost its end"):
        back_up(database, folder)
    assert (check(folder).ok, Manifest.load(folder).position) == (True, 10)


def test_one_at_a_time_and_only_into_a_folder_of_its_own(database: Database, tmp_path: Path) -> None:
    back_up(database, tmp_path / "backup")
    with (tmp_path / "backup" / "lock").open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(BackupBusy):
            back_up(database, tmp_path / "backup")
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("x")
    with pytest.raises(BackupTrouble, match="other things"):
        back_up(database, tmp_path / "letters")
    with pytest.raises(NoBackup):
        check(tmp_path / "letters")
    for path in (tmp_path / "backup").iterdir():
        assert path.stat().st_mode & 0o077 == 0, path
    assert (tmp_path / "backup").stat().st_mode & 0o077 == 0


async def test_a_new_key_signs_on(database: Database, log: PostgresEventLog, tmp_path: Path) -> None:
    folder, signed = tmp_path / "backup", tmp_path / "signed"
    await fill(log, 0, 3)
    await sign(database, signed, log)
    back_up(database, folder, checkpoints=signed)
    new_key = SigningKey(b"n" * 32)
    making.create(database.app, folder, new_key, checkpoints=signed)
    # Who trusts the new key alone believes what it says of the one before.
    assert check(folder, keys={new_key.id: new_key.public}).ok
    assert not check(folder, keys={KEY.id: KEY.public}).ok


async def test_the_role_for_backups_may_read_all_that_it_takes(
    database: Database, log: PostgresEventLog, tmp_path: Path
) -> None:
    await fill(log, 0, 3)
    await confide(log, "visit/anna", ANNA, "a cough")
    reader = make_conninfo(database.superuser, user="daybook_backup")
    assert making.create(reader, tmp_path / "backup", KEY).events == 4
    with psycopg.connect(reader) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute("DELETE FROM data_keys")
