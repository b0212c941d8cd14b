"""The supervisor keeps parts running, brings back what dies, and stops all in order. A web server of the standard
library stands for each of Daybook's services."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from infra.local.server import LocalServer
from infra.local.stack import look
from infra.local.supervisor import Supervisor
from infra.troubles import CannotStart
from tests.infra.local.test_server import Web, group


class Failing(LocalServer):
    name = "Failing"

    def _prepare(self, ports: Mapping[str, int]) -> Sequence[str | Path]:
        return ["/bin/sh", "-c", "echo nothing works; exit 1"]

    def _ready(self) -> bool:
        return False


def until(true: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "not within the time"
        time.sleep(0.05)


def webs(folder: Path, *names: str) -> list[Web]:
    made = []
    for name in names:
        web = Web(folder / name, die_with_me=True)
        web.name = name
        made.append(web)
    return made


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[..., tuple[Supervisor, threading.Thread, list[dict[str, Any]]]]]:
    running: list[tuple[Supervisor, threading.Thread]] = []

    def start(
        *groups: Sequence[LocalServer], between: Callable[[], None] = lambda: None
    ) -> tuple[Supervisor, threading.Thread, list[dict[str, Any]]]:
        said: list[dict[str, Any]] = []
        supervisor = Supervisor(groups, lambda **what: said.append(what), {0: between})
        thread = threading.Thread(target=supervisor.run)
        thread.start()
        running.append((supervisor, thread))
        until(lambda: {"done": True} in said)
        return supervisor, thread, said

    yield start
    for supervisor, thread in running:
        supervisor.told_to_stop()
        thread.join(30)


def test_groups_start_in_order_and_stop_in_the_opposite_one(tmp_path: Path, started: Callable[..., Any]) -> None:
    servers, services = webs(tmp_path, "log", "queue"), webs(tmp_path, "api")
    seen: list[str] = []

    def migrate() -> None:
        assert all(server.alive() for server in servers)
        assert not services[0].alive()
        seen.append("migrated")

    supervisor, thread, said = started(servers, services, between=migrate)
    assert seen == ["migrated"]
    up = [what["part"] for what in said if what.get("state") == "running"]
    assert (set(up[:2]), up[2]) == ({"log", "queue"}, "api")
    supervisor.told_to_stop()
    thread.join(30)
    assert not any(part.alive() for part in (*servers, *services))


def test_what_dies_is_brought_back_and_the_others_go_on(tmp_path: Path, started: Callable[..., Any]) -> None:
    one, other = webs(tmp_path, "one", "other")
    supervisor, _, _ = started([one, other])
    pid, stays, port = one.pid, other.pid, one.port
    assert pid is not None
    os.killpg(pid, signal.SIGKILL)
    until(lambda: one.pid not in (None, pid))
    until(lambda: supervisor.restarts["one"] == 1)
    assert one.port == port
    assert (other.pid, supervisor.restarts["other"]) == (stays, 0)


def test_one_that_does_not_start_stops_what_did(tmp_path: Path) -> None:
    (web,) = webs(tmp_path, "web")
    with pytest.raises(CannotStart, match="nothing works"):
        Supervisor([[web], [Failing(tmp_path / "failing")]]).run()
    assert not web.alive()


def test_one_that_dies_again_and_again_is_tried_ever_more_rarely(tmp_path: Path, started: Callable[..., Any]) -> None:
    (web,) = webs(tmp_path, "web")
    supervisor, thread, _ = started([web])
    web._prepare = Failing._prepare.__get__(web)  # type: ignore[method-assign]
    assert web.pid is not None
    os.killpg(web.pid, signal.SIGKILL)
    until(lambda: "nothing works" in web.log.read_text())
    time.sleep(3)
    assert web.log.read_text().count("nothing works") <= 4
    supervisor.told_to_stop()
    thread.join(30)
    assert not thread.is_alive()


def test_what_a_killed_supervisor_left_is_joined_by_the_next(tmp_path: Path, started: Callable[..., Any]) -> None:
    script = (
        "import pathlib\n"
        "from infra.local.supervisor import Supervisor\n"
        "from tests.infra.local.test_server import Web\n"
        f"web = Web(pathlib.Path({str(tmp_path / 'web')!r}))\n"
        "Supervisor([[web]], lambda **what: print(what, flush=True)).run()\n"
    )
    first = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None
    assert any("done" in line for line in first.stdout)
    first.kill()
    first.wait()
    web = Web(tmp_path / "web", die_with_me=True)
    pid = web.pid
    assert pid is not None
    supervisor, thread, said = started([web])
    assert {"part": "Web", "state": "joined"} in said
    assert web.pid == pid
    supervisor.told_to_stop()
    thread.join(30)
    assert group(pid) == []


def test_status_tells_state_memory_and_since_when(tmp_path: Path) -> None:
    (web,) = webs(tmp_path, "web")
    assert (look(web).state, look(web).pid) == ("stopped", None)
    before = time.time()
    web.start()
    found = look(web)
    assert (found.state, found.pid, found.address) == ("running", web.pid, f"127.0.0.1:{web.port}")
    assert found.memory is not None
    assert found.memory > 1_000_000
    assert found.since is not None
    assert before - 1 < found.since < time.time() + 1
    web.pause()
    until(lambda: look(web).state == "paused")
    web.stop()
    assert look(web).state == "stopped"
