"""ClickHouse's own client works on the engine behind its HTTP interface as on a server."""

from __future__ import annotations

import stat
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import clickhouse_connect
import httpx
import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError, OperationalError, StreamFailureError

from infra.local.clickhouse import ClickHouseServer

_numbers = count(1)


@pytest.fixture
def client(clickhouse_server: ClickHouseServer) -> Iterator[Client]:
    name = f"local_{next(_numbers)}"
    with clickhouse_connect.get_client(dsn=clickhouse_server.url) as first:
        first.command(f"CREATE DATABASE {name}")
        with clickhouse_connect.get_client(dsn=clickhouse_server.url, database=name) as client:
            client.command(
                "CREATE TABLE visits (id UInt64, note String, at DateTime64(6, 'UTC')) ENGINE MergeTree ORDER BY id"
            )
            yield client
        first.command(f"DROP DATABASE {name} SYNC")


def visits(number: int) -> list[list[object]]:
    return [[i, f"O'Hara\\\t{i}", datetime(2026, 1, 1, 9, tzinfo=UTC)] for i in range(number)]


@pytest.mark.parametrize("compression", [False, "lz4", "zstd", "gzip"])
def test_rows_come_back_as_they_went_in_whatever_the_compression(
    client: Client, clickhouse_server: ClickHouseServer, compression: str | bool
) -> None:
    with clickhouse_connect.get_client(
        dsn=clickhouse_server.url, database=client.database, compress=compression
    ) as other:
        done = other.insert("visits", visits(1000), column_names=["id", "note", "at"])
        assert done.written_rows == 1000
        found = other.query("SELECT * FROM visits ORDER BY id")
        assert [list(row) for row in found.result_rows] == [
            [i, note, at.replace(tzinfo=None)] for i, note, at in visits(1000) if isinstance(at, datetime)
        ]
        assert found.summary["read_rows"] == "1000"
        assert (
            client.command(
                "SELECT count() FROM system.parts WHERE table = 'visits' AND active AND database = currentDatabase()"
            )
            == 1
        )


@pytest.mark.parametrize("form", [False, True])
def test_parameters_are_bound_by_the_client_and_by_the_server(
    client: Client, clickhouse_server: ClickHouseServer, form: bool
) -> None:
    with clickhouse_connect.get_client(
        dsn=clickhouse_server.url, database=client.database, form_encode_query_params=form
    ) as other:
        nasty = "it's \\ \t \n {x} ü 'FORMAT Null; --"
        assert other.query("SELECT %(text)s, %(ids)s", {"text": nasty, "ids": [1, 2]}).result_rows == [(nasty, [1, 2])]
        found = other.query("SELECT {text:String}, {texts:Array(String)}", {"text": nasty, "texts": [nasty, "b"]})
        assert found.result_rows == [(nasty, [nasty, "b"])]


def test_settings_of_one_question_end_with_it_and_those_of_a_session_stay_in_it(
    client: Client, clickhouse_server: ClickHouseServer
) -> None:
    asked = "SELECT getSetting('max_block_size')"
    usual = client.command(asked)
    assert client.query(asked, settings={"max_block_size": 7}).result_rows == [(7,)]
    assert client.command(asked) == usual
    client.command("SET max_block_size = 9")
    assert client.query(asked, settings={"max_block_size": 7}).result_rows == [(7,)]
    assert client.command(asked) == 9
    client.command("CREATE TEMPORARY TABLE mine (id UInt8)")
    assert client.command("EXISTS TEMPORARY TABLE mine") == 1
    with clickhouse_connect.get_client(dsn=clickhouse_server.url) as other:
        assert other.command(asked) == usual
        assert other.command("EXISTS TEMPORARY TABLE mine") == 0
    with pytest.raises(DatabaseError) as refused:
        client.query("SELECT 1", settings={"no_such_setting": 1})
    assert refused.value.code == 115


@pytest.mark.parametrize(
    ("sql", "code"),
    [("SELECT * FROM nowhere", 60), ("SELECT nothing FROM visits", 47), ("SELEC 1", 62), ("SELECT 1; SELECT 2", 62)],
)
def test_errors_carry_clickhouse_codes(client: Client, sql: str, code: int) -> None:
    with pytest.raises(DatabaseError) as refused:
        client.query(sql)
    assert refused.value.code == code
    assert client.command("SELECT 1") == 1


def test_half_an_insert_is_none(client: Client) -> None:
    with pytest.raises(DatabaseError):
        client.raw_insert("visits", ["id", "note"], "1,a\nnot a number,b\n", fmt="CSV")
    assert client.raw_insert("visits", ["id", "note"], "1,a\n2,b\n", fmt="CSV").written_rows == 2
    assert client.command("SELECT count() FROM visits") == 2


def test_a_stream_is_read_block_by_block_and_its_fault_is_told_at_the_end(client: Client) -> None:
    with client.query_row_block_stream("SELECT number FROM numbers(1000000)") as stream:
        assert sum(len(block) for block in stream) == 1_000_000
    with (
        pytest.raises(StreamFailureError) as failed,
        client.query_row_block_stream("SELECT throwIf(number = 900000) FROM numbers(1000000)") as stream,
    ):
        assert sum(len(block) for block in stream) < 900_000
    assert failed.value.code == 395
    with client.query_row_block_stream("SELECT number FROM numbers(100000000)") as stream:
        next(iter(stream))
        client.close_connections()


def test_many_processes_write_at_once(client: Client, clickhouse_server: ClickHouseServer) -> None:
    script = (
        "import sys, clickhouse_connect\n"
        "client = clickhouse_connect.get_client(dsn=sys.stdin.read(), database=sys.argv[1])\n"
        "for i in range(10): client.insert('visits', [[i, sys.argv[2]]] * 10, column_names=['id', 'note'])\n"
    )
    assert client.database
    writers = [
        subprocess.Popen([sys.executable, "-c", script, client.database, str(i)], stdin=subprocess.PIPE, text=True)
        for i in range(2)
    ]
    for writer in writers:
        writer.communicate(clickhouse_server.url, 60)
        assert writer.returncode == 0
    assert client.query("SELECT note, count() FROM visits GROUP BY note ORDER BY note").result_rows == [
        (str(i), 100) for i in range(2)
    ]


def test_nobody_gets_in_without_the_password_nor_writes_by_get(
    client: Client, clickhouse_server: ClickHouseServer
) -> None:
    with pytest.raises(DatabaseError) as refused:
        clickhouse_connect.get_client(host="127.0.0.1", port=clickhouse_server.port)
    assert refused.value.code == 516
    assert stat.S_IMODE((clickhouse_server.folder / "password").stat().st_mode) == 0o600
    words = Path(f"/proc/{clickhouse_server.pid}/cmdline").read_bytes() if sys.platform == "linux" else b""
    assert clickhouse_server.password.encode() not in words
    answer = httpx.get(clickhouse_server.url, params={"query": "DROP TABLE visits", "database": client.database})
    assert answer.headers["x-clickhouse-exception-code"] == "164"
    assert client.command("EXISTS visits") == 1


def test_what_was_acknowledged_outlives_a_kill(tmp_path: Path) -> None:
    server = ClickHouseServer(tmp_path / "clickhouse", die_with_me=True).start()
    with clickhouse_connect.get_client(dsn=server.url) as client:
        client.command("CREATE TABLE days (day Date) ENGINE MergeTree ORDER BY day")
        client.command("INSERT INTO days VALUES ('2026-01-05')")
        server.kill()
        with pytest.raises(OperationalError):
            client.query("SELECT 1")
        server.start()
        assert client.command("SELECT count() FROM days") == 1
    server.stop()
