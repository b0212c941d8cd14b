"""The embedded ClickHouse engine (chdb 26.9). In: a data folder. Out: clients of `clickhouse-connect` on one engine.

How `clickhouse_connect.get_client(interface="chdb", path=…)` behaves, found by trying it on two cores:

- Importing takes 1.1 s, the first client 0.5 s, each further one 10 ms; 280 MB stay resident. The very first insert of
  a process takes up to 1 s, after that 10 rows take 3.5 ms, 10,000 rows 36 ms. A point question takes 2 ms.
- One engine a process, and one path: a client on another path raises `ProgrammingError` while any client is open. A
  second process on the same path is refused with `ProgrammingError` ("Error initializing EmbeddedServer"), so the
  command line asks the running server through its control socket.
- Everything is synchronous: call it in a thread. A client serializes its own calls by a lock; clients of their own run
  beside each other (1.6 times as fast in four threads on two cores). `USE` and `SET` belong to a client. While a
  stream is open on a client, other calls on that client fail or block: give long streams a client of their own.
- Inserts go through a file in the temporary folder, and are durable once `insert` returns, as far as MergeTree is:
  parts are renamed into place but not synced, so a power cut (not a kill -9) may lose the last ones.
- Errors are `clickhouse_connect.driver.exceptions.DatabaseError` with ClickHouse's `code` (47 unknown identifier, 60
  unknown table); use after `close` raises `ProgrammingError`.
- `FINAL` on a ReplacingMergeTree of 10,000 rows takes 3.5 ms.
- `DateTime64('UTC')` comes back without a zone; the client reports the machine's own zone as the server's.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

from infra.troubles import CannotStart

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client


class ClickHouse:
    """The engine of this process. `connect` from any thread; `close` shuts every client that was handed out."""

    name = "ClickHouse"

    def __init__(self, path: Path) -> None:
        self._path = path
        self._clients: list[Client] = []
        self._lock = threading.Lock()

    def connect(self, database: str | None = None) -> Client:
        """A client with a session of its own. Raises `CannotStart` when another process holds the engine."""
        import clickhouse_connect  # noqa: PLC0415 - a second of import, which commands without it should not pay
        from clickhouse_connect.driver.exceptions import ProgrammingError  # noqa: PLC0415

        try:
            client = clickhouse_connect.get_client(interface="chdb", path=str(self._path), database=database)
        except ProgrammingError as error:
            raise CannotStart(
                f"The ClickHouse engine does not open {self._path}: another process has it open, or it is damaged. "
                "Its tables can be rebuilt from the log: when nothing else runs, remove the folder and start again."
            ) from error
        with self._lock:
            self._clients.append(client)
        return client

    def close(self) -> None:
        with self._lock:
            clients, self._clients = self._clients, []
        for client in clients:
            client.close()
