"""Breaking the glass, and who hears of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from domain import glass
from domain.access import Actor, Role, Whose
from domain.refusals import Unknown
from read_api.access import reached
from tests.clinic import ADMIN, DESK, ORGANIZATION, Clinic
from tests.conftest import Database
from tests.served import Served, at, someone
from tests.write_api.test_appointments import ANOTHER, booked, is_problem

AUDITOR = someone(Role.AUDITOR)
WHY: dict[str, Any] = {"reason": "emergency", "words": "Found unconscious in the waiting room."}


def doctor(clinic: Clinic, name: str = "dr-stranger") -> Actor:
    return Actor(name, Role.PROVIDER, provider_id=clinic.patient)


async def test_a_broken_glass_shows_the_record_and_is_listed_with_its_reason(book: Served, clinic: Clinic) -> None:
    stranger = doctor(clinic)
    visit = await booked(book, clinic)
    is_problem(await book.get(f"/appointments/{visit}", stranger), 404, "unknown")
    answer = await book.post(f"/patients/{clinic.patient}/glass", stranger, WHY)
    assert answer.status_code == 201, answer.text
    until = datetime.fromisoformat(answer.json()["until"])
    assert (await book.get(f"/appointments/{visit}", stranger)).status_code == 200
    is_problem(await book.get(f"/appointments/{visit}", doctor(clinic, "dr-other")), 404, "unknown")
    is_problem(await book.get(f"/patients/{clinic.patients[1]}/appointments", stranger), 404, "unknown")
    for who in (ADMIN, AUDITOR):
        (one,) = (await book.get("/glass", who)).json()["glasses"]
        assert (one["actor"], one["patient_id"]) == (stranger.id, str(clinic.patient))
        assert (one["reason"], one["words"]) == (WHY["reason"], WHY["words"])
        assert datetime.fromisoformat(one["until"]) == until
    is_problem(await book.get("/glass", DESK), 403, "not_allowed")
    assert (await book.get("/glass", ADMIN, organization=ANOTHER)).json() == {"glasses": [], "next": None}


async def test_it_closes_after_half_an_hour(book: Served, clinic: Clinic) -> None:
    stranger = doctor(clinic)
    answer = await book.post(f"/patients/{clinic.patient}/glass", stranger, WHY)
    until = datetime.fromisoformat(answer.json()["until"])
    assert timedelta(0) <= datetime.now(UTC) + glass.LASTS - until < timedelta(minutes=5)
    asked = (ORGANIZATION, stranger, "read_patient", Whose(clinic.patient))
    assert (await reached(book.log, until - timedelta.resolution, *asked)).behind_glass
    with pytest.raises(Unknown):
        await reached(book.log, until, *asked)


@pytest.mark.parametrize("why", [{}, {"reason": "emergency"}, {**WHY, "words": "short"}, {**WHY, "reason": "curious"}])
async def test_it_is_not_broken_without_a_reason(book: Served, clinic: Clinic, why: dict[str, Any]) -> None:
    is_problem(await book.post(f"/patients/{clinic.patient}/glass", doctor(clinic), why), 422, "invalid")


async def test_the_list_goes_on_page_by_page_the_latest_first(book: Served, clinic: Clinic) -> None:
    begin = datetime.now(UTC)
    for number in range(5):
        stranger = doctor(clinic, f"dr-{number % 2}")
        await book.post(f"/patients/{clinic.patients[number % 3]}/glass", stranger, WHY)
    params: dict[str, Any] = {"limit": 2, "since": at(begin - timedelta(minutes=1))}
    seen: list[str] = []
    while True:
        page = (await book.get("/glass", AUDITOR, params=params)).json()
        seen += [one["at"] for one in page["glasses"]]
        if page["next"] is None:
            break
        params["cursor"] = page["next"]
    assert len(seen) == 5
    assert seen == sorted(seen, reverse=True)
    is_problem(await book.get("/glass", ADMIN, params=params, organization=ANOTHER), 400, "bad_cursor")
    later = at(datetime.now(UTC) + timedelta(minutes=1))
    assert (await book.get("/glass", AUDITOR, params={"since": later})).json()["glasses"] == []


async def test_the_words_are_sealed_in_the_log(book: Served, clinic: Clinic, database: Database) -> None:
    await book.post(f"/patients/{clinic.patient}/glass", doctor(clinic), WHY)
    with psycopg.connect(database.superuser) as connection:
        rows = connection.execute("SELECT payload FROM events WHERE name = 'GlassBroken.v1'").fetchall()
    assert len(rows) == 1
    assert b"unconscious" not in bytes(rows[0][0])
