"""A ClickHouse server. In: its URL. Out: clients of `clickhouse-connect`, as the embedded engine hands them out."""

from __future__ import annotations

import threading
from typing import Any, cast
from urllib.parse import parse_qs, unquote, urlsplit

import clickhouse_connect
from clickhouse_connect.driver.client import Client

# A question that takes longer than this many seconds has no answer.
_PATIENCE = 30
_SECURE = 443


class ClickHouseServer:
    """`url` is `http://user:password@host:8123` or `https://…`; `?ca_cert=PATH` names who signed the server's key."""

    name = "ClickHouse"

    def __init__(self, url: str) -> None:
        self._url = urlsplit(url)
        self._clients: list[Client] = []
        self._lock = threading.Lock()

    def connect(self, database: str | None = None) -> Client:
        """A client that meets the server with its first question, so that whoever can do without it starts without it.
        Calls raise `clickhouse_connect.driver.exceptions.Error` while the server does not answer."""
        return cast("Client", _Client(self, database))

    def _connected(self, database: str | None) -> Client:
        url = self._url
        secure = url.scheme == "https"
        options = {name: values[-1] for name, values in parse_qs(url.query).items()}
        client = clickhouse_connect.get_client(
            host=url.hostname or "localhost",
            port=url.port or (_SECURE if secure else 8123),
            username=unquote(url.username) if url.username else None,
            password=unquote(url.password or ""),
            database=database or "default",
            secure=secure,
            ca_cert=options.get("ca_cert"),
            send_receive_timeout=_PATIENCE,
            # Calls of one client never run side by side, and a session of its own would time out.
            autogenerate_session_id=False,
        )
        with self._lock:
            self._clients.append(client)
        return client

    def close(self) -> None:
        with self._lock:
            clients, self._clients = self._clients, []
        for client in clients:
            client.close()


class _Client:
    """A `Client` from its first use on."""

    def __init__(self, server: ClickHouseServer, database: str | None) -> None:
        self._server = server
        self._database = database
        self._client: Client | None = None
        self._lock = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        with self._lock:
            if self._client is None:
                self._client = self._server._connected(self._database)
        return getattr(self._client, name)
