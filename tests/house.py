"""A house: one running Daybook as real processes, reached as its users reach it, by HTTP and the command line.

`EmbeddedHouse` is `daybook serve`; `FullHouse` is every service of the full stack on servers of its own, so that a test
may stop, kill, pause or empty any of them. Both have one interface. All of it dies with the run, however that ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar
from uuid import UUID, uuid4

import clickhouse_connect
import httpx
import psycopg
import redis

from domain.access import Role
from domain.ports import Recorded
from infra.desk import log_on
from infra.embedded.data_folder import DataFolder
from infra.embedded.postgres import Postgres
from infra.embedded.redis import Redis
from infra.embedded.servers import Servers
from infra.event_log.schema import app_dsn
from infra.http.tokens import mint
from infra.installation import Installation
from infra.keys import KeyFolder
from infra.local.clickhouse import ClickHouseServer
from infra.local.elasticsearch import Elasticsearch
from infra.local.kafka import Kafka
from infra.local.server import LocalServer
from infra.settings import Settings

DAYBOOK = (sys.executable, "-m", "infra.cli.main")
# How long anything may take that takes moments: patience with a busy machine, no measure of ours.
PATIENCE = 240.0


class Service(LocalServer):
    """One process of Daybook's own; `arguments` are those of the command line. Its words are in `log`."""

    def __init__(
        self,
        folder: Path,
        arguments: Sequence[str],
        environ: Mapping[str, str],
        program: Sequence[str] = DAYBOOK,
    ) -> None:
        super().__init__(folder, die_with_me=True)
        self._program = program
        self.name = " ".join(("daybook", *arguments))
        self.arguments = tuple(arguments)
        self.environ = dict(environ)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def health(self, part: str = "ready") -> tuple[int, Any]:
        """Status and words of `/health/…`; status 0 when nobody answers."""
        try:
            with urllib.request.urlopen(f"{self.url}/health/{part}", timeout=5) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read() or b"null")
        except (OSError, ValueError):
            return 0, None

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        found = [
            float(line.rpartition(" ")[2])
            for line in lines
            if line.startswith((f"{name}{{", f"{name} ")) and all(one in line for one in wanted)
        ]
        assert found, f"{self.name} has no metric {name}"
        return sum(found)

    def tail(self) -> str:
        return self._tail(40) if self.log.exists() else ""

    def restart(self) -> None:
        """kill -9, and start again."""
        self.kill()
        self.start()

    def _prepare(self, ports: Mapping[str, int]) -> Sequence[str | Path]:
        self.environ["PORT"] = str(ports["port"])
        return [*self._program, *self.arguments]

    def _environment(self) -> dict[str, str]:
        return {**os.environ, **self.environ}

    def _ready(self) -> bool:
        # Alive is enough: some are started while what they need is away.
        return self.health("live")[0] == 200


