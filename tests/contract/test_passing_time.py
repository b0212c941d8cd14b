"""What the clock alone brings about. These stand last: what they look at was asked for first."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from tests.contract.book import EARLY, Early, eventually, until
from tests.house import House
from tests.served import at


async def test_a_hold_ends_by_the_clock_and_the_log_hears_of_it(house: House, early: Early) -> None:
    async with house.caller(EARLY) as admin:
        early.book.who = admin
        held = {"status": "held", "held_until": at(early.held_until)}
        shown = await admin.get(f"/appointments/{early.hold}")
        if datetime.now(UTC) < early.held_until - timedelta(seconds=5):
            assert {name: shown[name] for name in held} == held
            assert not await early.book.is_free(early.held_at)
        await until(early.held_until)
        assert (await admin.get(f"/appointments/{early.hold}"))["status"] == "lapsed"
        assert await early.book.is_free(early.held_at)
        late = await admin.post(f"/appointments/{early.hold}/book")
        # By the clock, or by the sweeper's word where that came first.
        assert (late.status_code, late.json()["code"] in ("hold_ended", "wrong_status")) == (409, True)

        async def swept() -> bool:
            told = await admin.get(f"/appointments/{early.hold}")
            return [one["event"] for one in told["history"]] == ["AppointmentHeld.v1", "HoldLapsed.v1"]

        await eventually(swept, "the sweeper wrote down that the hold has lapsed")
        other = await admin.post("/appointments", early.book.visit(early.held_at, patient=2))
        assert other.status_code == 201, other.text


async def test_who_did_not_come_is_marked_once_the_visit_was_due(house: House, early: Early) -> None:
    async with house.caller(EARLY) as admin:
        early.book.who = admin
        await until(early.due_at)
        before = (await early.book.statuses()).get("no_show", 0)

        async def marked() -> bool:
            answer = await admin.post(f"/appointments/{early.due}/no-show")
            assert answer.status_code == 200 or answer.json()["code"] == "too_early", answer.text
            return answer.status_code == 200

        await eventually(marked, "the visit was due")
        assert (await admin.get(f"/appointments/{early.due}"))["status"] == "no_show"
        assert (await early.book.statuses())["no_show"] == before + 1
