"""The command line as somebody types it: help, tokens, a server that starts, is asked, is killed and stops."""

from __future__ import annotations

import ast
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from domain.access import Role
from infra.cli.main import Lazy, daybook
from infra.control import ask, result
from infra.embedded.data_folder import DataFolder
from infra.embedded.processes import runs, wait_for_end
from infra.http.tokens import READ, WRITE, Bearers, TokenInvalid
from infra.keys import KeyFolder
from infra.troubles import NotRunning, Trouble

DAYBOOK = [sys.executable, "-m", "infra.cli.main"]


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if name not in ("DATA", "PORT")}
    return subprocess.run(
        [*DAYBOOK, *arguments], env=clean | environ, capture_output=True, text=True, check=False, timeout=240
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextmanager
def serving(data: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server that has said where it is, and its URL."""
    with subprocess.Popen(
        [*DAYBOOK, "serve", "--data", str(data), "--port", "0", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            assert server.stdout is not None
            first = server.stdout.readline()
            assert first.startswith("Daybook runs at http://127.0.0.1:"), server.communicate()[1]
            yield server, first.split()[-1]
        finally:
            if server.poll() is None:
                server.kill()


def test_help_names_every_command_with_its_words() -> None:
    shown = run("--help")
    assert shown.returncode == 0
    for name in ("serve", "token", "status"):
        assert f"  {name} " in shown.stdout
    assert "Exit codes" in shown.stdout


def test_every_command_is_found_has_help_and_words_of_its_own() -> None:
    assert isinstance(daybook, Lazy)
    context = daybook.make_context("daybook", [], resilient_parsing=True)
    for name in daybook.list_commands(context):
        command = daybook.get_command(context, name)
        assert command is not None, name
        assert command.help, name
    assert daybook.get_command(context, "no-such") is None
    assert run("no-such").returncode == 2


def test_help_loads_no_part_of_the_house() -> None:
    script = (
        "import sys; import infra.cli.main as m\n"
        "try: m.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print([*sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = ast.literal_eval(shown.stdout.splitlines()[-1])
    assert not {"fastapi", "psycopg", "redis", "chdb", "clickhouse_connect", "pydantic", "rich"} & set(loaded)


def test_loading_a_command_is_not_held_up_by_looking_for_garbage() -> None:
    script = (
        "import gc; import infra.cli.main as m\n"
        "before = sum(one['collections'] for one in gc.get_stats())\n"
        "try: m.main(['token', '--help'])\n"
        "except SystemExit: pass\n"
        "print(sum(one['collections'] for one in gc.get_stats()) - before)"
    )
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(shown.stdout.splitlines()[-1]) < 20


def test_a_minted_token_is_accepted_where_it_is_meant_for(tmp_path: Path) -> None:
    data, patient = tmp_path / "data", uuid4()
    minted = run(
        "token", "--role", "patient", "--patient", str(patient), "--org", "north", "--for", "write", DATA=str(data)
    )
    assert minted.returncode == 0, minted.stderr
    key = KeyFolder(DataFolder.open(data).keys, make=True).tokens()
    caller = Bearers({key.id: key.public}, WRITE).check(f"Bearer {minted.stdout.strip()}")
    assert (caller.organization, caller.actor.role, caller.actor.patient_id) == ("north", Role.PATIENT, patient)
    with pytest.raises(TokenInvalid):
        Bearers({key.id: key.public}, READ).check(f"Bearer {minted.stdout.strip()}")
    again = json.loads(run("token", "--role", "admin", "--json", "--ttl", "15m", "--data", str(data)).stdout)
    assert Bearers({key.id: key.public}, READ).check(f"Bearer {again['token']}").actor.role is Role.ADMIN
    assert (data / "keys" / "tokens.ed25519").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["token", "--role", "patient"], "--patient ID"),
        (["token", "--role", "king"], "'king' is not one of"),
        (["token", "--role", "admin", "--ttl", "soon"], "no duration"),
        (["token", "--role", "admin", "--org", "Main Street"], "slug"),
        (["serve", "--port", "99999"], "between 0 and 65535"),
    ],
)
def test_wrong_usage_says_what_would_be_right(tmp_path: Path, arguments: list[str], words: str) -> None:
    answer = run(*arguments, DATA=str(tmp_path / "data"))
    assert answer.returncode == 2
    assert words in answer.stderr
    assert "Traceback" not in answer.stderr


def test_settings_from_the_environment_are_checked(tmp_path: Path) -> None:
    answer = run("serve", DATA=str(tmp_path / "data"), PORT="http")
    assert (answer.returncode, "PORT is 'http'" in answer.stderr) == (2, True)
    answer = run("serve", DATA=str(tmp_path / "data"), DAYBOOK_STACK="full", DAYBOOK_REDIS_URL="redis://:secret@x")
    assert answer.returncode == 2
    assert "DAYBOOK_POSTGRES_DSN" in answer.stderr
    assert "secret" not in answer.stderr


def test_nothing_runs_and_the_command_line_says_so(tmp_path: Path) -> None:
    answer = run("status", "--data", str(tmp_path / "data"))
    assert (answer.returncode, "daybook serve" in answer.stderr) == (5, True)
    DataFolder.open(tmp_path / "data")
    assert run("status", "--data", str(tmp_path / "data")).returncode == 5


def test_it_starts_says_where_it_is_does_jobs_and_stops_cleanly(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with serving(data) as (server, url):
        ready = httpx.get(f"{url}/health/ready").json()
        assert ready["status"] == "ready"
        status = json.loads(run("status", "--json", "--data", str(data)).stdout)
        assert (status["url"], status["pid"]) == (url, server.pid)
        folder = DataFolder.open(data)
        assert folder.control_socket.stat().st_mode & 0o777 == 0o600
        assert list(ask(folder, "status")) == [result(folder, "status")]
        with pytest.raises(Trouble, match="no job 'dance'"):
            result(folder, "dance")
        with pytest.raises(Trouble, match="TypeError"):
            result(folder, "status", loud=True)
        second = run("serve", "--data", str(data), "--port", str(free_port()))
        assert second.returncode == 3
        assert f"already runs on this data: {url}, pid {server.pid}" in second.stderr
        server.send_signal(signal.SIGINT)
        _, said = server.communicate(timeout=30)
        assert server.returncode == 0, said
        assert "Traceback" not in said
        assert not runs(status["postgres"])
        assert not runs(status["redis"])
        assert not list((data / "run").glob("*.sock"))
    with pytest.raises(NotRunning):
        result(folder, "status")


def test_after_a_kill_it_starts_again_with_the_servers_that_were_left(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with serving(data) as (server, url):
        before = json.loads(run("status", "--json", "--data", str(data)).stdout)
        server.kill()
        server.wait()
    assert runs(before["postgres"])
    with serving(data) as (server, url):
        after = json.loads(run("status", "--json", "--data", str(data)).stdout)
        assert (after["postgres"], after["redis"]) == (before["postgres"], before["redis"])
        assert httpx.get(f"{url}/health/ready").status_code == 200
        server.terminate()
        server.communicate(timeout=30)
        assert server.returncode == 0
    assert wait_for_end(before["postgres"], 5)


def test_a_taken_port_is_named_and_nothing_is_left_running(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        answer = run("serve", "--data", str(tmp_path / "data"), "--port", str(port))
    assert answer.returncode == 4
    assert f"port {port}" in answer.stderr
    assert not (tmp_path / "data" / "postgres" / "postmaster.pid").exists()


def test_a_stop_while_starting_leaves_nothing_running(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with subprocess.Popen([*DAYBOOK, "serve", "--data", str(data), "--port", "0"], stderr=subprocess.PIPE) as server:
        deadline = time.monotonic() + 20
        while not (data / "postgres" / "postmaster.pid").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        server.terminate()
        server.communicate(timeout=30)
    assert server.returncode == 0
    assert not (data / "postgres" / "postmaster.pid").exists()
