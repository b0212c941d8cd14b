"""Two organizations in one log: nothing that the one was handed opens anything of the other's.

Ids are walked in `test_walk.py`; here are the other things that are handed out: keys, cursors, positions, versions.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from domain.access import Role
from tests.clinic import ADMIN, CHECKUP, DESK, ORGANIZATION, Clinic, in_days, patient_actor
from tests.conftest import Database
from tests.served import Served, served, someone, visit
from tests.write_api.test_appointments import ANOTHER, is_problem


@pytest.fixture
async def book(database: Database, redis_server: str, tmp_path: Path) -> AsyncIterator[Served]:
    async with served(database.app, redis_server, None, tmp_path) as book:
        yield book


@pytest.fixture
async def ours(book: Served) -> Clinic:
    return await book.clinic(providers=3, patients=2, rooms=3)


@pytest.fixture
async def theirs(book: Served) -> Clinic:
    return await book.clinic(organization=ANOTHER, providers=3, patients=2, rooms=3)


async def test_a_key_that_both_use_is_two_keys(book: Served, ours: Clinic, theirs: Clinic) -> None:
    """The same actor's id, the same key and the same body, in each organization."""
    key = {"Idempotency-Key": "one"}
    made = [
        await book.post("/patients", DESK, {}, headers=key, organization=organization)
        for organization in (ORGANIZATION, ANOTHER, ORGANIZATION, ANOTHER)
    ]
    ids = [answer.json()["patient_id"] for answer in made]
    assert ids[0] == ids[2] != ids[1] == ids[3]
    assert [answer.headers.get("idempotency-replayed") for answer in made] == [None, None, "true", "true"]
    # Another body under the key is a fault of whoever used the key before, and of nobody else.
    other = {"reference": "MRN-7"}
    is_problem(await book.post("/patients", DESK, other, headers=key), 422, "idempotency_key_reused")
    fresh = {"Idempotency-Key": "two"}
    await book.post("/patients", DESK, {}, headers=fresh)
    assert (await book.post("/patients", DESK, other, headers=fresh, organization=ANOTHER)).status_code == 201


async def test_a_cursor_goes_on_in_its_own_organization_alone(book: Served, ours: Clinic, theirs: Clinic) -> None:
    for day in (3, 4):
        await book.post("/appointments", DESK, visit(ours, in_days(day)))
        why = {"reason": "emergency", "words": "Collapsed in the waiting room."}
        await book.post(f"/patients/{ours.patients[day - 3]}/glass", someone(Role.PROVIDER), why)
    for _ in range(2):
        await book.get(f"/patients/{ours.patient}", DESK)
    lists: dict[str, dict[str, Any]] = {
        "/providers": {},
        "/providers/directory": {},
        "/resources": {},
        "/slots": {"visit_type_id": str(CHECKUP.id)},
        f"/patients/{ours.patient}/appointments": {},
        f"/patients/{ours.patient}/looks": {},
        "/glass": {},
    }
    for path, params in lists.items():
        first = await book.get(path, ADMIN, params={**params, "limit": 1})
        assert first.status_code == 200, first.text
        cursor = first.json()["next"]
        assert cursor is not None, path
        asked = {**params, "limit": 1, "cursor": cursor}
        assert (await book.get(path, ADMIN, params=asked)).status_code == 200, path
        foreign = await book.get(path, ADMIN, params=asked, organization=ANOTHER)
        assert foreign.json()["code"] in ("bad_cursor", "unknown"), (path, foreign.text)


async def test_a_position_shows_no_more_of_us_to_them(book: Served, ours: Clinic, theirs: Clinic) -> None:
    made = await book.post("/appointments", DESK, visit(ours, in_days(3)))
    then, visit_id = made.json()["position"], made.json()["appointment_id"]
    asked = {"params": {"as_of": then}, "organization": ANOTHER}
    for path in (
        f"/appointments/{visit_id}",
        f"/patients/{ours.patient}",
        f"/patients/{ours.patient}/appointments",
        f"/providers/{ours.provider}",
        f"/resources/{ours.rooms[0]}",
        f"/resources/{ours.patient}/page",
    ):
        is_problem(await book.get(path, ADMIN, after=then, **asked), 404, "unknown")
    own = await book.get(f"/providers/{theirs.provider}", ADMIN, after=then, **asked)
    assert own.status_code == 200


async def test_a_mixed_request_is_unknown_from_either_side(book: Served, ours: Clinic, theirs: Clinic) -> None:
    for part, value in (
        ("patient_id", theirs.patient),
        ("provider_id", theirs.provider),
        ("resources", [theirs.rooms[0]]),
    ):
        told = [str(one) for one in value] if isinstance(value, list) else str(value)
        mixed = visit(ours, in_days(3), **{part: told})
        for organization in (ORGANIZATION, ANOTHER):
            is_problem(await book.post("/appointments", ADMIN, mixed, organization=organization), 404, "unknown")


async def test_who_somebody_is_here_says_nothing_there(book: Served, ours: Clinic, theirs: Clinic) -> None:
    """A patient's id is a name in one organization: the same in another's token names nobody."""
    made = await book.post("/appointments", DESK, visit(ours, in_days(3)))
    visit_id = made.json()["appointment_id"]
    anna = patient_actor(ours.patient)
    assert (await book.get(f"/appointments/{visit_id}", anna)).status_code == 200
    is_problem(await book.get(f"/appointments/{visit_id}", anna, organization=ANOTHER), 404, "unknown")
    is_problem(await book.get(f"/patients/{ours.patient}", anna, organization=ANOTHER), 404, "unknown")
    is_problem(await book.post(f"/appointments/{visit_id}/cancel", anna, organization=ANOTHER), 404, "unknown")
