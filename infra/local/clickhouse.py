"""ClickHouse for development and tests. In: a folder. Out: a server on a port of 127.0.0.1, for `clickhouse-connect`.

It is ClickHouse's real engine (the package `chdb-core`) in a process of its own, behind a stand-in for the server's
front door: `infra.local.clickhouse_http` speaks ClickHouse's HTTP interface as far as its Python client uses it. No
package registry carries the server itself; deployment runs that, and nothing but the address changes.
"""

from __future__ import annotations

import secrets
import sys
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

from infra.local.server import LocalServer

USER = "default"


class ClickHouseServer(LocalServer):
    """A server; `url` is what clients are given: `clickhouse_connect.get_client(dsn=server.url)`. Every client that is
    handed out has a session of its own; many processes may connect."""

    name = "ClickHouse"

    @property
    def url(self) -> str:
        """Holds the password: keep it out of logs and of arguments."""
        return f"http://{USER}:{self.password}@127.0.0.1:{self.port}"

    @property
    def password(self) -> str:
        return self._password_file.read_text("utf-8")

    @property
    def _password_file(self) -> Path:
        return self.folder / "password"

    def _prepare(self, ports: Mapping[str, int]) -> Sequence[str | Path]:
        if not self._password_file.exists():
            draft = self._password_file.with_suffix(".new")
            draft.touch(mode=0o600)
            draft.write_text(secrets.token_urlsafe(24), "utf-8")
            draft.replace(self._password_file)
        return [
            sys.executable,
            "-m",
            "infra.local.clickhouse_http",
            *("--data", self.folder / "data"),
            *("--port", str(ports["port"])),
            *("--password-file", self._password_file),
        ]

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/ping", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False
