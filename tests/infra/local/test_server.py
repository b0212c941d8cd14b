"""A server's process is found again, joined, replaced, and never outlives who must not be outlived. A web server of the
standard library stands for any."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from infra.embedded.processes import runs
from infra.local import fetch, java
from infra.local.server import LocalServer, is_free
from infra.troubles import CannotStart


class Web(LocalServer):
    name = "Web"

    def _prepare(self, ports: Mapping[str, int]) -> Sequence[str | Path]:
        # A child in the same group, as Elasticsearch has one.
        script = f"sleep 600 & exec '{sys.executable}' -m http.server --bind 127.0.0.1 {ports['port']}"
        return ["/bin/sh", "-c", script]

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/", timeout=1):
                return True
        except OSError:
            return False


class Broken(LocalServer):
    name = "Broken"

    def _prepare(self, ports: Mapping[str, int]) -> Sequence[str | Path]:
        return ["/bin/sh", "-c", "echo out of luck; exit 3"]

    def _ready(self) -> bool:
        return False


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Web]:
    server = Web(tmp_path / "web", die_with_me=True)
    yield server
    server.kill()


def group(leader: int) -> list[int]:
    found = subprocess.run(["ps", "-eo", "pid=,pgid=,stat="], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in found.splitlines()]
    return [int(pid) for pid, its_group, state in rows if int(its_group) == leader and not state.startswith("Z")]


def test_a_second_start_joins_what_runs_and_any_of_them_stops_it(web: Web) -> None:
    web.start()
    pid, other = web.pid, Web(web.folder)
    assert other.start().pid == pid
    assert (other.port, other.alive()) == (web.port, True)
    other.stop()
    assert not web.alive()
    assert web.pid is None
    assert pid is not None
    assert group(pid) == []


def test_the_port_stays_unless_somebody_else_has_taken_it(web: Web) -> None:
    port = web.start().port
    web.kill()
    assert web.start().port == port
    web.stop()
    with socket.socket() as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        thief.bind(("127.0.0.1", port))
        thief.listen()
        assert not is_free(port)
        assert web.start().port != port
        web.stop()
        with pytest.raises(CannotStart, match=f"can't have port {port}"):
            Web(web.folder, port=port).start()


def test_a_number_that_another_process_has_now_is_not_taken_for_the_server(web: Web) -> None:
    web.start()
    pid = web.pid
    web.kill()
    text = (web.folder / "server.json").read_text()
    (web.folder / "server.json").write_text(text.replace(str(pid), str(os.getpid())))
    assert web.pid is None
    web.stop()
    assert web.start().pid not in (pid, os.getpid())


def test_half_a_note_is_no_note(web: Web) -> None:
    web.start()
    web.kill()
    (web.folder / "server.json").write_text('{"pid": 1')
    assert not web.alive()
    assert web.start().alive()


def test_a_paused_server_answers_nobody_until_it_goes_on_and_can_be_stopped(web: Web) -> None:
    web.start()
    web.pause()
    with pytest.raises(TimeoutError):
        urllib.request.urlopen(f"http://127.0.0.1:{web.port}/", timeout=0.3)
    assert web.alive()
    web.resume()
    urllib.request.urlopen(f"http://127.0.0.1:{web.port}/", timeout=5).close()
    web.pause()
    web.stop()
    assert not web.alive()


def test_one_that_ends_at_once_is_told_with_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(CannotStart, match="out of luck"):
        Broken(tmp_path).start()


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_it_dies_with_its_owner_however_that_ends_or_outlives_it_as_told(tmp_path: Path, end: signal.Signals) -> None:
    pids = {}
    for dies in (True, False):
        folder = tmp_path / str(dies)
        script = (
            "import pathlib, sys, time\n"
            "from tests.infra.local.test_server import Web\n"
            f"print(Web(pathlib.Path({str(folder)!r}), die_with_me={dies}).start().pid, flush=True)\n"
            "time.sleep(600)"
        )
        owner = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
        assert owner.stdout is not None
        pids[dies] = int(owner.stdout.readline())
        owner.send_signal(end)
        owner.wait()
    deadline = time.monotonic() + 10
    while group(pids[True]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert group(pids[True]) == []
    assert runs(pids[False])
    Web(tmp_path / "False").stop()
    assert group(pids[False]) == []


def test_the_folder_is_its_owners_alone(web: Web) -> None:
    web.start()
    assert web.folder.stat().st_mode & 0o077 == 0
    for path in (web.log, web.folder / "server.json"):
        assert path.stat().st_mode & 0o077 == 0


def test_missing_java_and_maven_are_told_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CannotStart, match=r"Kafka needs Java 999 or newer, and .* is \d+"):
        java.find(999, "Kafka")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CannotStart, match="apt-get install maven"):
        fetch.fetch(fetch.KAFKA, tmp_path / "cache")
    assert [path.name for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock"] == []


@pytest.fixture
def maven(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program that stands for Maven, brings one small file, and notes every call in the file that is returned."""
    program, calls = tmp_path / "bin" / "mvn", tmp_path / "calls"
    program.parent.mkdir()
    program.write_text(
        f"#!/bin/sh\necho called >>'{calls}'; sleep 0.5\n"
        'for a; do case $a in -DoutputDirectory=*) d=${a#*=}; mkdir -p "$d"; echo x >"$d/a.jar";; esac; done'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    return calls


def test_a_file_that_is_not_what_is_expected_is_not_taken(tmp_path: Path, maven: Path) -> None:
    with pytest.raises(CannotStart, match="not what is expected"):
        fetch.fetch(fetch.KAFKA, tmp_path / "cache")
    assert not fetch.is_fetched(fetch.KAFKA, tmp_path / "cache")


def test_of_two_that_ask_at_once_one_fetches_and_both_have_it(tmp_path: Path, maven: Path) -> None:
    whole = tmp_path / "whole"
    whole.mkdir()
    (whole / "a.jar").write_text("x\n")
    package = fetch.Package("Small", "1", ("a:b:1",), fetch.digest(whole), 1)
    said: list[str] = []
    with ThreadPoolExecutor(4) as threads:
        done = [threads.submit(fetch.fetch, package, tmp_path / "cache", said.append) for _ in range(4)]
    assert {(one.result() / "a.jar").read_text() for one in done} == {"x\n"}
    assert maven.read_text().splitlines() == ["called"]
    assert said == ["Fetching Small 1 from Maven, about 1 MB …"]
    assert [path.name for path in (tmp_path / "cache").iterdir() if not path.name.endswith(".lock")] == [package.folder]
