"""`daybook log` with an archive, as somebody types it."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner

from infra.cli.log import command
from infra.embedded.servers import Servers
from infra.event_log.checkpoints import Checkpointer, SigningKey
from infra.event_log.log import PostgresEventLog
from infra.event_log.schema import app_dsn, migrate
from infra.keyring import MasterKeyFile, PostgresKeyring
from infra.settings import Settings
from tests.infra.event_log.conftest import notes

DAYBOOK_LOG = CliRunner()


@pytest.fixture(scope="module")
def data() -> Iterator[Path]:
    """A book of forty events in parts of sixteen, signed, and one more."""
    with tempfile.TemporaryDirectory(prefix="daybook-cli-") as folder:
        path = Path(folder) / "data"
        with Servers(Settings.load(data=path), redis=False) as servers:
            migrate(servers.postgres.dsn())
            with psycopg.connect(servers.postgres.dsn()) as connection:
                connection.execute("UPDATE archive_floor SET part_size = 16")
            asyncio.run(_fill(app_dsn(servers.postgres.dsn()), servers.folder.checkpoints))
            yield path


async def _fill(dsn: str, checkpoints: Path) -> None:
    keyring = PostgresKeyring(dsn, MasterKeyFile(bytes(32)))
    async with PostgresEventLog(dsn, keyring) as log:
        await log.append(notes("page/a", 0, *range(40)))
        await Checkpointer(dsn, checkpoints, SigningKey(bytes(32)), log.wait).close()
        await log.append(notes("page/a", 40, 40))
    await keyring.close()


def say(*arguments: str) -> str:
    answer = DAYBOOK_LOG.invoke(command, arguments)
    if answer.exception is not None and not isinstance(answer.exception, SystemExit):
        raise answer.exception
    return answer.output


def test_events_move_parts_leave_and_come_back(data: Path, tmp_path: Path) -> None:
    where = ("--data", str(data))
    planned = json.loads(say("archive", "--older-than", "1s", "--dry-run", "--json", *where))
    assert planned["archived_before"] == 0
    assert say("parts", *where) == "Nothing is archived.\n"
    assert say("archive", "--upto", "41", *where) == "Moved 40 events, up to position 40 of 41.\n"
    assert "Nothing to move: the archive ends at 40" in say("archive", "--upto", "41", *where)
    states = [json.loads(line)["state"] for line in say("parts", "--json", *where).splitlines()]
    assert states == ["full", "full", "filling"]
    file = str(tmp_path / "part")
    assert "Positions 1 to 16 now lie in" in say("detach", file, *where)
    assert "positions 1 to 16" in say("verify-part", file, "--checkpoints", str(data / "checkpoints"))
    told = json.loads(say("verify", "--json", *where))
    assert (told["ok"], told["events"], told["elsewhere"]) == (True, 25, 16)
    assert "up to 16 lie in detached parts" in say("verify", *where)
    assert say("attach", file, *where) == "Positions 1 to 16 answer again.\n"
    assert json.loads(say("verify", "--json", *where))["events"] == 41


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["archive", "--data"], "either --older-than or --upto"),
        (["archive", "--older-than", "3d", "--upto", "4", "--data"], "either --older-than or --upto"),
        (["attach", "no-such-file", "--data"], "no such file"),
        (["verify-part", sys.executable], "no archived part"),
    ],
)
def test_wrong_usage_says_what_would_be_right(data: Path, arguments: list[str], words: str) -> None:
    if arguments[-1] == "--data":
        arguments = [*arguments, str(data)]
    answer = DAYBOOK_LOG.invoke(command, arguments)
    assert words in answer.output + str(answer.exception)
    assert answer.exit_code != 0
