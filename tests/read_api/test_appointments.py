"""An appointment and a patient's list of them, now and as they were."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from domain.access import Role
from domain.ports import FixedClock
from domain.provider import BookingRules
from tests.clinic import ADMIN, CHECKUP, DESK, LOCATION, Clinic, in_days, patient_actor
from tests.served import Served, at, someone, visit
from tests.write_api.test_appointments import ANOTHER, booked, is_problem


async def test_an_appointment_tells_what_happened_to_it(book: Served, clinic: Clinic) -> None:
    one = await booked(book, clinic, reason="It hurts on stairs.")
    await book.post(f"/appointments/{one}/move", DESK, {"start": in_days(3, 11).isoformat()})
    moved = book.position
    await book.post(f"/appointments/{one}/cancel", DESK, {"reason": "clinic_closed", "note": "Water in the cellar."})
    answer = await book.get(f"/appointments/{one}", DESK)
    assert answer.status_code == 200, answer.text
    told = answer.json()
    history = told.pop("history")
    times = {name: told.pop(name) for name in ("created_at", "booked_at", "updated_at")}
    assert told == {
        "appointment_id": one,
        "status": "cancelled",
        "fhir_status": "cancelled",
        "patient_id": str(clinic.patient),
        "provider_id": str(clinic.provider),
        "location_id": str(LOCATION.id),
        "visit_type_id": str(CHECKUP.id),
        "mode": "in_person",
        "start": at(in_days(3, 11)),
        "end": at(in_days(3, 11, 30)),
        "time_zone": "Europe/Berlin",
        "resources": [],
        "seats": 1,
        "session_id": one,
        "series_id": None,
        "fee": {"amount": "80.00", "currency": "EUR"},
        "held_until": None,
        "moved": 1,
        "rules_set_aside": [],
        "cancellation_reason": "clinic_closed",
        "cancelled_by": "front_desk",
        "decline_reason": None,
        "outcome": None,
        "version": 3,
    }
    assert times["created_at"] == times["booked_at"] < times["updated_at"]
    assert answer.headers["etag"] == '"3"'
    assert [line["event"] for line in history] == [
        "AppointmentBooked.v1",
        "AppointmentRescheduled.v1",
        "AppointmentCancelled.v1",
    ]
    assert history[2]["sentence"] == "The front desk cancelled: clinic closed."
    assert {line["actor"] for line in history} == {DESK.id}
    assert "stairs" not in answer.text
    assert "cellar" not in answer.text
    # The last position of the move's save is on a page; its first is the appointment's.
    assert book.positions.read(history[1]["position"]) < book.positions.read(moved or "")


async def test_a_patient_sees_their_own_and_no_one_elses(book: Served, clinic: Clinic) -> None:
    one = await booked(book, clinic)
    own = await book.get(f"/appointments/{one}", patient_actor(clinic.patient))
    assert own.status_code == 200
    assert [line["actor"] for line in own.json()["history"]] == [None]
    is_problem(await book.get(f"/appointments/{one}", patient_actor(clinic.patients[1])), 404, "unknown")
    is_problem(await book.get(f"/appointments/{one}", DESK, organization=ANOTHER), 404, "unknown")
    is_problem(await book.get(f"/appointments/{uuid4()}", DESK), 404, "unknown")
    is_problem(await book.get(f"/appointments/{one}", someone(Role.ANALYST)), 403, "not_allowed")
    assert (await book.get(f"/appointments/{one}", someone(Role.AUDITOR))).status_code == 200


async def test_an_appointment_as_it_was(book: Served, clinic: Clinic) -> None:
    before = book.log.clock.now()
    one = await booked(book, clinic)
    first = str(book.position)
    await asyncio.sleep(0.01)
    between = book.log.clock.now()
    await asyncio.sleep(0.01)
    await book.post(f"/appointments/{one}/cancel", DESK)
    for moment in (first, at(between)):
        answer = await book.get(f"/appointments/{one}", DESK, params={"as_of": moment})
        assert (answer.json()["status"], len(answer.json()["history"]), answer.headers["etag"]) == ("booked", 1, '"1"')
    assert answer.headers["position"] == first
    is_problem(await book.get(f"/appointments/{one}", DESK, params={"as_of": at(before)}), 404, "unknown")
    foreign = {"as_of": first}
    is_problem(await book.get(f"/appointments/{one}", DESK, params=foreign, organization=ANOTHER), 404, "unknown")
    other = patient_actor(clinic.patients[1])
    is_problem(await book.get(f"/appointments/{one}", other, params=foreign), 404, "unknown")


async def test_a_plus_that_was_not_escaped_is_understood(book: Served, clinic: Clinic) -> None:
    one = await booked(book, clinic)
    now = (book.log.clock.now() + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%S.%f+01:00")
    await asyncio.sleep(0.01)
    answer = await book.get(f"/appointments/{one}?as_of={now}", DESK)
    assert answer.status_code == 200, answer.text


async def test_a_form_of_an_appointment_goes_stale(book: Served, clinic: Clinic) -> None:
    one = await booked(book, clinic)
    seen = (await book.get(f"/appointments/{one}", DESK)).headers["etag"]
    move = {"start": in_days(3, 11).isoformat()}
    assert (await book.post(f"/appointments/{one}/move", DESK, move, headers={"If-Match": seen})).status_code == 200
    later = {"start": in_days(3, 12).isoformat()}
    for step, body in (("move", later), ("cancel", {})):
        late = await book.post(f"/appointments/{one}/{step}", DESK, body, headers={"If-Match": seen})
        is_problem(late, 412, "version_mismatch")
    # Whoever may not see it is not told that it changed.
    other = patient_actor(clinic.patients[1])
    hidden = await book.post(f"/appointments/{one}/cancel", other, {}, headers={"If-Match": seen})
    is_problem(hidden, 404, "unknown")
    now = (await book.get(f"/appointments/{one}", DESK)).headers["etag"]
    done = await book.post(f"/appointments/{one}/cancel", DESK, headers={"If-Match": now})
    assert done.status_code == 200


async def test_a_hold_that_has_ended_reads_as_lapsed(book: Served) -> None:
    clinic = await book.clinic(rules=BookingRules(hold_minutes=1))
    held = await book.post("/appointments/hold", DESK, visit(clinic, in_days(3)))
    one = held.json()["appointment_id"]
    now = (await book.get(f"/appointments/{one}", DESK)).json()
    assert (now["status"], now["held_until"]) == ("held", held.json()["held_until"])
    page, day = f"/resources/{clinic.provider}/page", {"date": at(in_days(3))[:10]}
    assert len((await book.get(page, DESK, params=day)).json()["entries"]) == 1
    # The log's own clock sets itself right at every save, and a look is one: only who reads is ahead.
    library = book.reads.state.library
    book.reads.state.library = replace(library, clock=FixedClock(library.clock.now() + timedelta(seconds=61)))
    later = (await book.get(f"/appointments/{one}", DESK)).json()
    assert (await book.get(page, DESK, params=day)).json()["entries"] == []
    assert (later["status"], later["fhir_status"], later["held_until"]) == ("lapsed", "cancelled", None)


async def test_a_patients_appointments_page_by_page(book: Served, clinic: Clinic) -> None:
    ids = [
        (await book.post("/appointments", DESK, visit(clinic, in_days(day)))).json()["appointment_id"]
        for day in (5, 3, 4, 7, 6)
    ]
    ordered = [ids[1], ids[2], ids[0], ids[4], ids[3]]
    path = f"/patients/{clinic.patient}/appointments"
    patient = patient_actor(clinic.patient)

    async def walk(**params: Any) -> list[str]:
        seen: list[str] = []
        following = None
        while True:
            cursor = {"cursor": following} if following else {}
            page = (await book.get(path, patient, params={"limit": 2, **params, **cursor})).json()
            seen += [one["appointment_id"] for one in page["appointments"]]
            if (following := page["next"]) is None:
                return seen

    assert await walk() == ordered
    assert await walk(order="newest") == ordered[::-1]
    then = str(book.position)
    await book.post(f"/appointments/{ids[0]}/cancel", DESK)
    assert await walk(as_of=then) == ordered
    one = (await book.get(path, patient, params={"limit": 1})).json()["next"]
    for changed in (one[:-2] + "AA", "AAAA", one + "=", "ä"):
        is_problem(await book.get(path, patient, params={"cursor": changed}), 400, "bad_cursor")
    is_problem(await book.get(path, patient, params={"cursor": one, "order": "newest"}), 400, "bad_cursor")
    other = f"/patients/{clinic.patients[1]}/appointments"
    is_problem(await book.get(other, DESK, params={"cursor": one}), 400, "bad_cursor")
    foreign = await book.get(path, DESK, params={"cursor": one}, organization=ANOTHER)
    is_problem(foreign, 400, "bad_cursor")


async def test_a_patient_without_visits_is_empty_and_an_unknown_one_is_404(book: Served, clinic: Clinic) -> None:
    path = f"/patients/{clinic.patients[2]}/appointments"
    assert (await book.get(path, DESK)).json() == {"appointments": [], "next": None}
    is_problem(await book.get(path, patient_actor(clinic.patient)), 404, "unknown")
    is_problem(await book.get(path, DESK, organization=ANOTHER), 404, "unknown")
    is_problem(await book.get(f"/patients/{uuid4()}/appointments", DESK), 404, "unknown")
    is_problem(await book.get(path, someone(Role.ANALYST)), 403, "not_allowed")


@pytest.mark.parametrize("params", [{"limit": 0}, {"limit": 201}, {"order": "best"}, {"cursor": "x" * 3000}])
async def test_a_list_has_its_bounds(book: Served, clinic: Clinic, params: dict[str, Any]) -> None:
    answer = await book.get(f"/patients/{clinic.patient}/appointments", ADMIN, params=params)
    is_problem(answer, 422, "invalid")
