"""One of several processes does what must not be done twice; when it dies, freezes or loses the database, another."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from infra.embedded.data_folder import DataFolder
from infra.embedded.postgres import Postgres
from infra.leadership import Leader
from tests.conftest import Database

ROOT = Path(__file__).parents[2]
WITHIN = 60.0


async def until(holds: Callable[[], object]) -> None:
    give_up = time.monotonic() + WITHIN
    while not holds():
        assert time.monotonic() < give_up, "it did not come about"
        await asyncio.sleep(0.02)


class Candidate:
    """A process that leads or stands by. `said` are its lines."""

    def __init__(self, dsn: str, file: Path) -> None:
        self._file = file
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.infra.leader_process", dsn, str(file)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )

    async def says(self, line: str) -> None:
        output = self._process.stdout
        assert output is not None
        async with asyncio.timeout(WITHIN):
            said = (await asyncio.to_thread(output.readline)).strip()
        assert said == line

    def signal(self, number: signal.Signals) -> None:
        os.kill(self._process.pid, number)

    async def writes(self) -> None:
        """Wait until it does its work."""
        await until(lambda: self.lines()[-1:] == [str(self._process.pid)])

    async def sees(self, count: int) -> None:
        """Wait until whoever leads has written so many lines."""
        await until(lambda: len(self.lines()) >= count)

    def lines(self) -> list[str]:
        return self._file.read_text().split() if self._file.exists() else []

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


@pytest.fixture
def two(database: Database, tmp_path: Path) -> Iterator[tuple[Candidate, Candidate]]:
    both = Candidate(database.app, tmp_path / "lines"), Candidate(database.app, tmp_path / "lines")
    yield both
    for one in both:
        one.end()


async def stand(first: Candidate, second: Candidate) -> tuple[Candidate, Candidate]:
    """Who leads, and who stands by."""
    await first.says("there")
    await second.says("there")
    await until(first.lines)
    leader, other = (first, second) if first.lines()[0] == str(first._process.pid) else (second, first)
    await leader.says("leads")
    return leader, other


async def test_who_is_killed_is_followed_by_the_other(two: tuple[Candidate, Candidate]) -> None:
    leader, other = await stand(*two)
    await asyncio.sleep(1.5)
    assert set(leader.lines()) == {str(leader._process.pid)}
    leader.signal(signal.SIGKILL)
    await other.says("leads")
    await other.writes()


async def test_who_is_told_to_stop_lets_go_in_order(two: tuple[Candidate, Candidate]) -> None:
    leader, other = await stand(*two)
    leader.signal(signal.SIGTERM)
    await leader.says("leads no more")
    await other.says("leads")


async def test_who_is_frozen_loses_its_turn_and_stops_when_it_wakes(two: tuple[Candidate, Candidate]) -> None:
    leader, other = await stand(*two)
    leader.signal(signal.SIGSTOP)
    await other.says("leads")
    await other.writes()
    leader.signal(signal.SIGCONT)
    await leader.says("leads no more")
    before = other.lines().count(str(leader._process.pid))
    await asyncio.sleep(1.5)
    assert other.lines().count(str(leader._process.pid)) == before
    await other.writes()


async def test_a_restarted_database_has_one_leader_again(tmp_path: Path) -> None:
    folder = Path(tempfile.mkdtemp(prefix="daybook-leader-", dir="/tmp"))
    data = DataFolder.open(folder / "data")
    server = Postgres(data)
    with data.starting():
        server.ensure_running()
    both = [Candidate(server.dsn(), tmp_path / "lines") for _ in range(2)]
    try:
        leader, other = await stand(*both)
        for end in (server.stop, lambda: kill(server)):
            await asyncio.to_thread(end)
            await leader.says("leads no more")
            with data.starting():
                await asyncio.to_thread(server.ensure_running)
            lines = len(leader.lines())
            await leader.sees(lines + 20)
            since = leader.lines()[lines:]
            assert len(set(since)) == 1
            if since[0] != str(leader._process.pid):
                leader, other = other, leader
            await leader.says("leads")
    finally:
        for one in both:
            one.end()
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def kill(server: Postgres) -> None:
    pid = server.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    while server.alive():
        pass


class NotYet(Exception):
    """Entering the work may raise this."""


async def test_work_that_cant_start_yet_is_tried_again(database: Database) -> None:
    tries = 0

    @asynccontextmanager
    async def work() -> AsyncIterator[None]:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise NotYet
        yield

    async with Leader(database.app, "test", work, unless=NotYet) as leader:
        registry = CollectorRegistry()
        registry.register(leader.metrics)
        assert registry.get_sample_value("daybook_leads", {"what": "test"}) == 0
        await until(lambda: leader.leads)
        assert registry.get_sample_value("daybook_leads", {"what": "test"}) == 1
    assert tries == 2
    assert not leader.leads


async def test_other_names_are_other_turns(database: Database) -> None:
    @asynccontextmanager
    async def work() -> AsyncIterator[None]:
        yield

    async with Leader(database.app, "one", work) as one, Leader(database.app, "other", work) as other:
        await until(lambda: one.leads and other.leads)


async def test_work_that_can_not_start_is_tried_again_and_told(database: Database) -> None:
    tries = 0

    @asynccontextmanager
    async def work() -> AsyncIterator[None]:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise ValueError("the last checkpoint is damaged")
        yield

    async with Leader(database.app, "broken", work) as leader:
        await until(lambda: leader.error == "ValueError")
        assert not leader.leads
        await until(lambda: leader.leads)
        assert leader.error is None
