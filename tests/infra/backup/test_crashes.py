"""A run of `create` that is killed at any step leaves the last whole backup valid, and the next run goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from infra.backup import create as making
from infra.backup import parts
from infra.backup.manifest import Manifest
from infra.event_log.log import PostgresEventLog
from infra.keyring import PostgresKeyring
from tests.conftest import Database
from tests.infra.backup.conftest import ANNA, BERT, back_up, check, confide, fill, sign


def killed_at(step: int, database: Database, folder: Path, signed: Path) -> bool:
    """Run `create` in a process that kills itself at the n-th of the steps by which something comes to be on the disk,
    or is there no longer. Whether it did."""
    child = os.fork()
    if child == 0:
        left = step

        def dying(work: Callable[..., Any]) -> Callable[..., Any]:
            def last(*arguments: Any, **options: Any) -> Any:
                nonlocal left
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return work(*arguments, **options)

            return last

        os.fsync, os.replace, Path.unlink = dying(os.fsync), dying(os.replace), dying(Path.unlink)  # type: ignore
        ended = 1
        try:
            back_up(database, folder, checkpoints=signed)
            ended = 0
        finally:
            os._exit(ended)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    assert os.WEXITSTATUS(status) == 0
    return False


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (making, parts):
        monkeypatch.setattr(module, "FULL", 8)
    monkeypatch.setattr(parts, "_MERGED", 3)


async def test_killed_at_every_step(
    database: Database, log: PostgresEventLog, keyring: PostgresKeyring, tmp_path: Path
) -> None:
    signed = tmp_path / "signed"
    step, wrote, killed = 1, 0, True
    # The first run of all, killed at every step: there is nothing, or there is a whole backup.
    await fill(log, 0, 10)
    await sign(database, signed, log)
    while killed:
        folder = tmp_path / f"first-{step}"
        killed = killed_at(step, database, folder, signed)
        if (folder / "manifest.json").exists():
            assert check(folder).ok
            assert Manifest.load(folder).position in (0, 10)
        assert back_up(database, folder, checkpoints=signed).manifest.position == 10
        step += 1
    assert step > 20
    # Later runs, each with new events, a person more and one less, killed one step later each time.
    step, killed = 1, True
    while killed:
        await fill(log, 10 + wrote, 12 + wrote)
        wrote += 2
        person = (ANNA, BERT)[step % 2]
        await keyring.forget("clinic", str(person))
        await confide(log, f"visit/{step}", person, "words")
        await sign(database, signed, log)
        before = Manifest.load(folder)
        killed = killed_at(step, database, folder, signed)
        after = Manifest.load(folder)
        assert check(folder).ok
        assert after.position in (before.position, await log.head())
        if killed and step % 2:
            # Every second time a good run comes between, else the next one finds more to do.
            assert back_up(database, folder, checkpoints=signed).manifest.position == await log.head()
        step += 1
    assert step > 10
    assert {path.name for path in folder.iterdir()} == {"lock", "manifest.json", *Manifest.load(folder).files}
    assert Manifest.load(folder).position == await log.head()
    assert check(folder, checkpoints=signed).ok


def test_the_lock_goes_with_its_process(database: Database, tmp_path: Path) -> None:
    back_up(database, tmp_path / "backup")
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import fcntl, sys, time; f = open(sys.argv[1], 'a'); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True);"
            " time.sleep(60)",
            str(tmp_path / "backup" / "lock"),
        ],
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    holder.stdout.readline()
    os.kill(holder.pid, signal.SIGKILL)
    holder.communicate()
    assert back_up(database, tmp_path / "backup").manifest.run == 2
