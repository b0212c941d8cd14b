"""Personal words on their way through the log, and after their key is gone."""

from __future__ import annotations

from uuid import UUID

import psycopg

from domain.events import ERASED
from infra.event_log.log import PostgresEventLog
from infra.event_log.verify import verify
from infra.keyring import PostgresKeyring
from tests.conftest import Database
from tests.infra.event_log.conftest import Confided, new, save

ANNA, BEN = UUID(int=1), UUID(int=2)


async def test_words_are_sealed_in_the_database_and_read_as_words(log: PostgresEventLog, database: Database) -> None:
    anna = Confided(patient=ANNA, reason="chest pain", notes=["smokes"], code="R07")
    ben = Confided(patient=BEN, reason="knee", code="M17")
    await log.append(save({"a/1": 0, "a/2": 0}, new("a/1", anna), new("a/2", ben)))
    assert [event.event for event in await log.read(0, 10)] == [anna, ben]
    with psycopg.connect(database.superuser) as connection:
        rows = connection.execute("SELECT payload FROM events").fetchall()
    assert all(word not in payload for (payload,) in rows for word in (b"chest", b"smokes", b"knee"))


async def test_forgetting_erases_one_person_and_leaves_the_chain_whole(
    log: PostgresEventLog, keyring: PostgresKeyring, database: Database
) -> None:
    anna = Confided(patient=ANNA, reason="chest pain", code="R07")
    ben = Confided(patient=BEN, reason="knee", code="M17")
    await log.append(save({"a/1": 0}, new("a/1", anna), new("a/1", ben)))
    await keyring.forget("clinic", str(ANNA))
    first, second = (event.event for event in (await log.load("clinic", {"a/1": 0}))["a/1"])
    assert isinstance(first, Confided)
    assert (first.reason, first.code, second) == (ERASED, "R07", ben)
    assert verify(database.app).ok


async def test_what_is_said_of_a_person_after_they_were_forgotten_is_not_kept(
    log: PostgresEventLog, keyring: PostgresKeyring
) -> None:
    await log.append(save({"a/1": 0}, new("a/1", Confided(patient=ANNA, reason="before"))))
    await keyring.forget("clinic", str(ANNA))
    await log.append(save({"a/1": 1}, new("a/1", Confided(patient=ANNA, reason="after"))))
    assert [event.event.reason for event in await log.read(0, 10)] == [ERASED, ERASED]  # type: ignore[attr-defined]


async def test_one_person_in_two_organizations_has_two_keys(log: PostgresEventLog, keyring: PostgresKeyring) -> None:
    for organization in ("clinic", "other"):
        event = new("a/1", Confided(patient=ANNA, reason=organization))
        await log.append(save({"a/1": 0}, event, organization=organization))
    await keyring.forget("clinic", str(ANNA))
    assert [event.event.reason for event in await log.read(0, 10)] == [ERASED, "other"]  # type: ignore[attr-defined]
