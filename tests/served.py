"""Both APIs over real servers, asked through HTTP as a client would: Postgres keeps the log, Redis and ClickHouse the
read models, and a follower fills them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import redis.asyncio
from fastapi import FastAPI

import read_api.app
import write_api.app
from commands.loop import Desk
from domain.access import Actor, Role
from infra.audit.inquiries import LogInquiries
from infra.blinds import KeyedBlinds
from infra.embedded.clickhouse import ClickHouse
from infra.event_log.log import PostgresEventLog
from infra.holidays import PublicHolidays
from infra.http.cursors import Cursors
from infra.http.limits import RateLimit
from infra.http.origins import Origins
from infra.http.positions import Positions
from infra.http.service import Together
from infra.http.tokens import READ, WRITE, Bearers, SigningKey, mint
from infra.ids import TimeOrderedIds
from infra.keyring import MasterKeyFile, PostgresKeyring
from projections.diary import AppointmentDiary
from projections.directory import Directory, Index
from projections.facts import Facts
from projections.free_time import FreeTime
from projections.model import Model
from projections.people import People
from projections.redis_store import RedisStore
from projections.sqlite import SqliteIndex
from read_api.trail import Trail
from streams.follower import Follower
from tests.clinic import CHECKUP, LOCATION, ORGANIZATION, Clinic, open_clinic
from tests.people import SITE, Letterbox, credentials
from write_api.letters import Post

SECRET = b"a secret that only these tests know"
KEY = SigningKey(bytes(32))

_databases = count(1)


@dataclass
class Served:
    """`http` speaks to both APIs. `writes` and `reads` are the applications themselves."""

    http: httpx.AsyncClient
    writes: FastAPI
    reads: FastAPI
    desk: Desk
    log: PostgresEventLog
    positions: Positions
    cursors: Cursors
    letterbox: Letterbox = field(default_factory=Letterbox)
    position: str | None = None

    async def clinic(self, **setup: Any) -> Clinic:
        return await open_clinic(self.desk, **setup)

    async def send(self, method: str, path: str, who: Actor, **asked: Any) -> httpx.Response:
        """`organization` and `headers` besides what httpx takes."""
        headers = {"Authorization": f"Bearer {token(who, asked.pop('organization', ORGANIZATION))}"}
        answer = await self.http.request(method, path, headers={**headers, **asked.pop("headers", {})}, **asked)
        if method != "GET" and "position" in answer.headers:
            self.position = answer.headers["position"]
        return answer

    async def post(self, path: str, who: Actor, body: Any = None, **asked: Any) -> httpx.Response:
        return await self.send("POST", f"/write{path}", who, **({"json": body} if body is not None else {}), **asked)

    async def put(self, path: str, who: Actor, body: Any, **asked: Any) -> httpx.Response:
        return await self.send("PUT", f"/write{path}", who, json=body, **asked)

    async def delete(self, path: str, who: Actor, **asked: Any) -> httpx.Response:
        return await self.send("DELETE", f"/write{path}", who, **asked)

    async def get(self, path: str, who: Actor, after: str | None = None, **asked: Any) -> httpx.Response:
        """Reads what the last command did, or what `after` names."""
        if after is None:
            after = self.position or self.positions.show(await self.log.head())
        headers = {"Read-After": after, **asked.pop("headers", {})}
        return await self.send("GET", f"/read{path}", who, headers=headers, **asked)


def token(who: Actor, organization: str = ORGANIZATION) -> str:
    return mint(
        KEY,
        role=who.role,
        organization=organization,
        subject=who.id,
        now=datetime.now(UTC),
        lifetime=timedelta(hours=1),
        patient_id=who.patient_id,
        provider_id=who.provider_id,
        account_id=who.account_id,
        session_id=who.session_id,
        client_id=who.client_id,
        scopes=who.scopes,
        factors=who.factors,
        authenticated_at=who.authenticated_at,
    )


def someone(role: Role, **more: UUID) -> Actor:
    return Actor(f"{role.value}-7", role, **more)


def visit(clinic: Clinic, start: datetime, **more: Any) -> dict[str, Any]:
    """The body of a plain booking."""
    return {
        "patient_id": str(clinic.patient),
        "provider_id": str(clinic.provider),
        "location_id": str(LOCATION.id),
        "visit_type_id": str(CHECKUP.id),
        "start": start.isoformat(),
    } | more


def at(instant: datetime) -> str:
    """As answers write it."""
    return instant.astimezone(UTC).isoformat().replace("+00:00", "Z")


@asynccontextmanager
async def served(
    dsn: str,
    redis_url: str,
    clickhouse: ClickHouse | None,
    folder: Path,
    *,
    limit: RateLimit | None = None,
    patience: float = 5.0,
    log_patience: float = 5.0,
    index: Index | None = None,
) -> AsyncIterator[Served]:
    """`index` is the directory's, where it is not to be a file in the folder."""
    keyring = PostgresKeyring(dsn, MasterKeyFile.at(folder / "master.key"))
    client = redis.asyncio.from_url(redis_url)
    await client.flushdb()
    diary = AppointmentDiary(RedisStore(client, "diary"))
    free_time = FreeTime(RedisStore(client, "free_time"))
    people = People(RedisStore(client, "people"), lambda: [KeyedBlinds(SECRET)])
    facts = None
    if clickhouse is not None:
        facts = Facts(clickhouse.connect(), clickhouse.connect(), database=f"facts_{next(_databases)}")
    file = SqliteIndex(folder / "directory.sqlite")
    positions, cursors = Positions(SECRET), Cursors(SECRET)
    keys = {KEY.id: KEY.public}
    try:
        async with PostgresEventLog(dsn, keyring, patience=log_patience) as log:
            desk = Desk(log, log.clock, TimeOrderedIds(), PublicHolidays(), credentials=credentials())
            letterbox = Letterbox()
            directory = Directory(index or file, free_time, log.clock)
            models: list[Model] = [diary, free_time, people, *([facts] if facts else []), directory]
            origins = Origins(log, log.clock, TimeOrderedIds(), SECRET)
            writes = write_api.app.build(
                desk,
                Bearers(keys, WRITE, limit=limit),
                positions,
                origins=origins,
                organization=ORGANIZATION,
                post=Post(letterbox, SITE),
            )
            reads = read_api.app.build(
                diary,
                free_time,
                facts,
                log,
                log.clock,
                Bearers(keys, READ),
                positions,
                cursors,
                people_model=people,
                trail=Trail(log, log.clock, TimeOrderedIds(), origins, SECRET),
                inquiries=LogInquiries(dsn, log),
                directory_model=directory,
                patience=patience,
            )
            transport = httpx.ASGITransport(Together({"write": writes, "read": reads}))
            async with (
                Follower(log, models, grace=0),
                httpx.AsyncClient(transport=transport, base_url="http://daybook") as http,
            ):
                yield Served(http, writes, reads, desk, log, positions, cursors, letterbox)
    finally:
        if facts is not None:
            await facts.close()
        await file.close()
        await client.aclose()
        await keyring.close()
