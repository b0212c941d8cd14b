"""A clinic that was opened over HTTP, and what its book shows in every read model."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

from commands.providers import Hours, RegisterProvider
from domain.provider import BookingRules
from tests.clinic import CHECKUP, LOCATION, VISIT_TYPES, every_day, in_days
from tests.house import PATIENCE, Caller, House
from tests.served import at

EARLY = "clinic-early"
# Local days between which every visit of a test lies.
SPAN = {"first": in_days(-2).date().isoformat(), "last": in_days(60).date().isoformat()}


@dataclass(slots=True)
class Book:
    """`told` is what the caller was told of each appointment: its status and start."""

    who: Caller
    providers: Sequence[str]
    patients: Sequence[str]
    rooms: Sequence[str]
    told: dict[str, tuple[str, str]] = field(default_factory=dict)

    def visit(self, start: datetime, patient: int = 0, provider: int = 0, **more: Any) -> dict[str, Any]:
        return {
            "patient_id": self.patients[patient],
            "provider_id": self.providers[provider],
            "location_id": str(LOCATION.id),
            "visit_type_id": str(CHECKUP.id),
            "start": start.isoformat(),
        } | more

    async def arrange(self, path: str, body: Any, status: str) -> str:
        """Ask for a new visit; it has this status then."""
        answer = await self.who.post(path, body)
        assert answer.status_code == 201, answer.text
        return self._told(answer.json(), status)

    async def change(self, appointment_id: str, step: str, status: str, body: Any = None) -> None:
        answer = await self.who.post(f"/appointments/{appointment_id}/{step}", body)
        assert answer.status_code == 200, answer.text
        assert self._told(answer.json(), status) == appointment_id

    def _told(self, answer: dict[str, Any], status: str) -> str:
        assert answer["status"] == status
        self.told[answer["appointment_id"]] = (status, answer["start"])
        return str(answer["appointment_id"])

    async def starts(self, start: datetime, provider: int = 0, **more: Any) -> set[str]:
        """Free times of a local day, for a check-up."""
        day = start.date().isoformat()
        asked = {"visit_type_id": str(CHECKUP.id), "provider_id": self.providers[provider], "from": day, "to": day}
        return {slot["start"] for slot in (await self.who.get("/slots", **asked, **more))["slots"]}

    async def is_free(self, start: datetime, provider: int = 0) -> bool:
        return at(start) in await self.starts(start, provider)

    async def statuses(self) -> dict[str, int]:
        found: dict[str, int] = (await self.who.get("/facts/statuses", **SPAN))["appointments"]
        return found

    async def assert_shown(self, appointment_id: str) -> None:
        """Every read model shows the appointment as the caller was told of it."""
        status, start = self.told[appointment_id]
        shown = await self.who.get(f"/appointments/{appointment_id}")
        assert (shown["status"], shown["start"]) == (status, start)
        day = datetime.fromisoformat(start).astimezone(UTC).date().isoformat()
        listed = await self.who.get(f"/providers/{shown['provider_id']}/day", date=day)
        assert [one["status"] for one in listed["appointments"] if one["appointment_id"] == appointment_id] == [status]
        own = await self.who.get(f"/patients/{shown['patient_id']}/appointments", order="newest")
        assert [one["status"] for one in own["appointments"] if one["appointment_id"] == appointment_id] == [status]
        assert await self.statuses() == dict(Counter(status for status, _ in self.told.values()))


async def open_book(
    who: Caller,
    *,
    providers: int = 1,
    patients: int = 3,
    rooms: int = 0,
    rules: BookingRules | None = None,
    opens: date = date(1970, 1, 1),
) -> Book:
    """`opens` is the first local day with hours."""
    opening = RegisterProvider(
        name="Dr. Ada Example",
        locations=(LOCATION,),
        visit_types=VISIT_TYPES,
        hours=(Hours(location_id=LOCATION.id, valid_from=opens, hours=every_day("00:00", "00:00")),),
        rules=rules,
    ).model_dump(mode="json", exclude_none=True)
    return Book(
        who,
        [await who.made("/providers", opening, "provider_id") for _ in range(providers)],
        [await who.made("/patients", {}, "patient_id") for _ in range(patients)],
        [
            await who.made("/resources", {"kind": "room", "name": f"Room {number}"}, "resource_id")
            for number in range(rooms)
        ],
    )


@dataclass(frozen=True, slots=True)
class Early:
    """What was asked for when the house was young, since nothing but time makes it ripe: a hold of one minute, and a
    visit that was due soon."""

    book: Book
    hold: str
    held_at: datetime
    held_until: datetime
    due: str
    due_at: datetime


async def ask_early(house: House) -> Early:
    async with house.caller(EARLY) as admin:
        book = await open_book(admin, rules=BookingRules(hold_minutes=1, slot_step_minutes=1))
        held_at = in_days(3, 9)
        held = await admin.post("/appointments/hold", book.visit(held_at))
        assert held.status_code == 201, held.text
        due_at = datetime.now(UTC).replace(second=0, microsecond=0) + timedelta(minutes=1)
        due = await book.arrange("/appointments", book.visit(due_at, patient=1), "booked")
        until = datetime.fromisoformat(held.json()["held_until"])
        return Early(book, held.json()["appointment_id"], held_at, until, due, due_at)


async def until(instant: datetime) -> None:
    """Wait until the clock is surely past an instant, by whose clock ever."""
    await asyncio.sleep(max(0.0, (instant - datetime.now(UTC)).total_seconds() + 0.5))


async def eventually(holds: Any, what: str) -> None:
    """Ask until it holds."""
    give_up = time.monotonic() + PATIENCE
    while not await holds():
        assert time.monotonic() < give_up, f"still not: {what}"
        await asyncio.sleep(0.2)
