"""What every local server has in common: a process group in a folder, that can be found again. In: a folder and how the
program is called. Out: start, stop, kill, pause, and who runs.

A server keeps in its folder `server.json` (its process id, when that process began, its ports) and `server.log`. Both
outlive it: the next start knows from the first whether it still runs, takes the same ports, and goes on with the data.
It listens on 127.0.0.1 alone, and its folder is its owner's alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from infra.embedded.processes import runs
from infra.troubles import CannotStart

# Below the range that the kernel gives to outgoing connections (32768 on Linux), so that a server which was stopped
# finds its port free again.
_PORTS = range(20_000, 32_000)
_STOPPED_WITHIN = 30.0
_KILLED_WITHIN = 10.0
_LOG_KEPT = 20 * 1024 * 1024

# Kills a process group when its standard input ends, which is when the owner is gone, however it went. A line says
# that the owner stopped the server itself.
_WATCHDOG = 'read -r _ || kill -s KILL -- "-$0"'


@dataclass(frozen=True, slots=True)
class Running:
    """`began` tells two processes with the same number apart: the kernel's start time where there is /proc."""

    pid: int
    began: str
    ports: dict[str, int]
    since: float


class LocalServer(ABC):
    """One server for one folder. `start`, `stop`, `kill`, `pause` and `resume` may be called from any process of the
    folder's owner; `stop` and `kill` do nothing when none runs.

    With `die_with_me` the server is killed when this process ends, however it ends; otherwise it goes on, and the next
    `start` joins it.
    """

    name: str
    port_names: ClassVar[tuple[str, ...]] = ("port",)
    ready_within: ClassVar[float] = 300.0

    def __init__(self, folder: Path, *, port: int | None = None, die_with_me: bool = False) -> None:
        self.folder = folder.expanduser().absolute()
        self.log = self.folder / "server.log"
        self._wanted_port = port
        self._die_with_me = die_with_me
        self._child: subprocess.Popen[bytes] | None = None
        self._watchdog: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def _prepare(self, ports: Mapping[str, int]) -> Sequence[str | Path]:
        """Write the settings and say how the program is called. It runs with the folder as its working folder."""

    @abstractmethod
    def _ready(self) -> bool:
        """Whether it answers."""

    @property
    def port(self) -> int:
        """Where it listens, or listened last. Raises `CannotStart` when it was never started."""
        return self._ports()["port"]

    @property
    def address(self) -> str:
        """Where it answers, for people."""
        return f"127.0.0.1:{self.port}"

    @property
    def running(self) -> Running | None:
        """Who runs; None when nobody does."""
        kept = self._kept()
        return kept if kept and runs(kept.pid) and began(kept.pid) == kept.began else None

    @property
    def pid(self) -> int | None:
        running = self.running
        return running.pid if running else None

    def alive(self) -> bool:
        if self._child is not None and self._child.poll() is not None:
            return False
        return self.running is not None

    def start(self) -> Self:
        """Start it on its data and its ports, or join it where it runs; back when it answers. Raises `CannotStart`."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._alone():
            running = self.running
            if running is None:
                self._spawn()
            elif self._child is None and self._watchdog is None:
                self._watch(running.pid)
            self._wait_until_ready()
        return self

    def stop(self) -> None:
        """Ask it to stop, and wait; after 30 s it is killed."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """kill -9, of the whole group: nothing is written any more."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """SIGSTOP: its connections stay open and nobody answers on them."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    # Starting

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        with (self.folder / ".starting").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _spawn(self) -> None:
        ports = self._choose_ports()
        command = self._prepare(ports)
        if self.log.exists() and self.log.stat().st_size > _LOG_KEPT:
            self.log.replace(self.log.with_suffix(".log.1"))
        with self.log.open("ab") as log:
            self.log.chmod(0o600)
            # A session of its own: a Ctrl-C at the terminal must reach us alone; and its children are in its group.
            self._child = subprocess.Popen(
                command,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                umask=0o077,
                **self._options(),
            )
        pid = self._child.pid
        self._keep(Running(pid, began(pid), dict(ports), time.time()))
        self._watch(pid)

    def _options(self) -> dict[str, Any]:
        return {"env": self._environment()}

    def _environment(self) -> dict[str, str]:
        return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8", "TZ": "UTC"}

    def _watch(self, pid: int) -> None:
        if self._die_with_me:
            self._watchdog = subprocess.Popen(
                ["/bin/sh", "-c", _WATCHDOG, str(pid)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + self.ready_within
        while not self._ready():
            if not self.alive():
                raise CannotStart(f"{self.name} does not start. The end of {self.log}:\n{self._tail()}")
            if time.monotonic() > deadline:
                raise CannotStart(f"{self.name} is not ready after {self.ready_within:.0f} s. See {self.log}.")
            time.sleep(0.03)

    def _tail(self, lines: int = 12) -> str:
        with self.log.open("rb") as log:
            log.seek(max(0, self.log.stat().st_size - 8192))
            return "\n".join(log.read().decode("utf-8", "replace").rstrip().splitlines()[-lines:])

    # Ports

    def _ports(self) -> dict[str, int]:
        kept = self._kept()
        if kept is None:
            raise CannotStart(f"{self.name} was never started in {self.folder}.")
        return kept.ports

    def _choose_ports(self) -> dict[str, int]:
        kept = self._kept()
        ports: dict[str, int] = {}
        for name in self.port_names:
            before = kept.ports.get(name) if kept else None
            if name == "port" and self._wanted_port is not None:
                if not is_free(self._wanted_port):
                    raise CannotStart(
                        f"{self.name} can't have port {self._wanted_port}: another program listens on it."
                    )
                ports[name] = self._wanted_port
            else:
                ports[name] = before if before and is_free(before) else free_port(ports.values())
        return ports

    # What is kept

    @property
    def _file(self) -> Path:
        return self.folder / "server.json"

    def _kept(self) -> Running | None:
        try:
            return Running(**json.loads(self._file.read_text("utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def _keep(self, running: Running) -> None:
        draft = self._file.with_suffix(".new")
        draft.write_text(json.dumps(asdict(running)), "utf-8")
        draft.chmod(0o600)
        draft.replace(self._file)

    # Ending

    def _signal(self, number: signal.Signals) -> None:
        running = self.running
        if running is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(running.pid, number)

    def _end(self, number: signal.Signals) -> None:
        running = self.running
        if running is not None:
            self._signal(number)
            # One that is paused hears nothing but kill -9 until it goes on.
            self._signal(signal.SIGCONT)
            if not self._gone(running.pid, _STOPPED_WITHIN):
                self._signal(signal.SIGKILL)
                self._gone(running.pid, _KILLED_WITHIN)
            # What the leader left behind would hold the data's locks.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(running.pid, signal.SIGKILL)
        if self._watchdog is not None and self._watchdog.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._watchdog.stdin.write(b"\n")
                self._watchdog.stdin.close()
            self._watchdog.wait(5)
        self._child = self._watchdog = None

    def _gone(self, pid: int, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        # A leader may go before its children, who still write.
        while runs(pid) or members(pid):
            if self._child is not None:
                self._child.poll()
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        if self._child is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(_KILLED_WITHIN)
        return True


def is_free(port: int) -> bool:
    with socket.socket() as found:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            found.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_port(taken: Sequence[int] | Any = ()) -> int:
    """A port of 127.0.0.1 on which nobody listens."""
    for _ in range(200):
        port = random.choice(_PORTS)  # noqa: S311 - spread, not secret
        if port not in taken and is_free(port):
            return port
    raise CannotStart("No free port was found between 20000 and 32000.")


def began(pid: int) -> str:
    """When a process began, in the kernel's ticks since the machine did; empty where that can't be known."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return status.rpartition(")")[2].split()[19]


def members(group: int) -> list[int]:
    """The living processes of a group; the dead that nobody has waited for do not count."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, its_group = entry.read_text().rpartition(")")[2].split()[:3]
            # The first thread of a killed process is dead before the others, which still hold its files and ports.
            if int(its_group) == group and (state not in ("Z", "X") or len(os.listdir(entry.with_name("task"))) > 1):
                found.append(int(entry.parent.name))
    return found
