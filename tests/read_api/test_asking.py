"""What every question has in common: reading one's own writes, positions, and stores that are away."""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from infra.embedded.data_folder import DataFolder
from infra.embedded.redis import Redis
from tests.clinic import ADMIN, DESK, Clinic, in_days
from tests.conftest import Database
from tests.served import Served, served, token, visit
from tests.write_api.test_appointments import booked, is_problem


async def test_people_read_their_own_writes(book: Served, clinic: Clinic) -> None:
    for hour in range(9, 17):
        answer = await book.post("/appointments", DESK, visit(clinic, in_days(3, hour)))
        one = await book.get(f"/appointments/{answer.json()['appointment_id']}", DESK, after=answer.json()["position"])
        assert one.status_code == 200
        reached = book.positions.read(one.headers["position"])
        assert reached >= book.positions.read(answer.headers["position"])


async def test_a_view_that_has_not_caught_up_says_so_within_a_bound(
    database: Database, redis_server: str, tmp_path: Any
) -> None:
    async with served(database.app, redis_server, None, tmp_path, patience=0.2) as book:
        clinic = await book.clinic()
        ahead = book.positions.show(await book.log.head() + 1000)
        for path in (
            f"/providers/{clinic.provider}",
            f"/providers/{clinic.provider}/day",
            f"/patients/{clinic.patient}/appointments",
            "/resources",
        ):
            began = time.monotonic()
            answer = await book.get(path, DESK, after=ahead)
            is_problem(answer, 503, "not_caught_up")
            assert int(answer.headers["retry-after"]) >= 1
            assert time.monotonic() - began < 2


@pytest.mark.parametrize("said", ["7", "", "A" * 22, "ä" * 22, "A" * 5000])
async def test_a_position_that_was_not_made_here_is_refused(book: Served, said: str) -> None:
    headers = {"Authorization": f"Bearer {token(DESK)}", "Read-After": said.encode("latin-1")}
    is_problem(await book.http.get("/read/providers", headers=headers), 400, "bad_position")


async def test_every_answer_says_how_far_its_view_has_got(book: Served, clinic: Clinic) -> None:
    one = await booked(book, clinic)
    head = await book.log.head()
    for path in (
        f"/appointments/{one}",
        "/providers",
        f"/providers/{clinic.provider}",
        f"/providers/{clinic.provider}/day",
        f"/providers/{clinic.provider}/week",
        f"/patients/{clinic.patient}/appointments",
        "/resources",
        f"/resources/{clinic.rooms[0]}",
        f"/resources/{clinic.rooms[0]}/page",
        f"/slots?visit_type_id={uuid4()}",
    ):
        answer = await book.get(path, DESK)
        assert answer.status_code == 200, answer.text
        # What was looked at before is in the log by now.
        assert book.positions.read(answer.headers["position"]) >= head
        assert answer.headers["cache-control"] == "no-store"


async def test_a_store_that_is_away_is_503_and_then_comes_back(database: Database, tmp_path: Path) -> None:
    folder = DataFolder.open(Path(tempfile.mkdtemp(prefix="daybook-away-", dir="/tmp")) / "data")
    server = Redis(folder)
    with folder.starting():
        server.ensure_running()
    try:
        async with served(database.app, server.url, None, tmp_path) as book:
            clinic = await book.clinic()
            headers = {"Authorization": f"Bearer {token(DESK)}"}
            path = f"/read/providers/{clinic.provider}"
            assert (await book.get(f"/providers/{clinic.provider}", DESK)).status_code == 200
            server.stop()
            answer = await book.http.get(path, headers=headers)
            is_problem(answer, 503, "unavailable")
            assert "retry-after" in answer.headers
            with folder.starting():
                server.ensure_running()
            assert (await book.get(f"/providers/{clinic.provider}", DESK)).status_code == 200
    finally:
        server.stop()
        shutil.rmtree(folder.path.parent, ignore_errors=True)


async def test_no_token_no_answer(book: Served, clinic: Clinic) -> None:
    document = (await book.http.get("/read/openapi.json")).json()
    assert (await book.http.get("/read/docs")).status_code == 200
    for path, operations in document["paths"].items():
        address = re.sub(r"\{[^}]*\}", str(uuid4()), path)
        # What is searched for is personal, and an address is written down in too many places.
        (method,) = operations
        assert method == ("post" if path.endswith("/search") else "get")
        is_problem(await book.http.request(method.upper(), address), 401, "unauthenticated")
        operation = operations[method]
        assert operation["description"]
        assert operation["security"] == [{"bearer": []}]


async def test_there_is_nothing_elsewhere(book: Served) -> None:
    is_problem(await book.http.get("/read/nothing"), 404, "not_found")
    is_problem(await book.http.get("/nothing"), 404, "not_found")
    answer = await book.http.post("/read/providers", headers={"Authorization": f"Bearer {token(ADMIN)}"})
    is_problem(answer, 405, "method_not_allowed")
