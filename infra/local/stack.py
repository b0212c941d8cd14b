"""The full stack in one data folder: its servers, Daybook's own services, and where each is. In: a data folder. Out:
the parts, the settings that clients need, and what runs.

Postgres, Redis and the keys are those of an embedded Daybook on the same folder, so its book goes on here; the other
read stores are filled from the log.
"""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from infra.embedded.data_folder import DataFolder
from infra.embedded.postgres import Postgres
from infra.embedded.redis import Redis
from infra.event_log.schema import app_dsn
from infra.key_marks import settle
from infra.keys import KeyFolder
from infra.local.clickhouse import ClickHouseServer
from infra.local.elasticsearch import Elasticsearch
from infra.local.fetch import Report
from infra.local.kafka import Kafka
from infra.local.server import LocalServer, began, members
from infra.settings import MODELS

_REDIS = 7


@dataclass(frozen=True, slots=True)
class Program:
    """One of Daybook's services: `arguments` of `daybook`, and the port that it is to have, if it is to have one."""

    name: str
    arguments: tuple[str, ...]
    port: int | None = None


def programs(port: int) -> tuple[Program, ...]:
    """Daybook's services in the order of starting; `port` is that of the APIs."""
    return (
        Program("relay", ("relay",)),
        *(Program(f"work-{model}", ("work", model)) for model in MODELS),
        Program("jobs", ("jobs",)),
        Program("serve", ("serve",), port),
    )


class Part(Protocol):
    """What the supervisor keeps running."""

    @property
    def name(self) -> str: ...
    @property
    def pid(self) -> int | None: ...
    @property
    def address(self) -> str: ...
    @property
    def log(self) -> Path: ...
    def start(self) -> object: ...
    def stop(self) -> None: ...
    def alive(self) -> bool: ...


class Embedded:
    """Postgres or Redis as the embedded Daybook starts them."""

    def __init__(self, folder: DataFolder, server: Postgres | Redis, address: Path) -> None:
        self.name = server.name
        self.address = str(address)
        self.log = folder.logs / f"{server.name.lower()}.log"
        self._folder = folder
        self._server = server

    @property
    def pid(self) -> int | None:
        return self._server.pid

    def start(self) -> None:
        with self._folder.starting():
            self._server.ensure_running()

    def stop(self) -> None:
        with self._folder.starting():
            self._server.stop()

    def alive(self) -> bool:
        return self._server.alive()


class Service(LocalServer):
    """One of Daybook's own services. It answers on its port for health and metrics, and for the APIs that it serves."""

    def __init__(self, folder: DataFolder, program: Program, environment: Callable[[], Mapping[str, str]]) -> None:
        super().__init__(folder.path / "services" / program.name, port=program.port)
        self.name = program.name
        self.log = folder.logs / f"{program.name}.log"
        self._arguments = program.arguments
        self._stack = environment

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _prepare(self, ports: Mapping[str, int]) -> Sequence[str | Path]:
        self._own_port = ports["port"]
        return [sys.executable, "-m", "infra.cli.main", *self._arguments]

    def _environment(self) -> dict[str, str]:
        return {**os.environ, **self._stack(), "PORT": str(self._own_port)}

    def _ready(self) -> bool:
        return self.answers("live")

    def answers(self, question: str) -> bool:
        """What it says to `/health/live` or `/health/ready`."""
        try:
            with urllib.request.urlopen(f"{self.address}/health/{question}", timeout=5) as answer:  # noqa: S310
                return bool(answer.status == 200)
        except (OSError, urllib.error.URLError):
            return False


