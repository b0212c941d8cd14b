"""All embedded servers of one data folder. In: the settings. Out: running servers and how to reach them.

`Servers` is for the command line: it joins what runs, starts what does not, and when it leaves as the last one, stops
what runs. `EmbeddedServers` is the same for the long-lived server, with somebody watching who restarts what dies.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from types import TracebackType
from typing import Self

from infra.embedded.clickhouse import ClickHouse
from infra.embedded.data_folder import Claim, DataFolder, Use
from infra.embedded.postgres import Postgres
from infra.embedded.redis import Redis
from infra.settings import Settings
from infra.troubles import CannotStart, Trouble

_log = logging.getLogger("daybook.embedded")

_LOOK_EVERY = 0.25
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.25, 5.0


class Servers:
    """A context manager. `claim` names the command that must be the only one serving or importing on this data; without
    it the process works beside a running server. ClickHouse is there only with a claim, being one process's alone.

    Entering raises `DataInUse` and `CannotStart`.
    """

    def __init__(self, settings: Settings, *, claim: str | None = None, redis: bool = True) -> None:
        self._settings = settings
        self._claim_as = claim
        self._claim: Claim | None = None
        self._use: Use | None = None
        self.folder = DataFolder.open(settings.data)
        self.postgres = Postgres(self.folder)
        self.redis = Redis(self.folder)
        self.clickhouse: ClickHouse | None = ClickHouse(self.folder.clickhouse) if claim else None
        self.parts: list[Postgres | Redis] = [self.postgres, self.redis] if redis else [self.postgres]

    def __enter__(self) -> Self:
        try:
            if self._claim_as:
                url = self._settings.url if self._claim_as == "serve" else None
                self._claim = self.folder.claim(self._claim_as, url)
            self._use = self.folder.use()
            with self.folder.starting():
                for part in self.parts:
                    part.ensure_running()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        if self.clickhouse is not None:
            self.clickhouse.close()
        if self._use is not None:
            with self.folder.starting():
                if self._use.last():
                    # All that runs, though started by others: a server that somebody killed leaves its Postgres behind.
                    self.redis.stop()
                    self.postgres.stop()
                self._use.close()
                self._use = None
        if self._claim is not None:
            self._claim.close()
            self._claim = None

    def announce(self, url: str) -> None:
        """Let whoever finds the folder taken know where this server answers, once that is known."""
        if self._claim is not None:
            self._claim.announce(url)

    def revive(self, part: Postgres | Redis) -> None:
        with self.folder.starting():
            part.ensure_running()


class EmbeddedServers:
    """An async context manager around `Servers`, with a watch that brings a died server back.

    `restarts` counts how often, by name.
    """

    def __init__(self, settings: Settings, *, claim: str = "serve") -> None:
        self._servers = Servers(settings, claim=claim)
        self._stopping = asyncio.Event()
        self._watch: asyncio.Task[None] | None = None
        self.restarts: Counter[str] = Counter()

    @property
    def folder(self) -> DataFolder:
        return self._servers.folder

    @property
    def postgres(self) -> Postgres:
        return self._servers.postgres

    @property
    def redis(self) -> Redis:
        return self._servers.redis

    @property
    def clickhouse(self) -> ClickHouse:
        if self._servers.clickhouse is None:
            raise CannotStart("The ClickHouse engine belongs to the one process that claims the data.")
        return self._servers.clickhouse

    def announce(self, url: str) -> None:
        self._servers.announce(url)

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self._servers.__enter__)
        self._watch = asyncio.create_task(self._keep_alive(), name="embedded servers' watch")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        if self._watch is not None:
            await self._watch
        await asyncio.to_thread(self._servers.close)

    async def _keep_alive(self) -> None:
        # Told to stop by an event, not cancelled: a cancelled restart would go on in its thread, after the stop.
        pause = _SHORTEST_PAUSE
        while not await self._told_to_stop(_LOOK_EVERY):
            for part in self._servers.parts:
                if part.alive():
                    continue
                _log.warning("%s died; starting it again", part.name)
                try:
                    await asyncio.to_thread(self._servers.revive, part)
                except (Trouble, OSError) as error:
                    _log.error("%s does not start, next try in %.1f s: %s", part.name, pause, error)
                    if await self._told_to_stop(pause):
                        return
                    pause = min(pause * 2, _LONGEST_PAUSE)
                else:
                    self.restarts[part.name] += 1
                    pause = _SHORTEST_PAUSE
                    _log.warning("%s runs again", part.name)

    async def _told_to_stop(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return False
        return True
