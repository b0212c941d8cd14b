"""`daybook import no-shows`, as a user runs it: killed, begun again, told in words and in JSON."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from infra.embedded.data_folder import DataFolder
from infra.embedded.postgres import Postgres
from infra.embedded.servers import Servers
from infra.event_log.verify import verify
from infra.settings import Settings
from tests.infra.no_shows.conftest import Write, first_of_the_real, invented, line, needs_the_real_table

VISITS = 1200


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose upper folders no other test run closes again."""
    path = Path(tempfile.mkdtemp(prefix="daybook-import-", dir="/tmp"))
    yield path
    for data in (one for one in path.iterdir() if one.is_dir()):
        with Servers(Settings(data=data), redis=False):
            pass  # the last one out stops what a kill left behind
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def data(folder: Path) -> Path:
    return folder / "data"


def command(file: Path, data: Path, *options: str) -> list[str]:
    program = [sys.executable, "-m", "infra.cli.main", "import", "no-shows"]
    return [*program, str(file), "--data", str(data), *options]


def ran(file: Path, data: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(file, data, *options), capture_output=True, text=True, timeout=300, check=False)


def reported(file: Path, data: Path, *options: str) -> dict[str, object]:
    done = ran(file, data, "--json", *options)
    assert done.returncode == 0, done.stderr
    report: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return report


def head(data: Path) -> int:
    postgres = Postgres(DataFolder.open(data))
    try:
        with psycopg.connect(postgres.dsn(), connect_timeout=2) as connection:
            row = connection.execute("SELECT position FROM log_head").fetchone()
    except psycopg.Error:
        return 0
    return int(row[0]) if row else 0


def killed_in_the_middle(file: Path, data: Path, after: int, *options: str, postgres: bool = False) -> int:
    """Start an import and kill it, and its Postgres too if asked, once the log is past `after`."""
    importing = subprocess.Popen(command(file, data, *options), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    give_up = time.monotonic() + 120
    while head(data) <= after:
        assert importing.poll() is None, importing.communicate()
        assert time.monotonic() < give_up
        time.sleep(0.01)
    importing.send_signal(signal.SIGKILL)
    importing.communicate()
    reached = head(data)
    if postgres:
        pid = Postgres(DataFolder.open(data)).pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
    return reached


def story(data: Path) -> dict[str, list[tuple[str, bytes, str]]]:
    """Each stream's events, by name, content and time, of a log whose chain is whole; what is sealed anew each time is
    left out."""
    streams: dict[str, list[tuple[str, bytes, str]]] = {}
    with Servers(Settings(data=data), redis=False) as servers, psycopg.connect(servers.postgres.dsn()) as connection:
        assert verify(servers.postgres.dsn()).ok
        rows = connection.execute(
            "SELECT stream, name, payload, occurred_at::text FROM events ORDER BY stream, version"
        ).fetchall()
    for stream, name, payload, occurred_at in rows:
        told = b"" if name == "PatientRegistered.v1" else payload
        streams.setdefault(stream, []).append((name, told, occurred_at))
    return streams


def test_a_killed_import_goes_on_where_it_stopped(write: Write, data: Path, folder: Path) -> None:
    lines = [*invented(VISITS), line(AppointmentID="faulty", Age="-1")]
    file = write(lines)
    first = killed_in_the_middle(file, data, 500, "--batch", "10")
    second = killed_in_the_middle(file, data, first + 800, "--batch", "23", postgres=True)
    report = reported(file, data, "--batch", "400")
    assert second > first
    assert (report["rows"], report["imported"]) == (VISITS + 1, VISITS)
    assert 0 < report["known"] < VISITS  # type: ignore[operator]
    assert report["skipped"] == {"negative_age": 1}
    assert report["skipped_rows"] == [{"line": VISITS + 2, "reason": "negative_age"}]
    again = reported(file, data)
    assert (again["imported"], again["known"], again["no_shows"]) == (VISITS, VISITS, report["no_shows"])

    undisturbed = folder / "undisturbed"
    reported(file, undisturbed)
    assert story(data) == story(undisturbed)


def test_it_tells_a_person_what_came_of_it(write: Write, data: Path) -> None:
    done = ran(write([*invented(20), line(Age="-1"), line(No_show="?"), line(No_show="!")]), data)
    assert done.returncode == 0, done.stderr
    assert "20 of 23 visits stand in the book of no-shows, 20 are new." in done.stdout
    assert "Skipped, negative age: 1 (line 22)" in done.stdout
    assert "Skipped, unknown outcome: 2 (line 23, line 24)" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize("content", ["", "a,b\n1,2\n", None])
def test_another_file_is_refused_before_anything_is_started(tmp_path: Path, content: str | None) -> None:
    file, data = tmp_path / "other.csv", tmp_path / "data"
    if content is not None:
        file.write_text(content, "utf-8")
    done = ran(file, data, "--json")
    assert done.returncode == 2
    assert done.stderr.startswith("daybook: ")
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not data.exists()


def test_an_organization_without_a_name_is_refused_in_words(write: Write, data: Path) -> None:
    done = ran(write(invented(2)), data, "--organization", "a/b")
    assert done.returncode == 2
    assert done.stderr == (
        "daybook: Nothing can be written for 'a/b': an organization's name is not empty and holds no slash.\n"
    )


def test_another_import_on_the_same_data_is_told_so(write: Write, data: Path) -> None:
    with Servers(Settings(data=data), claim="import", redis=False):
        done = ran(write(invented(2)), data)
    assert done.returncode == 3
    assert "`daybook import`" in done.stderr


def test_it_works_beside_a_running_server(write: Write, data: Path) -> None:
    with Servers(Settings(data=data), claim="serve"):
        report = reported(write(invented(40)), data)
    assert report["imported"] == 40
    # Only the server has the read models, and this one answers no questions.
    assert report["check"] == {"agrees": None, "compared": 0, "differences": []}


def test_the_read_models_agree_with_the_file(write: Write, data: Path) -> None:
    lines = invented(90)
    report = reported(write(lines[:60]), data)
    # Four weekdays and five bands of lead time, visits and no-shows of each, and messages.
    assert report["check"] == {"agrees": True, "compared": 19, "differences": []}
    other = line(AppointmentID="other", ScheduledDay="2016-05-03T10:00:00Z", AppointmentDay="2016-05-03T00:00:00Z")
    assert reported(write([*lines, other]), data)["check"]["agrees"]  # type: ignore[index]

    # A book with more visits on those days than the file has is told apart.
    done = ran(write(lines[:60]), data)
    assert done.returncode == 1
    assert "The read models differ: visits, weekday 2 is" in done.stdout
    assert "Other visits may stand" in done.stdout


@needs_the_real_table
def test_the_head_of_the_real_table_agrees(folder: Path, data: Path) -> None:
    file = folder / "head.csv"
    first_of_the_real(3000, file)
    report = reported(file, data)
    assert report["imported"] == 3000
    assert report["check"]["agrees"] is True  # type: ignore[index]
