"""Free times through HTTP: what is shown can be booked, and what is not is explained."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from domain.access import Role
from domain.provider import BookingRules
from tests.clinic import (
    APPROVED,
    BUFFERED,
    CHECKUP,
    DAYS,
    DESK,
    GROUP,
    LOCATION,
    SCAN,
    Clinic,
    id_of,
    in_days,
    patient_actor,
)
from tests.served import Served, at, someone, visit
from tests.write_api.test_appointments import ANOTHER, is_problem

HALF = timedelta(minutes=30)


def asking(clinic: Clinic, day: int = 3, **more: Any) -> dict[str, Any]:
    return {
        "provider_id": str(clinic.provider),
        "visit_type_id": str(CHECKUP.id),
        "from": in_days(day).date().isoformat(),
        "to": in_days(day).date().isoformat(),
    } | more


async def starts(book: Served, asked: dict[str, Any], who: Any = DESK) -> list[str]:
    answer = await book.get("/slots", who, params=asked)
    assert answer.status_code == 200, answer.text
    return [slot["start"] for slot in answer.json()["slots"]]


async def test_a_day_of_free_times_less_what_is_booked(book: Served, clinic: Clinic) -> None:
    every = [at(in_days(3, 8) + timedelta(minutes=15 * number)) for number in range(39)]
    answer = await book.get("/slots", DESK, params=asking(clinic))
    assert [slot["start"] for slot in answer.json()["slots"]] == every
    assert answer.json()["slots"][0] == {
        "provider_id": str(clinic.provider),
        "location_id": str(LOCATION.id),
        "visit_type_id": str(CHECKUP.id),
        "start": every[0],
        "end": at(in_days(3, 8, 30)),
        "time_zone": "Europe/Berlin",
        "mode": "in_person",
        "seats_left": 1,
    }
    await book.post("/appointments", DESK, visit(clinic, in_days(3, 12)))
    gone = {at(in_days(3, 11, 45)), at(in_days(3, 12)), at(in_days(3, 12, 15))}
    assert await starts(book, asking(clinic)) == [one for one in every if one not in gone]


async def test_what_is_shown_can_be_booked_and_what_is_not_cannot(book: Served) -> None:
    clinic = await book.clinic(rules=BookingRules(slot_step_minutes=30, cap_per_day=3), patients=2)
    start, shown = in_days(3, 8), set(await starts(book, asking(clinic, visit_type_id=str(BUFFERED.id))))
    tried = 0
    while start < in_days(3, 18):
        asked = visit(clinic, start, visit_type_id=str(BUFFERED.id))
        held = await book.post("/appointments/hold", DESK, asked)
        assert (held.status_code == 201) == (at(start) in shown), (at(start), held.text)
        if held.status_code == 201:
            await book.post(f"/appointments/{held.json()['appointment_id']}/cancel", DESK)
        start += timedelta(minutes=30)
        tried += 1
    assert tried == 20


async def test_between_instants_only_what_starts_between_them(book: Served, clinic: Clinic) -> None:
    asked = asking(clinic, **{"from": at(in_days(3, 9, 20)), "to": in_days(3, 10, 30).isoformat()})
    assert await starts(book, asked) == [at(in_days(3, 9, 30) + timedelta(minutes=15 * number)) for number in range(4)]


async def test_without_a_range_the_coming_week_from_now_on(book: Served, clinic: Clinic) -> None:
    asked = asking(clinic)
    del asked["from"], asked["to"]
    found = [datetime.fromisoformat(start) for start in await starts(book, asked)]
    assert book.log.clock.now() < found[0] < found[-1] < book.log.clock.now() + timedelta(days=7)
    assert len(found) > 200


async def test_a_patients_own_visits_stand_in_the_way(book: Served) -> None:
    clinic = await book.clinic(providers=2)
    await book.post("/appointments", DESK, visit(clinic, in_days(3, 12)))
    other = asking(clinic, provider_id=str(clinic.providers[1]))
    noon = at(in_days(3, 12))
    assert noon in await starts(book, other)
    assert noon not in await starts(book, other | {"patient_id": str(clinic.patient)})
    assert noon not in await starts(book, other, patient_actor(clinic.patient))
    assert noon in await starts(book, other, patient_actor(clinic.patients[1]))
    foreign = other | {"patient_id": str(clinic.patient)}
    is_problem(await book.get("/slots", patient_actor(clinic.patients[1]), params=foreign), 404, "unknown")


async def test_a_visit_on_the_move_does_not_stand_in_its_own_way(book: Served, clinic: Clinic) -> None:
    made = await book.post("/appointments", DESK, visit(clinic, in_days(3, 12)))
    one = made.json()["appointment_id"]
    patient, later = patient_actor(clinic.patient), at(in_days(3, 12, 15))
    assert later not in await starts(book, asking(clinic), patient)
    assert later in await starts(book, asking(clinic, moving=one), patient)
    assert (await book.post(f"/appointments/{one}/move", patient, {"start": later})).status_code == 200
    foreign = asking(clinic, moving=one)
    is_problem(await book.get("/slots", patient_actor(clinic.patients[1]), params=foreign), 404, "unknown")
    is_problem(await book.get("/slots", DESK, params=asking(clinic, moving=str(uuid4()))), 404, "unknown")


async def test_rooms_are_to_be_free_as_well(book: Served, clinic: Clinic) -> None:
    scan = asking(clinic, visit_type_id=str(SCAN.id))
    assert await starts(book, scan) == []
    named = scan | {"resource_ids": str(clinic.rooms[0])}
    assert at(in_days(3, 12)) in await starts(book, named)
    block = {
        "resource_id": str(clinic.rooms[0]),
        "period": {"start": at(in_days(3, 12)), "end": at(in_days(3, 13))},
        "reason": "maintenance",
    }
    await book.post("/blocks", DESK, {"block": [block]})
    assert at(in_days(3, 12)) not in await starts(book, named)
    assert at(in_days(3, 12)) in await starts(book, scan | {"resource_ids": str(clinic.rooms[1])})


async def test_places_of_a_group_visit_are_counted(book: Served, clinic: Clinic) -> None:
    group = asking(clinic, visit_type_id=str(GROUP.id))
    await book.post("/appointments", DESK, visit(clinic, in_days(3, 12), visit_type_id=str(GROUP.id)))
    answer = await book.get("/slots", DESK, params=group)
    left = {slot["start"]: slot["seats_left"] for slot in answer.json()["slots"]}
    assert (left[at(in_days(3, 12))], left[at(in_days(3, 14))]) == (2, 3)


async def test_all_providers_a_page_at_a_time(book: Served) -> None:
    clinic = await book.clinic(providers=5)
    asked = asking(clinic, limit=2)
    del asked["provider_id"]
    seen: list[str] = []
    cursor: dict[str, str] = {}
    for _ in range(3):
        page = (await book.get("/slots", DESK, params=asked | cursor)).json()
        seen += dict.fromkeys(slot["provider_id"] for slot in page["slots"])
        cursor = {"cursor": page["next"]}
    assert page["next"] is None
    assert seen == [str(key) for key in clinic.providers]
    two = [str(key) for key in clinic.providers[1:3]]
    named = (await book.get("/slots", DESK, params=asked | {"provider_id": two})).json()
    assert {slot["provider_id"] for slot in named["slots"]} == set(two)
    assert [slot["start"] for slot in named["slots"]] == sorted(slot["start"] for slot in named["slots"])


async def test_another_organizations_providers_are_not_there(book: Served, clinic: Clinic) -> None:
    await book.post("/patients", DESK)
    is_problem(await book.get("/slots", DESK, params=asking(clinic), organization=ANOTHER), 404, "unknown")
    asked = asking(clinic)
    del asked["provider_id"]
    there = await book.get("/slots", DESK, params=asked, organization=ANOTHER)
    assert (there.status_code, there.json()["slots"]) == (200, [])


async def test_every_location_has_its_own_day(book: Served, clinic: Clinic) -> None:
    place = id_of("branch")
    path = f"/providers/{clinic.provider}"
    await book.put(f"{path}/locations/{place}", DESK, {"name": "Branch", "time_zone": "America/New_York"})
    week = {day: [{"start": "20:00", "end": "22:00"}] for day in DAYS}
    await book.post(f"{path}/hours", DESK, {"weekly": [{"location_id": str(place), "hours": week}]})
    answer = (await book.get("/slots", DESK, params=asking(clinic))).json()
    zones = {slot["time_zone"] for slot in answer["slots"]}
    assert zones == {"Europe/Berlin", "America/New_York"}
    there = [slot["start"] for slot in answer["slots"] if slot["location_id"] == str(place)]
    # Eight in the evening there is past midnight UTC.
    assert len(there) == 7
    assert there[0][:10] == (in_days(3) + timedelta(days=1)).date().isoformat()
    assert await starts(book, asking(clinic, location_id=str(place))) == there
    is_problem(await book.get("/slots", DESK, params=asking(clinic, location_id=str(uuid4()))), 404, "unknown_location")


@pytest.mark.parametrize(
    ("rules", "day", "hour", "code"),
    [
        ({}, 3, 7, "outside_opening_hours"),
        ({}, -1, 12, "in_the_past"),
        ({"minimum_notice_minutes": 9 * 24 * 60}, 3, 12, "too_soon"),
        ({"cap_per_day": 1}, 3, 14, "day_cap_reached"),
        ({}, 3, 12, "slot_taken"),
        ({"slot_step_minutes": 50}, 3, 12, "off_slot_step"),
    ],
)
async def test_a_time_that_is_not_offered_is_explained(
    book: Served, rules: dict[str, Any], day: int, hour: int, code: str
) -> None:
    clinic = await book.clinic(rules=BookingRules(**rules | {"overbooking_allowance": 0}))
    aside = {"override": {"rules": ["too_soon", "off_slot_step"], "reason": "urgent_need"}}
    booked = await book.post("/appointments", DESK, visit(clinic, in_days(3, 12), **aside))
    assert booked.status_code == 201, booked.text
    asked = asking(clinic, explain="true", start=at(in_days(day, hour)))
    answer = await book.get("/slots", patient_actor(clinic.patients[1]), params=asked)
    told = answer.json()["explanation"]
    assert told["free"] is False
    assert code in [one["code"] for one in told["objections"]]
    for word in (clinic.patient, booked.json()["appointment_id"]):
        assert str(word) not in answer.text
    if code == "slot_taken":
        (one,) = [one for one in told["objections"] if one["code"] == code]
        assert one["details"]["occupied"] == [{"start": at(in_days(3, 12)), "end": at(in_days(3, 12) + HALF)}]
        assert one["overridable"] is False


async def test_a_free_time_has_no_objections(book: Served, clinic: Clinic) -> None:
    asked = asking(clinic, explain="true", start=at(in_days(3, 12)))
    told = (await book.get("/slots", DESK, params=asked)).json()["explanation"]
    assert (told["free"], told["objections"]) == (True, [])


async def test_what_patients_cannot_book_themselves_is_not_shown_to_them(book: Served, clinic: Clinic) -> None:
    kind = {"name": "Infusion", "duration_minutes": 30, "self_bookable": False}
    await book.put(f"/providers/{clinic.provider}/visit-types/{APPROVED.id}", DESK, kind)
    asked = asking(clinic, visit_type_id=str(APPROVED.id))
    assert await starts(book, asked)
    assert await starts(book, asked, patient_actor(clinic.patient)) == []


@pytest.mark.parametrize(
    ("asked", "status", "code"),
    [
        ({"visit_type_id": str(uuid4())}, 404, "unknown_visit_type"),
        ({"provider_id": str(uuid4())}, 404, "unknown"),
        ({"provider_id": "me"}, 422, "invalid"),
        ({"provider_id": [str(uuid4())] * 51}, 422, "invalid"),
        ({"from": "2030-01-02", "to": "2030-01-01"}, 422, "invalid"),
        ({"from": "2030-01-01T10:00:00Z", "to": "2030-01-01T10:00:00Z"}, 422, "invalid"),
        ({"from": "2030-01-01T10:00:00", "to": "2030-01-02"}, 422, "invalid"),
        ({"from": "2030-01-01", "to": "2030-03-04"}, 422, "invalid"),
        ({"from": "2030-01-01T00:00:00Z", "to": "2030-03-05T00:00:00Z"}, 422, "invalid"),
        ({"from": "9999-12-31", "to": "9999-12-31"}, 422, "invalid"),
        ({"from": "2199-12-31"}, 200, ""),
        ({"from": "0", "to": "1"}, 422, "invalid"),
        ({"from": "2030-02-30"}, 422, "invalid"),
        ({"explain": "true"}, 422, "invalid"),
        ({"start": "2030-01-01T10:00:00Z"}, 422, "invalid"),
        ({"explain": "true", "start": "2030-01-01T10:00:00"}, 422, "invalid"),
        ({"as_of": "2199-01-01T00:00:00Z"}, 422, "invalid"),
        ({"as_of": "A" * 22}, 400, "bad_position"),
        ({"as_of": "yesterday"}, 422, "invalid"),
        ({"cursor": "AAAA", "provider_id": []}, 400, "bad_cursor"),
        ({"limit": 51}, 422, "invalid"),
        ({"resource_ids": str(uuid4())}, 404, "unknown"),
    ],
)
async def test_questions_that_mean_nothing_are_refused(
    book: Served, clinic: Clinic, asked: dict[str, Any], status: int, code: str
) -> None:
    params = {name: value for name, value in (asking(clinic) | asked).items() if value != []}
    if "from" in asked and "to" not in asked:
        del params["to"]
    answer = await book.get("/slots", DESK, params=params)
    assert answer.status_code == status, answer.text
    if code:
        is_problem(answer, status, code)


async def test_a_range_of_62_days_is_looked_at(book: Served, clinic: Clinic) -> None:
    last = (in_days(3).date() + timedelta(days=61)).isoformat()
    assert len(await starts(book, asking(clinic, to=last))) > 62 * 39 - 5


async def test_an_answer_has_an_end(book: Served) -> None:
    clinic = await book.clinic(rules=BookingRules(slot_step_minutes=1), patients=0)
    most = asking(clinic, to=(in_days(3) + timedelta(days=16)).date().isoformat())
    assert len(await starts(book, most)) == 17 * 571
    told = is_problem(await book.get("/slots", DESK, params=most | {"to": at(in_days(22))}), 422, "too_many_slots")
    assert told["most"] == 10_000


async def test_a_patient_who_is_not_there_has_no_free_times(book: Served, clinic: Clinic) -> None:
    is_problem(await book.get("/slots", DESK, params=asking(clinic, patient_id=str(uuid4()))), 404, "unknown")


async def test_analysts_look_for_no_slots(book: Served, clinic: Clinic) -> None:
    is_problem(await book.get("/slots", someone(Role.ANALYST), params=asking(clinic)), 403, "not_allowed")
    assert (await book.get("/slots", someone(Role.AUDITOR), params=asking(clinic))).status_code == 200


async def test_slots_as_they_were(book: Served, clinic: Clinic) -> None:
    before = book.positions.show(await book.log.head())
    noon = book.log.clock.now()
    booked = await book.post("/appointments", DESK, visit(clinic, in_days(3, 12)))
    assert at(in_days(3, 12)) not in await starts(book, asking(clinic))
    for moment in (before, at(noon)):
        assert at(in_days(3, 12)) in await starts(book, asking(clinic, as_of=moment))
        asked = asking(clinic, as_of=moment, explain="true", start=at(in_days(3, 12)))
        assert (await book.get("/slots", DESK, params=asked)).json()["explanation"]["free"] is True
    assert at(in_days(3, 12)) not in await starts(book, asking(clinic, as_of=booked.json()["position"]))
    early = at(in_days(-30))
    is_problem(await book.get("/slots", DESK, params=asking(clinic, as_of=early)), 404, "unknown")
