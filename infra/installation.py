"""Where the parts of one installation are. In: settings, and the embedded servers where the stack is embedded. Out:
addresses and keys, the same words for both stacks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

from infra.embedded.clickhouse import ClickHouse
from infra.embedded.data_folder import DataFolder
from infra.embedded.postgres import Postgres
from infra.embedded.redis import Redis
from infra.embedded.servers import Servers
from infra.event_log.connections import service_dsn
from infra.event_log.schema import app_dsn
from infra.keys import KeyFolder
from infra.settings import Settings
from infra.troubles import CannotStart

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

    from infra.embedded.servers import EmbeddedServers


class Analytics(Protocol):
    """ClickHouse: the engine in this process, or a server. `connect` from any thread; a client has a session of its
    own, and `close` shuts every one that was handed out."""

    def connect(self, database: str | None = None) -> Client: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Installation:
    """`postgres` is entered as the application's role. `owner` may change tables; it is None where `daybook migrate`
    does that before anybody starts. `index` is the search index: a URL, or a file of the embedded one."""

    settings: Settings
    keys: KeyFolder
    checkpoints: Path
    postgres: str
    owner: str | None
    redis: str
    analytics: Callable[[], Analytics]
    index: str | Path

    @classmethod
    def embedded(cls, settings: Settings, servers: Servers | EmbeddedServers) -> Self:
        """On the servers of a data folder, which whoever holds them keeps running."""
        return cls.of_folder(settings, servers.folder, servers.clickhouse)

    @classmethod
    def of_folder(cls, settings: Settings, folder: DataFolder, engine: ClickHouse | None) -> Self:
        """On the servers of a data folder, and the engine of this process where it has it."""
        postgres = Postgres(folder)

        def analytics() -> Analytics:
            if engine is None:
                raise CannotStart("The ClickHouse engine belongs to the one process that claims the data.")
            return engine

        return cls(
            settings=settings,
            keys=KeyFolder(folder.keys, make=True),
            checkpoints=folder.checkpoints,
            postgres=app_dsn(postgres.dsn()),
            owner=postgres.dsn(),
            redis=Redis(folder).url,
            analytics=analytics,
            index=folder.path / "directory.sqlite",
        )

    @classmethod
    def full(cls, settings: Settings, *needs: str, service: str | None = None) -> Self:
        """On the servers that the settings name. `needs` are the settings that this process can't do without; raises
        `WrongSettings` where one is missing. `service` is what the database's list of connections says of it."""
        settings.need("postgres_dsn", *needs)

        def analytics() -> Analytics:
            from infra.analytics import ClickHouseServer  # noqa: PLC0415 - a second of import, for those who need it

            return ClickHouseServer(settings.clickhouse_url or "")

        return cls(
            settings=settings,
            keys=KeyFolder(settings.keys_folder, make=False),
            checkpoints=settings.checkpoints_folder,
            postgres=service_dsn(settings.postgres_dsn or "", service) if service else settings.postgres_dsn or "",
            owner=settings.postgres_owner_dsn,
            redis=settings.redis_url or "",
            analytics=analytics,
            index=settings.elasticsearch_url or "",
        )


@contextmanager
def opened(settings: Settings, *needs: str, claim: str | None = None, redis: bool = True) -> Iterator[Installation]:
    """The installation for a command: the full stack's servers, which run; or the embedded ones, started where they do
    not run, as `Servers` says. Raises `Trouble`."""
    if settings.stack == "full":
        yield Installation.full(settings, *needs)
    else:
        with Servers(settings, claim=claim, redis=redis) as servers:
            yield Installation.embedded(settings, servers)
