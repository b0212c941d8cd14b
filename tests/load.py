"""A clinic at its busiest: bookings over HTTP at a steady pace, some of them moved or cancelled later, all of them
remembered.

Every command that was acknowledged must be in the log, whole and once; `assert_in` says whether it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import httpx

from domain.appointment import AppointmentBooked, AppointmentCancelled, AppointmentRescheduled
from domain.ports import Recorded
from tests.clinic import in_days
from tests.contract.book import Book, open_book
from tests.house import PATIENCE, Caller, FullHouse, House
from tests.invariants import assert_never_double_booked
from tests.rebuilt import assert_equals_a_rebuild

CLIENTS = 8
# So many commands are under way when a wait for more is over; from then on each client asks after so many seconds.
_AHEAD = 20
_TRICKLE = 2.0
_REFUSALS = {"slot_taken", "patient_busy", "nothing_to_move"}


class Load:
    """`pace` commands a second while more are waited for and the house keeps up; a trickle otherwise, so that a slow
    machine has no more to do than a fast one. `acknowledged` are appointments by id, as the last answer told of them:
    status and start."""

    def __init__(self, book: Book, organization: str, pace: float) -> None:
        self.book = book
        self.who: Caller = book.who
        self.organization = organization
        self.acknowledged: dict[str, tuple[str, str]] = {}
        self.answers = 0
        self.refused: Counter[str] = Counter()
        self._moves: Counter[str] = Counter()
        self._chance = random.Random(organization)
        self._pause = CLIENTS / pace
        self._wanted = 0
        self._over = asyncio.Event()
        self._idle: list[str] = []
        self._clients: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._clients = [asyncio.create_task(self._client()) for _ in range(CLIENTS)]

    async def stop(self) -> None:
        """Nothing more is asked; what was is answered. Raises what a client met that it should not."""
        self._over.set()
        clients, self._clients = self._clients, []
        await asyncio.gather(*clients)

    async def more(self, answers: int) -> None:
        """Wait until so many more commands were acknowledged: bookings go on."""
        wanted, give_up = self.answers + answers, time.monotonic() + PATIENCE
        self._wanted = wanted + _AHEAD
        while self.answers < wanted:
            for client in self._clients:
                if client.done():
                    client.result()
            assert time.monotonic() < give_up, f"bookings stopped; {wanted - self.answers} of {answers} are missing"
            await asyncio.sleep(0.05)

    async def _client(self) -> None:
        while not self._over.is_set():
            began = time.monotonic()
            await self._one()
            pause = self._pause if self.answers < self._wanted else _TRICKLE
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._over.wait(), max(0.0, pause - (time.monotonic() - began)))

    async def _one(self) -> None:
        chance = self._chance
        kind = chance.random()
        if kind < 0.7 or not self._idle:
            wish = self.book.visit(
                self._some_time(), chance.randrange(len(self.book.patients)), chance.randrange(len(self.book.providers))
            )
            answer = await self.who.post("/appointments", wish)
        else:
            # Nobody else changes it meanwhile.
            one = self._idle.pop(chance.randrange(len(self._idle)))
            if kind < 0.85:
                answer = await self.who.post(f"/appointments/{one}/cancel", {"reason": "patient_request"})
            else:
                answer = await self.who.post(f"/appointments/{one}/move", {"start": self._some_time().isoformat()})
                if answer.status_code == 200:
                    self._moves[one] += 1
                else:
                    self._idle.append(one)
        self._note(answer)

    def _note(self, answer: httpx.Response) -> None:
        self.answers += 1
        told: dict[str, Any] = answer.json()
        if answer.status_code in (200, 201):
            self.acknowledged[told["appointment_id"]] = (told["status"], told["start"])
            if told["status"] == "booked":
                self._idle.append(told["appointment_id"])
        else:
            assert answer.status_code == 409, answer.text
            self.refused[told["code"]] += 1

    def _some_time(self) -> Any:
        # Few enough that clients meet at some.
        return in_days(3, 0) + timedelta(minutes=30 * self._chance.randrange(48 * 14))

    def changed(self) -> set[str]:
        """The appointments that were moved or cancelled."""
        return {one for one, (status, _) in self.acknowledged.items() if status == "cancelled"} | set(self._moves)

    def assert_in(self, history: Sequence[Recorded]) -> None:
        """What was acknowledged is in the log, once; and nothing else is."""
        assert set(self.refused) <= _REFUSALS, self.refused
        ours = [one.event for one in history if one.organization == self.organization]
        booked = Counter(str(event.appointment_id) for event in ours if isinstance(event, AppointmentBooked))
        cancelled = Counter(str(event.appointment_id) for event in ours if isinstance(event, AppointmentCancelled))
        moved = Counter(str(event.appointment_id) for event in ours if isinstance(event, AppointmentRescheduled))
        assert booked == dict.fromkeys(self.acknowledged, 1)
        assert cancelled == {one: 1 for one, (status, _) in self.acknowledged.items() if status == "cancelled"}
        assert moved == self._moves

    async def assert_shown(self, some: int = 20) -> None:
        """Of some appointments, what people read is what they were told."""
        for one in self._chance.sample(sorted(self.acknowledged), min(some, len(self.acknowledged))):
            shown = await self.who.get(f"/appointments/{one}")
            assert (shown["status"], shown["start"]) == self.acknowledged[one]
        statuses = await self.book.statuses()
        assert statuses == Counter(status for status, _ in self.acknowledged.values())


@asynccontextmanager
async def loaded(house: House, organization: str, pace: float = 25) -> AsyncIterator[Load]:
    """A load on a clinic of its own, from entering to leaving."""
    async with house.caller(organization) as admin:
        load = Load(await open_book(admin, providers=4, patients=24), organization, pace)
        load.start()
        try:
            await load.more(10)
            yield load
        finally:
            with contextlib.suppress(asyncio.CancelledError):
                await load.stop()


async def assert_recovered(house: FullHouse, load: Load) -> None:
    """Everything runs again; nothing that was acknowledged is lost, nothing is doubled, every read model is what a
    rebuild would make of the log, and people read it. The load is over then."""
    await load.stop()
    await asyncio.to_thread(house.until_ready)
    with house.at_rest() as place:
        history = await assert_equals_a_rebuild(place)
    load.assert_in(history)
    assert_never_double_booked(history)
    assert [one.position for one in history] == list(range(1, len(history) + 1))
    await load.assert_shown()
    assert json.loads(await asyncio.to_thread(house.run, "log", "verify", "--json"))["ok"]
