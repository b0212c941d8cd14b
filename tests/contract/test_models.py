"""Read models can be lost and made anew while people read, and always show what the log says."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import Any

import httpx
import pytest

from domain.access import Role
from infra.settings import MODELS
from tests.clinic import in_days
from tests.contract.book import SPAN, Book, open_book
from tests.house import FullHouse, House
from tests.invariants import assert_never_double_booked
from tests.rebuilt import assert_equals_a_rebuild


async def some_book(book: Book) -> None:
    """Visits of every fate."""
    for number in range(12):
        start = in_days(3 + number % 4, 8) + timedelta(minutes=30 * number)
        one = await book.arrange("/appointments", book.visit(start, patient=number % 3), "booked")
        if number % 3 == 1:
            await book.change(one, "cancel", "cancelled")
        elif number % 3 == 2:
            await book.change(one, "move", "booked", {"start": (start + timedelta(days=14)).isoformat()})


async def numbers(book: Book) -> dict[str, Any]:
    """What each read model says of a book whose first free time lies days ahead, so that it stays the first."""
    who = book.who
    return {
        "appointments": [await who.get(f"/appointments/{one}") for one in book.told],
        "patients": [await who.get(f"/patients/{one}/appointments") for one in book.patients],
        "days": [await who.get(f"/providers/{book.providers[0]}/day", date=str(in_days(n).date())) for n in range(8)],
        "slots": sorted(await book.starts(in_days(3))),
        "directory": [
            [one["name"], [times["starts"] for times in one["openings"]]]
            for one in (await who.get("/providers/directory"))["providers"]
        ],
        "provider": await who.get(f"/providers/{book.providers[0]}"),
        "facts": [await who.get(f"/facts/{part}", **SPAN) for part in ("weekdays", "lead-times", "hours", "statuses")],
    }


@pytest.mark.parametrize("model", MODELS)
async def test_a_model_is_rebuilt_while_it_serves(house: House, organization: str, model: str) -> None:
    async with house.caller(organization) as admin:
        book = await open_book(admin, opens=in_days(2).date())
        await some_book(book)
        before = await numbers(book)
        asked, over = 0, asyncio.Event()

        async def reader() -> None:
            nonlocal asked
            while not over.is_set():
                assert await numbers(book) == before
                asked += 1

        reading = asyncio.create_task(reader())
        told = json.loads(await asyncio.to_thread(house.run, "projections", "rebuild", "--model", model, "--json"))
        over.set()
        await reading
        assert asked
        assert [one["model"] for one in told["rebuilt"]] == [model]
        assert told["rebuilt"][0]["position"] > 0
        assert await numbers(book) == before
        # It goes on from there.
        await book.assert_shown(await book.arrange("/appointments", book.visit(in_days(30)), "booked"))


@pytest.mark.parametrize("store", ["redis", "clickhouse", "elasticsearch"])
async def test_a_store_that_lost_everything_is_filled_again(house: House, organization: str, store: str) -> None:
    async with house.caller(organization) as admin:
        book = await open_book(admin, opens=in_days(2).date())
        await some_book(book)
        before = await numbers(book)
        await asyncio.to_thread(house.empty, store)
        await admin.made("/patients", {}, "patient_id")
        assert await numbers(book) == before


async def test_the_read_models_equal_a_rebuild_and_the_log_is_whole(house: House) -> None:
    def compared() -> None:
        with house.at_rest() as place:
            assert_never_double_booked(asyncio.run(assert_equals_a_rebuild(place)))

    await asyncio.to_thread(compared)
    assert json.loads(house.run("log", "verify", "--json"))["ok"]


async def test_limits_are_shared_by_all_processes(full_house: FullHouse, organization: str) -> None:
    two = [
        full_house.service(f"limited-{number}", "serve", DAYBOOK_RATE_LIMIT="10", DAYBOOK_RATE_WINDOW="600")
        for number in range(2)
    ]
    headers = {"Authorization": f"Bearer {full_house.token(organization, Role.ADMIN)}"}
    try:
        await asyncio.gather(*(asyncio.to_thread(one.start) for one in two))
        async with httpx.AsyncClient(headers=headers) as http:
            answers = [await http.get(f"{two[number % 2].url}/read/providers") for number in range(12)]
            writes = await http.post(f"{two[0].url}/write/patients", json={})
    finally:
        await asyncio.gather(*(asyncio.to_thread(one.kill) for one in two))
    assert [answer.status_code for answer in answers] == [200] * 10 + [429] * 2
    assert [int(answer.headers["ratelimit"].split("r=")[1].split(";")[0]) for answer in answers[:3]] == [9, 8, 7]
    assert int(answers[-1].headers["retry-after"]) > 0
    assert writes.status_code == 429