class Caller:
    """Somebody of one organization, at both APIs. Asks again while it hears of an outage, as clients should, under the
    same idempotency key; reads what it wrote."""

    def __init__(self, house: House, http: httpx.AsyncClient, token: str) -> None:
        self._house = house
        self._http = http
        self._headers = {"Authorization": f"Bearer {token}"}
        self.position: str | None = None

    async def write(self, method: str, path: str, body: Any = None, *, key: str | None = None) -> httpx.Response:
        headers = {"Idempotency-Key": key or str(uuid4())}
        url = f"{self._house.write_url}/write{path}"
        answer = await self._persist(method, url, headers, **({} if body is None else {"json": body}))
        if "position" in answer.headers:
            self.position = answer.headers["position"]
        return answer

    async def post(self, path: str, body: Any = None, *, key: str | None = None) -> httpx.Response:
        return await self.write("POST", path, body, key=key)

    async def made(self, path: str, body: Any, field: str) -> str:
        answer = await self.post(path, body)
        assert answer.status_code == 201, answer.text
        return str(answer.json()[field])

    async def read(self, path: str, *, after: str | None = "", **params: Any) -> httpx.Response:
        """After the caller's last command, or `after`; None is whatever is there."""
        after = self.position if after == "" else after
        headers = {} if after is None else {"Read-After": after}
        return await self._persist("GET", f"{self._house.read_url}/read{path}", headers, params=params)

    async def get(self, path: str, *, after: str | None = "", **params: Any) -> Any:
        """The answer's JSON, which is there."""
        answer = await self.read(path, after=after, **params)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def search(self, path: str, body: Any) -> Any:
        """What is asked for in a body, after the caller's last command."""
        headers = {} if self.position is None else {"Read-After": self.position}
        answer = await self._persist("POST", f"{self._house.read_url}/read{path}", headers, json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def _persist(self, method: str, url: str, headers: Mapping[str, str], **asked: Any) -> httpx.Response:
        give_up = time.monotonic() + PATIENCE
        while True:
            with contextlib.suppress(httpx.HTTPError):
                answer = await self._http.request(method, url, headers={**self._headers, **headers}, **asked)
                if answer.status_code != 503 or time.monotonic() > give_up:
                    return answer
                assert "retry-after" in answer.headers
            assert time.monotonic() < give_up, f"no answer from {method} {url}"
            await asyncio.sleep(0.05)


class House(ABC):
    """`folder` stands near the root, since a socket's path is short."""

    kind: ClassVar[str]

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.services: dict[str, Service] = {}
        # Others that a test has started besides.
        self.guests: dict[str, Service] = {}

    @property
    @abstractmethod
    def write_url(self) -> str: ...

    @property
    @abstractmethod
    def read_url(self) -> str: ...

    @property
    @abstractmethod
    def environ(self) -> dict[str, str]:
        """Settings of every process, and of the command line."""

    @property
    @abstractmethod
    def keys(self) -> KeyFolder: ...

    @abstractmethod
    def start(self) -> None:
        """Everything, until all of it is ready."""

    @abstractmethod
    def stop(self) -> None: ...

    @abstractmethod
    def at_rest(self) -> contextlib.AbstractContextManager[Installation]:
        """The installation, for looking into its log and stores; the embedded one stops serving meanwhile."""

    @abstractmethod
    def empty(self, store: str) -> None:
        """Take away what a store holds: "redis", "clickhouse" or "elasticsearch"."""

    def until_ready(self, *names: str) -> None:
        """Wait until these services say so, or all."""
        give_up = time.monotonic() + PATIENCE
        for service in [self.services[name] for name in names or self.services]:
            while (found := service.health())[0] != 200:
                assert service.alive(), f"{service.name} ended:\n{service.tail()}"
                assert time.monotonic() < give_up, f"{service.name} is not ready: {found}\n{service.tail()}"
                time.sleep(0.1)

    def run(self, *arguments: str, fine: Iterable[int] = (0,)) -> str:
        """What a command prints. `fine` are the exit codes it may end with."""
        done = subprocess.run(
            [*DAYBOOK, *arguments],
            env={**os.environ, **self.environ},
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode in fine, f"daybook {' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def token(self, organization: str, role: Role, *, patient_id: UUID | None = None) -> str:
        return mint(
            self.keys.tokens(),
            role=role,
            organization=organization,
            subject=f"{role.value}-7",
            now=datetime.now(UTC),
            lifetime=timedelta(hours=2),
            patient_id=patient_id,
        )

    @asynccontextmanager
    async def caller(
        self, organization: str, role: Role = Role.ADMIN, *, patient_id: UUID | None = None
    ) -> AsyncIterator[Caller]:
        limits = httpx.Limits(max_connections=64, max_keepalive_connections=16)
        async with httpx.AsyncClient(timeout=10, limits=limits) as http:
            yield Caller(self, http, self.token(organization, role, patient_id=patient_id))

    def tails(self) -> Iterator[tuple[str, str]]:
        """The last words of every process, by name."""
        for name, service in {**self.services, **self.guests}.items():
            yield name, service.tail()


async def history_of(place: Installation) -> Sequence[Recorded]:
    """The whole log."""
    found: list[Recorded] = []
    async with log_on(place) as log:
        while some := await log.read(len(found), 5000):
            found += some
    return found


class EmbeddedHouse(House):
    kind = "embedded"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.data = folder / "data"
        self.services = {"serve": Service(folder / "serve", ["serve", "--no-demo"], self.environ)}

    @property
    def environ(self) -> dict[str, str]:
        return {"DATA": str(self.data), "DAYBOOK_RATE_LIMIT": "0"}

    @property
    def write_url(self) -> str:
        return self.services["serve"].url

    read_url = write_url

    @property
    def keys(self) -> KeyFolder:
        return KeyFolder(self.data / "keys", make=False)

    def start(self) -> None:
        self.services["serve"].start()
        self.until_ready()

    def stop(self) -> None:
        self.services["serve"].stop()

    def restart(self) -> None:
        """kill -9, and start again; Postgres and Redis are found as they are."""
        self.services["serve"].restart()
        self.until_ready()

    @contextmanager
    def at_rest(self) -> Iterator[Installation]:
        self.stop()
        try:
            settings = Settings.load(self.environ)
            with Servers(settings, claim="test") as servers:
                yield Installation.embedded(settings, servers)
        finally:
            self.start()

    def empty(self, store: str) -> None:
        if store == "redis":
            with redis.Redis.from_url(Redis(DataFolder.open(self.data)).url) as client:
                client.flushall()
            return
        self.stop()
        for path in self.data.glob({"clickhouse": "clickhouse", "elasticsearch": "directory*"}[store]):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.start()


class FullHouse(House):
    """Write and read API are processes of their own, as are the relay, its standby, a worker for each read model, and
    the jobs."""

    kind = "full"

    # What runs, by name: the arguments of `daybook`.
    SERVICES: ClassVar[Mapping[str, Sequence[str]]] = {
        "write": ("serve", "--api", "write"),
        "read": ("serve", "--api", "read"),
        "relay": ("relay",),
        "standby": ("relay",),
        "diary": ("work", "diary"),
        "free_time": ("work", "free_time"),
        "people": ("work", "people"),
        "facts": ("work", "facts"),
        "directory": ("work", "directory"),
        "jobs": ("jobs",),
    }

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.data = DataFolder.open(folder / "data")
        self.postgres = Postgres(self.data)
        self.redis = Redis(self.data)
        self.kafka = Kafka(folder / "kafka", die_with_me=True, short_lived=True)
        self.elasticsearch = Elasticsearch(folder / "elasticsearch", die_with_me=True, short_lived=True)
        self.clickhouse = ClickHouseServer(folder / "clickhouse", die_with_me=True)

    @property
    def environ(self) -> dict[str, str]:
        return {
            "DAYBOOK_STACK": "full",
            "DATA": str(self.folder / "nowhere"),
            "DAYBOOK_KEYS": str(self.keys.path),
            "DAYBOOK_CHECKPOINTS": str(self.folder / "checkpoints"),
            "DAYBOOK_POSTGRES_DSN": app_dsn(self.postgres.dsn()),
            "DAYBOOK_REDIS_URL": self.redis.url,
            "DAYBOOK_KAFKA": self.kafka.bootstrap,
            "DAYBOOK_ELASTICSEARCH_URL": self.elasticsearch.url,
            "DAYBOOK_CLICKHOUSE_URL": self.clickhouse.url,
            "DAYBOOK_RATE_LIMIT": "0",
        }

    @property
    def keys(self) -> KeyFolder:
        return KeyFolder(self.folder / "keys", make=False)

    @property
    def write_url(self) -> str:
        return self.services["write"].url

    @property
    def read_url(self) -> str:
        return self.services["read"].url

    def start(self) -> None:
        servers = (self.kafka, self.elasticsearch, self.clickhouse)
        starts: list[Callable[[], object]] = [self.start_postgres, self.start_redis, *(one.start for one in servers)]
        _at_once(starts)
        self.run("keys", "make")
        self.migrate()
        self.services = {
            name: Service(self.folder / name, arguments, self.environ) for name, arguments in self.SERVICES.items()
        }
        _at_once([service.start for service in self.services.values()])
        self.until_ready()

    def migrate(self) -> None:
        done = subprocess.run(
            [*DAYBOOK, "migrate"],
            env={**os.environ, **self.environ, "DAYBOOK_POSTGRES_OWNER_DSN": self.postgres.dsn()},
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def service(self, name: str, *arguments: str, program: Sequence[str] = DAYBOOK, **environ: str) -> Service:
        """Not started, and not one of the house's own."""
        made = self.guests[name] = Service(self.folder / name, arguments, {**self.environ, **environ}, program)
        return made

    def stop(self) -> None:
        _at_once([service.stop for service in (*self.services.values(), *self.guests.values())])
        _at_once([one.kill for one in (self.kafka, self.elasticsearch, self.clickhouse)])
        self.redis.stop()
        self.postgres.stop()

    def head(self) -> int:
        """The log's last position."""
        with psycopg.connect(self.postgres.dsn()) as connection:
            row = connection.execute("SELECT position FROM log_head").fetchone()
        return int(row[0]) if row else 0

    # Single servers

    def start_postgres(self) -> None:
        with self.data.starting():
            self.postgres.ensure_running()

    def kill_postgres(self) -> None:
        """kill -9 of the server, whose sessions notice and go."""
        self._kill(self.postgres)

    def start_redis(self) -> None:
        with self.data.starting():
            self.redis.ensure_running()

    def kill_redis(self) -> None:
        self._kill(self.redis)

    def _kill(self, server: Postgres | Redis) -> None:
        pid = server.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        while server.pid == pid:
            # Collects it where it is our child.
            server.alive()
            time.sleep(0.01)

    @contextmanager
    def at_rest(self) -> Iterator[Installation]:
        yield Installation.full(Settings.load(self.environ))

    def empty(self, store: str) -> None:
        match store:
            case "redis":
                with redis.Redis.from_url(self.redis.url) as client:
                    client.flushall()
            case "clickhouse":
                client = clickhouse_connect.get_client(dsn=self.clickhouse.url)
                client.command("DROP DATABASE IF EXISTS daybook")
                client.close()
            case "elasticsearch":
                for name in httpx.get(f"{self.elasticsearch.url}/_cat/indices?format=json").json():
                    if not name["index"].startswith("."):
                        httpx.delete(f"{self.elasticsearch.url}/{name['index']}").raise_for_status()


def _at_once(work: Iterable[Callable[[], object]]) -> None:
    with ThreadPoolExecutor(16) as pool:
        for done in [pool.submit(one) for one in work]:
            done.result()


@contextmanager
def running(kind: type[House]) -> Iterator[Any]:
    """A house of this kind in a folder of its own, started, and gone at the end."""
    folder = Path(tempfile.mkdtemp(prefix=f"daybook-{kind.kind}-", dir="/tmp"))
    house = kind(folder)
    try:
        house.start()
        yield house
    finally:
        try:
            house.stop()
        finally:
            shutil.rmtree(folder, ignore_errors=True)
