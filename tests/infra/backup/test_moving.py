"""From the embedded stack to the full one, with the data, by the command line as somebody types it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

from infra.desk import checkpointer_on, log_on
from infra.embedded.servers import Servers
from infra.event_log.schema import app_dsn
from infra.event_log.verify import verify as verify_log
from infra.installation import Installation
from infra.settings import Settings
from tests.infra.backup.conftest import ANNA, confide, fill

DAYBOOK = [sys.executable, "-m", "infra.cli.main"]


def run(*arguments: str, ends: int = 0, **environ: str) -> str:
    clean = {name: value for name, value in os.environ.items() if name not in ("DATA", "PORT")}
    ended = subprocess.run(
        [*DAYBOOK, *arguments], env=clean | environ, capture_output=True, text=True, check=False, timeout=240
    )
    assert ended.returncode == ends, ended.stderr + ended.stdout
    return ended.stdout if ends == 0 or ended.stdout else ended.stderr


def told(*arguments: str, ends: int = 0, **environ: str) -> Any:
    return json.loads(run(*arguments, "--json", ends=ends, **environ))


def rows(dsn: str) -> tuple[int, bytes]:
    with psycopg.connect(dsn) as connection:
        found = connection.execute("SELECT position, hash FROM log_head").fetchone()
    assert found is not None
    return int(found[0]), bytes(found[1])


async def written(data: Path) -> None:
    settings = Settings(data=data)
    with Servers(settings, redis=False) as servers:
        async with log_on(Installation.embedded(settings, servers)) as log:
            await fill(log, 0, 20)
            await confide(log, "visit/anna", ANNA, "a cough")
            await checkpointer_on(Installation.embedded(settings, servers), log).close()


def test_a_book_moves_from_the_embedded_to_the_full_stack(tmp_path: Path, postgres: str, redis_server: str) -> None:
    data, backup, keys, signed = (tmp_path / name for name in ("data", "backup", "keys", "signed"))
    asyncio.run(written(data))
    made = told("backup", "create", str(backup), "--data", str(data))
    assert made["events"] == made["position"] == 21
    checked = told("backup", "verify", str(backup), "--data", str(data))
    assert (checked["ok"], checked["believed"], checked["events"]) == (True, False, made["events"])

    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("CREATE DATABASE daybook_moved")
    owner = make_conninfo(postgres, dbname="daybook_moved")
    full = {
        "DAYBOOK_STACK": "full",
        "DAYBOOK_POSTGRES_DSN": app_dsn(owner),
        "DAYBOOK_POSTGRES_OWNER_DSN": owner,
        "DAYBOOK_REDIS_URL": redis_server,
        # Nobody answers there: the restore says which read model it could not empty.
        "DAYBOOK_CLICKHOUSE_URL": "http://daybook@127.0.0.1:1/daybook",
        "DAYBOOK_KEYS": str(keys),
        "DAYBOOK_CHECKPOINTS": str(signed),
    }
    without_keys = run("backup", "restore", str(backup), ends=1, **full)
    assert "master.key" in without_keys
    restored = told("backup", "restore", str(backup), "--keys", str(data / "keys"), ends=1, **full)
    assert restored["ok"]
    assert restored["faults"] == []
    assert restored["position"] == made["position"]
    assert "facts" in restored["not_emptied"]
    assert not {"diary", "free_time"} & restored["not_emptied"].keys()
    assert rows(owner)[0] == made["position"]
    report = verify_log(app_dsn(owner), signed)
    assert report.ok
    assert report.checkpoints >= 1
    assert (keys / "master.key").read_bytes() == (data / "keys" / "master.key").read_bytes()
    # And back again: from there on, the same folder takes what the full stack adds.
    assert told("backup", "create", str(backup), **full)["run"] == 2
    home = tmp_path / "home"
    back = told("backup", "restore", str(backup), "--keys", str(keys), "--data", str(home))
    assert (back["ok"], back["not_emptied"]) == (True, {})
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("DROP DATABASE daybook_moved WITH (FORCE)")


def test_a_backup_made_while_the_master_key_was_rotated_comes_back_elsewhere(tmp_path: Path) -> None:
    data, backup, home = (tmp_path / name for name in ("data", "backup", "home"))
    asyncio.run(written(data))
    run("keys", "rotate", "master", "--prepare", "--data", str(data))
    run("account", "create", "--role", "admin", "--email", "ann@example.org", "--invite", "--data", str(data))
    run("backup", "create", str(backup), "--data", str(data))
    assert told("backup", "restore", str(backup), "--keys", str(data / "keys"), "--data", str(home))["ok"]
    run("keys", "rotate", "master", "--data", str(home))
    run("keys", "retire", "master", "--data", str(home))
    assert len(told("account", "list", "--data", str(home))) == 1
