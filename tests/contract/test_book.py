"""What a client may count on, whatever it runs on: commands are carried out once, and every read model shows them."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

from domain.access import Role
from tests.clinic import APPROVED, CHECKUP, DAYS, GROUP, LOCATION, SCAN, in_days
from tests.contract.book import Early, open_book
from tests.house import EmbeddedHouse, House
from tests.served import at


async def test_every_command_shows_in_every_read_model_to_who_asked_it(
    house: House, organization: str, early: Early
) -> None:
    async with house.caller(organization) as admin:
        book = await open_book(admin, patients=4, rooms=1)
        async with house.caller(organization, Role.PATIENT, patient_id=UUID(book.patients[1])) as patient:
            assert await book.is_free(in_days(3))

            booked = await book.arrange("/appointments", book.visit(in_days(3)), "booked")
            await book.assert_shown(booked)
            assert not await book.is_free(in_days(3))

            held = await book.arrange("/appointments/hold", book.visit(in_days(4)), "held")
            await book.assert_shown(held)
            assert not await book.is_free(in_days(4))
            await book.change(held, "book", "booked")
            await book.assert_shown(held)

            for day, step, body, status in (
                (5, "accept", None, "booked"),
                (6, "decline", {"reason": "no_capacity"}, "declined"),
            ):
                asked = book.visit(in_days(day), patient=1, visit_type_id=str(APPROVED.id))
                answer = await patient.post("/appointments", asked)
                assert (answer.status_code, answer.json()["status"]) == (201, "requested")
                requested = answer.json()["appointment_id"]
                book.told[requested] = ("requested", answer.json()["start"])
                admin.position = patient.position
                await book.assert_shown(requested)
                assert not await book.is_free(in_days(day))
                await book.change(requested, step, status, body)
                await book.assert_shown(requested)
                assert await book.is_free(in_days(day)) == (status == "declined")

            await book.change(booked, "move", "booked", {"start": in_days(7).isoformat()})
            await book.assert_shown(booked)
            assert await book.is_free(in_days(3))
            assert not await book.is_free(in_days(7))

            await book.change(booked, "cancel", "cancelled", {"reason": "patient_ill", "note": "Feels worse."})
            await book.assert_shown(booked)
            assert await book.is_free(in_days(7))

            soon = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) + timedelta(hours=2)
            attended = await book.arrange("/appointments", book.visit(soon, patient=2), "booked")
            for step, body, status in (
                ("check-in", None, "checked_in"),
                ("start", {}, "in_progress"),
                ("complete", {"outcome": "follow_up"}, "completed"),
                ("entered-in-error", None, "entered_in_error"),
            ):
                await book.change(attended, step, status, body)
                await book.assert_shown(attended)

            weekly = {"recurrence": {"frequency": "weekly", "count": 3}}
            series = await admin.post("/series", book.visit(in_days(8, 10), patient=3) | weekly)
            assert series.status_code == 201, series.text
            for one in series.json()["appointments"]:
                book.told[one["appointment_id"]] = ("booked", one["start"])
            for one in series.json()["appointments"]:
                await book.assert_shown(one["appointment_id"])

            scan = book.visit(in_days(9), visit_type_id=str(SCAN.id), resources=book.rooms)
            await book.assert_shown(await book.arrange("/appointments", scan, "booked"))
            for patient_number in range(3):
                group = book.visit(in_days(10), patient=patient_number, visit_type_id=str(GROUP.id))
                await book.assert_shown(await book.arrange("/appointments", group, "booked"))


async def test_what_changes_about_a_provider_changes_the_free_times(house: House, organization: str) -> None:
    async with house.caller(organization) as admin:
        book = await open_book(admin)
        path = f"/providers/{book.providers[0]}"
        start = in_days(3)
        assert await book.is_free(start)

        block = {"resource_id": book.providers[0], "period": _hour(3), "reason": "meeting"}
        made = await admin.post("/blocks", {"block": [block]})
        assert made.status_code == 200, made.text
        assert not await book.is_free(start)
        told = made.json()["blocks"][0]
        opened = {"resource_id": book.providers[0], "block_id": told["block_id"], "period": _hour(3)}
        assert (await admin.post("/blocks", {"unblock": [opened]})).status_code == 200
        assert await book.is_free(start)

        off = await admin.post(f"{path}/hours", {"time_off": [{"period": _hour(3), "reason": "training"}]})
        assert off.status_code == 200, off.text
        assert not await book.is_free(start)
        one = off.json()["time_off"][0]["time_off_id"]
        assert (await admin.write("DELETE", f"{path}/time-off/{one}")).status_code == 200
        assert await book.is_free(start)

        closed = {"location_id": str(LOCATION.id), "hours": {day: [] for day in DAYS}}
        assert (await admin.post(f"{path}/hours", {"weekly": [closed]})).status_code == 200
        assert await book.starts(start) == set()

        profile = {"name": "Dr. Grace Example", "languages": ["en", "de"]}
        assert (await admin.write("PUT", f"{path}/profile", profile)).status_code == 200
        assert (await admin.get(path))["name"] == "Dr. Grace Example"


def _hour(day: int) -> dict[str, str]:
    return {"start": in_days(day, 9).isoformat(), "end": in_days(day, 10).isoformat()}


async def test_the_directory_lists_the_next_free_times_as_they_can_be_booked(house: House, organization: str) -> None:
    today = {"location_id": str(LOCATION.id), "day": in_days(0).date().isoformat(), "hours": []}
    morning = {"location_id": str(LOCATION.id), "hours": {day: [{"start": "09:00", "end": "10:30"}] for day in DAYS}}
    async with house.caller(organization) as admin:
        book = await open_book(admin)
        path = f"/providers/{book.providers[0]}"

        async def listed() -> list[str]:
            (found,) = (await admin.get("/providers/directory", visit_type_id=str(CHECKUP.id)))["providers"]
            assert found["provider_id"] == book.providers[0]
            assert found["next_free"] == found["openings"][0]["starts"][0]
            starts: list[str] = found["openings"][0]["starts"]
            return starts

        async def free() -> list[str]:
            asked = {"visit_type_id": str(CHECKUP.id), "provider_id": book.providers[0]}
            return [slot["start"] for slot in (await admin.get("/slots", **asked))["slots"]][:5]

        assert (await admin.post(f"{path}/hours", {"weekly": [morning], "exceptions": [today]})).status_code == 200
        assert await listed() == await free()
        assert (await listed())[0] == at(in_days(1))
        one = await book.arrange("/appointments", book.visit(in_days(1)), "booked")
        assert await listed() == await free()
        assert (await listed())[0] == at(in_days(1, 9, 30))
        await book.change(one, "move", "booked", {"start": in_days(1, 9, 30).isoformat()})
        assert await listed() == await free()
        assert (await listed())[:2] == [at(in_days(1)), at(in_days(1, 10))]
        await book.arrange("/appointments/hold", book.visit(in_days(1), patient=1), "held")
        assert await listed() == await free()
        await book.change(one, "cancel", "cancelled")
        assert await listed() == await free()
        block = {"resource_id": book.providers[0], "period": _hour(1), "reason": "meeting", "over_visits": True}
        assert (await admin.post("/blocks", {"block": [block]})).status_code == 200
        assert await listed() == await free()
        profile = {"name": "Dr. Grace Example", "languages": ["pt-BR"]}
        assert (await admin.write("PUT", f"{path}/profile", profile)).status_code == 200
        for words, names in (("pt", ["Dr. Grace Example"]), ("fi", [])):
            found = await admin.get("/providers/directory", language=words)
            assert [one["name"] for one in found["providers"]] == names


async def test_a_repeat_is_answered_and_not_done_again(house: House, organization: str) -> None:
    async with house.caller(organization) as admin:
        book = await open_book(admin)
        key, wish = str(uuid4()), book.visit(in_days(3))
        first, *others = await asyncio.gather(*(admin.post("/appointments", wish, key=key) for _ in range(8)))
        assert first.status_code == 201, first.text
        assert all(other.json() == first.json() for other in others)
        # After a crash too.
        if isinstance(house, EmbeddedHouse):
            house.restart()
        else:
            house.services["write"].restart()
        again = await admin.post("/appointments", wish, key=key)
        assert (again.status_code, again.json()) == (201, first.json())
        assert again.headers["idempotency-replayed"] == "true"
        other_wish = await admin.post("/appointments", book.visit(in_days(4)), key=key)
        assert (other_wish.status_code, other_wish.json()["code"]) == (422, "idempotency_key_reused")
        assert await book.statuses() == {"booked": 1}


async def test_of_many_who_want_one_time_one_gets_it_and_the_others_hear_what_is_free(
    house: House, organization: str
) -> None:
    async with house.caller(organization) as admin:
        book = await open_book(admin, patients=12)
        start = in_days(3)
        answers = await asyncio.gather(
            *(admin.post("/appointments", book.visit(start, patient=number)) for number in range(12))
        )
        assert Counter(answer.status_code for answer in answers) == {201: 1, 409: 11}
        refused = [answer.json() for answer in answers if answer.status_code == 409]
        assert {told["code"] for told in refused} == {"slot_taken"}
        alternatives = [one["start"] for one in refused[0]["alternatives"]]
        assert len(alternatives) == 3
        assert set(alternatives) <= await book.starts(start)
        loser = next(number for number, answer in enumerate(answers) if answer.status_code == 409)
        for alternative in alternatives[:1]:
            wish = book.visit(start, patient=loser) | {"start": alternative}
            assert (await admin.post("/appointments", wish)).status_code == 201


async def test_the_book_can_be_seen_as_it_was(house: House, organization: str) -> None:
    async with house.caller(organization) as admin:
        book = await open_book(admin)
        one = await book.arrange("/appointments", book.visit(in_days(3)), "booked")
        then, (made,) = admin.position, (await admin.get(f"/appointments/{one}"))["history"]
        await book.change(one, "move", "booked", {"start": in_days(4).isoformat()})
        await book.change(one, "cancel", "cancelled")
        for as_of in (then, made["recorded_at"]):
            was = await admin.get(f"/appointments/{one}", as_of=as_of)
            assert (was["status"], was["start"]) == ("booked", at(in_days(3)))
            assert was["history"] == [made]
        assert at(in_days(3)) not in await book.starts(in_days(3), as_of=then)
        assert at(in_days(4)) in await book.starts(in_days(4), as_of=then)
        assert (await admin.get(f"/appointments/{one}"))["status"] == "cancelled"
        assert await book.is_free(in_days(3))


async def test_organizations_share_nothing(house: House, organization: str) -> None:
    async with house.caller(organization) as admin, house.caller(f"{organization}-b") as stranger:
        book = await open_book(admin)
        one = await book.arrange("/appointments", book.visit(in_days(3)), "booked")
        after = admin.position
        assert (await stranger.read(f"/appointments/{one}", after=after)).status_code == 404
        assert (await stranger.read(f"/providers/{book.providers[0]}", after=after)).status_code == 404
        assert (await stranger.get("/providers", after=after))["providers"] == []
        slots = await stranger.read("/slots", after=after, visit_type_id=str(CHECKUP.id), provider_id=book.providers[0])
        assert slots.status_code == 404
        figures = await stranger.get("/facts/statuses", after=after, first="2020-01-01", last="2040-01-01")
        assert figures["appointments"] == {}
        assert (await stranger.post("/appointments", book.visit(in_days(4)))).status_code == 404
        assert (await stranger.post(f"/appointments/{one}/cancel", {})).status_code == 404
        assert (await admin.get(f"/appointments/{one}"))["status"] == "booked"
