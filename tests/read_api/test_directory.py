"""The directory over HTTP: who fits, the one who is free earliest first."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from commands.providers import Hours, RegisterProvider
from domain.access import Role
from domain.provider import Mode, Specialty, VisitType
from infra.local.elasticsearch import Elasticsearch
from tests.clinic import ADMIN, CHECKUP, DESK, LOCATION, SCAN, VISIT_TYPES, Clinic, every_day, patient_actor
from tests.conftest import Database
from tests.projections.test_directory import searching
from tests.read_api.test_asking import is_problem
from tests.served import Served, served, someone, visit

STAFF_ONLY = VisitType(id=uuid4(), name="Infusion", duration_minutes=30, self_bookable=False)


async def register(book: Served, name: str, opens: str = "08:00", **more: Any) -> str:
    hours = Hours(location_id=LOCATION.id, hours=every_day(opens))
    opened = RegisterProvider(
        name=name, **{"locations": (LOCATION,), "visit_types": (*VISIT_TYPES, STAFF_ONLY), "hours": (hours,)} | more
    )
    answer = await book.desk.handle(opened, ADMIN, "elm-street")
    return str(answer.content["provider_id"])


async def ask(book: Served, who: Any = DESK, **params: Any) -> Any:
    answer = await book.get("/providers/directory", who, params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def names(book: Served, who: Any = DESK, **params: Any) -> list[str]:
    return [one["name"] for one in (await ask(book, who, **params))["providers"]]


async def test_who_fits_and_is_free_earliest(book: Served) -> None:
    await everything_about_it(book)


async def test_elasticsearch_answers_the_same(
    database: Database, redis_server: str, tmp_path: Path, elasticsearch: Elasticsearch
) -> None:
    async with (
        searching(elasticsearch) as index,
        served(database.app, redis_server, None, tmp_path, patience=20.0, index=index) as book,
    ):
        await everything_about_it(book)


async def everything_about_it(book: Served) -> None:
    skin = Specialty(code="207N00000X", name="Hautärztin")
    one = await register(book, "Dr. One", opens="09:00", specialties=(skin,), languages=("de", "en"))
    two = await register(book, "Dr. Two", opens="10:00", specialties=(skin,), languages=("de-AT",), insurers=("Örk",))
    await register(book, "Dr. Three", visit_types=(), hours=())
    assert await names(book) == ["Dr. One", "Dr. Two", "Dr. Three"]
    assert await names(book, specialty="hautarztin") == ["Dr. One", "Dr. Two"]
    assert await names(book, specialty="207N00000X", language="de-at") == ["Dr. Two"]
    assert await names(book, insurer="örk") == ["Dr. Two"]
    assert await names(book, visit_type_id=str(uuid4())) == []
    assert await names(book, mode=Mode.TELEMEDICINE.value, location_id=str(LOCATION.id)) == ["Dr. One", "Dr. Two"]
    assert await names(book, language="fr") == []

    told = await ask(book, visit_type_id=str(CHECKUP.id), limit=1)
    (first,) = told["providers"]
    (openings,) = first["openings"]
    assert (first["provider_id"], first["next_free"]) == (one, openings["starts"][0])
    assert openings["visit_type_id"] == str(CHECKUP.id)
    rest = await ask(book, visit_type_id=str(CHECKUP.id), cursor=told["next"])
    assert [row["provider_id"] for row in rest["providers"]] == [two]
    assert rest["next"] is None

    # Who asks after a hold sees what is left.
    patient = (await book.post("/patients", DESK, {})).json()["patient_id"]
    clinic = Clinic([first["provider_id"]], [patient], [])
    for start in openings["starts"]:
        await book.post("/appointments/hold", DESK, visit(clinic, datetime.fromisoformat(start)))
    after = {row["provider_id"]: row for row in (await ask(book, visit_type_id=str(CHECKUP.id)))["providers"]}
    assert after[one]["next_free"] > first["next_free"]

    # A patient is shown what patients may book.
    who = patient_actor(patient)
    assert len(await names(book, visit_type_id=str(STAFF_ONLY.id))) == 2
    assert await names(book, who, visit_type_id=str(STAFF_ONLY.id)) == []
    shown = (await ask(book, who))["providers"]
    assert {row["name"] for row in shown} == {"Dr. One", "Dr. Two"}
    assert str(STAFF_ONLY.id) not in {row["visit_type_id"] for row in shown[0]["openings"]}
    assert str(SCAN.id) in {row["visit_type_id"] for row in shown[0]["openings"]}
    assert (await names(book, DESK, limit=200))[-1] == "Dr. Three"
    answer = await book.get("/providers/directory", DESK, organization="another-street")
    assert answer.json() == {"providers": [], "next": None}


async def test_a_listed_time_can_be_booked(book: Served, clinic: Clinic) -> None:
    (listed,) = (await ask(book, visit_type_id=str(CHECKUP.id)))["providers"]
    params = {"visit_type_id": str(CHECKUP.id), "provider_id": str(clinic.provider)}
    slots = (await book.get("/slots", DESK, params=params)).json()["slots"]
    assert listed["openings"][0]["starts"] == [slot["start"] for slot in slots[:5]]
    start = listed["next_free"]
    answer = await book.post("/appointments", DESK, visit(clinic, datetime.fromisoformat(start)))
    assert answer.status_code == 201, answer.text
    (listed,) = (await ask(book, visit_type_id=str(CHECKUP.id)))["providers"]
    assert start not in listed["openings"][0]["starts"]


@pytest.mark.parametrize(
    ("params", "place"),
    [
        ({"limit": 0}, "limit"),
        ({"mode": "by_letter"}, "mode"),
        ({"visit_type_id": "checkup"}, "visit_type_id"),
        ({"specialty": " "}, "specialty"),
        ({"language": "x" * 201}, "language"),
        ({"insurer": "a\x00b"}, "insurer"),
    ],
)
async def test_a_faulty_question_is_refused(book: Served, params: dict[str, Any], place: str) -> None:
    told = is_problem(await book.get("/providers/directory", DESK, params=params), 422, "invalid")
    assert [fault["pointer"] for fault in told["errors"]] == [place]


async def test_who_may_ask_and_go_on(book: Served) -> None:
    await register(book, "Dr. One")
    await register(book, "Dr. Two")
    is_problem(await book.get("/providers/directory", someone(Role.ANALYST)), 403, "not_allowed")
    cursor = (await ask(book, limit=1))["next"]
    for params in ({"language": "de"}, {"visit_type_id": str(CHECKUP.id)}):
        answer = await book.get("/providers/directory", DESK, params={**params, "cursor": cursor})
        is_problem(answer, 400, "bad_cursor")


async def test_an_index_that_is_away_is_no_fault_of_the_asker(
    database: Database, redis_server: str, tmp_path: Path
) -> None:
    async with served(database.app, redis_server, None, tmp_path, patience=0.1) as book:
        await register(book, "Dr. One")
        file = tmp_path / "directory.sqlite"
        for end in ("", "-wal", "-shm"):
            file.with_name(file.name + end).unlink(missing_ok=True)
        file.mkdir()
        book.reads.state.library.directory.index._file.close = lambda: None
        for _ in range(100):
            # Whoever fills it may be using the old file still.
            book.reads.state.library.directory.index._file._connection = None
            answer = await book.send("GET", "/read/providers/directory", DESK)
            if answer.status_code != 200:
                break
        is_problem(answer, 503, "unavailable")
        assert answer.headers["retry-after"]
        file.rmdir()
        for _ in range(100):
            answer = await book.get("/providers/directory", DESK)
            if answer.status_code == 200:
                break
        assert [one["name"] for one in answer.json()["providers"]] == ["Dr. One"]
