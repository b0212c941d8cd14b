"""Questions about processes that outlive the one which started them. In: a process id. Out: whether and where it runs.

Linux answers from /proc. Elsewhere only "is there such a process" is known.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

_PROC = Path("/proc")


def runs(pid: int) -> bool:
    """Whether the process exists and is no zombie: a dead child that nobody has waited for still has its id."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    try:
        status = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return not _PROC.joinpath("self").exists()
    return status.rpartition(")")[2].split()[0] not in ("Z", "X")


def runs_in(pid: int, folder: Path) -> bool:
    """Whether the process runs with this working folder: ids come round again, so a number alone proves nothing."""
    if not runs(pid):
        return False
    try:
        return _PROC.joinpath(str(pid), "cwd").resolve() == folder.resolve()
    except OSError:
        return not _PROC.joinpath("self").exists()


def anyone_in(folder: Path) -> bool:
    """Whether any live process works in this folder. True where that can't be known."""
    if not _PROC.joinpath("self").exists():
        return True
    return any(runs_in(int(entry.name), folder) for entry in _PROC.iterdir() if entry.name.isdigit())


def wait_for_end(pid: int, seconds: float) -> bool:
    """Wait until the process has ended; False when it has not within `seconds`. Collects it where it is our child."""
    deadline = time.monotonic() + seconds
    while runs(pid):
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    return True


def signalled(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