class Stack:
    """Every part of the stack on one data folder."""

    def __init__(self, folder: DataFolder, *, port: int = 8000, report: Report = lambda _: None) -> None:
        self.folder = folder
        self._postgres = Postgres(folder)
        self._redis = Redis(folder, program=redis_program())
        self._kafka = Kafka(folder.path / "kafka", report=report)
        self._elasticsearch = Elasticsearch(folder.path / "elasticsearch", report=report)
        self._clickhouse = ClickHouseServer(folder.path / "clickhouse-server")
        self.servers: tuple[Part, ...] = (
            Embedded(folder, self._postgres, folder.postgres_sockets),
            Embedded(folder, self._redis, folder.redis_socket),
            self._kafka,
            self._elasticsearch,
            self._clickhouse,
        )
        self.services: tuple[Service, ...] = tuple(
            Service(folder, program, self.environment) for program in programs(port)
        )

    @property
    def settings_file(self) -> Path:
        return self.folder.path / "stack.env"

    def environment(self) -> Mapping[str, str]:
        """The settings of every service, once the servers have been started. It holds secrets."""
        return {
            "DATA": str(self.folder.path),
            "DAYBOOK_STACK": "full",
            "DAYBOOK_POSTGRES_DSN": app_dsn(self._postgres.dsn()),
            "DAYBOOK_POSTGRES_OWNER_DSN": self._postgres.dsn(),
            "DAYBOOK_REDIS_URL": self._redis.url,
            "DAYBOOK_KAFKA": self._kafka.bootstrap,
            "DAYBOOK_KAFKA_SECURITY": "PLAINTEXT",
            "DAYBOOK_ELASTICSEARCH_URL": self._elasticsearch.url,
            "DAYBOOK_CLICKHOUSE_URL": self._clickhouse.url,
            "DAYBOOK_KEYS": str(self.folder.keys),
            "DAYBOOK_CHECKPOINTS": str(self.folder.checkpoints),
        }

    def write_settings(self) -> None:
        """Make the keys of a log that has not begun, and write the settings where a shell can read them. Raises
        `CannotStart` for keys that are not this log's."""
        keys = KeyFolder(self.folder.keys, make=True)
        asyncio.run(settle(self._postgres.dsn(), keys))
        # What is left may be made anew.
        keys.make()
        draft = self.settings_file.with_suffix(".new")
        draft.touch(mode=0o600)
        lines = [f"{name}={shlex.quote(value)}" for name, value in self.environment().items()]
        draft.write_text("\n".join(lines) + "\n", "utf-8")
        draft.replace(self.settings_file)


def redis_program() -> Path | None:
    """The machine's own Redis where it is 7 or newer; None for the one that comes as a Python package (6.2)."""
    # A virtual environment may bring an older one, which then stands first on the PATH.
    for folder in os.get_exec_path():
        if (found := shutil.which("redis-server", path=folder)) is None:
            continue
        said = subprocess.run([found, "--version"], check=False, capture_output=True, text=True).stdout
        version = re.search(r"v=(\d+)", said)
        if version and int(version[1]) >= _REDIS:
            return Path(found)
    return None


@dataclass(frozen=True, slots=True)
class Found:
    """How a part is: `state` is stopped, paused, starting (it lives, and is not ready) or running. `since` in seconds
    since 1970, `memory` in bytes, its shared pages counted once."""

    name: str
    kind: str
    state: str
    pid: int | None
    address: str | None
    since: float | None
    memory: int | None
    log: str


def look(part: Part) -> Found:
    kind = "service" if isinstance(part, Service) else "server"
    pid = part.pid
    if pid is None:
        return Found(part.name, kind, "stopped", None, None, None, None, str(part.log))
    pids = members(pid) or [pid]
    state = "paused" if _paused(pid) else "running"
    if state == "running" and isinstance(part, Service) and not part.answers("ready"):
        state = "starting"
    return Found(part.name, kind, state, pid, part.address, _since(pid), sum(map(_memory, pids)), str(part.log))


def _paused(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except OSError:
        return False


def _since(pid: int) -> float | None:
    ticks = began(pid)
    if not ticks:
        return None
    up = float(Path("/proc/uptime").read_text().split()[0])
    return time.time() - up + int(ticks) / os.sysconf("SC_CLK_TCK")


def _memory(pid: int) -> int:
    try:
        found = re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0
