"""Providers, their days and weeks, rooms and pages through HTTP."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any
from uuid import uuid4

import pytest

from domain.access import Role
from tests.clinic import ADMIN, DESK, LOCATION, SCAN, Clinic, id_of, in_days, patient_actor
from tests.served import Served, at, someone, visit
from tests.write_api.test_appointments import ANOTHER, booked, is_problem


async def test_a_provider_reads_as_published(book: Served, clinic: Clinic) -> None:
    path = f"/providers/{clinic.provider}"
    day = in_days(3).date().isoformat()
    period = {"start": at(in_days(10)), "end": at(in_days(12))}
    hours = {
        "exceptions": [{"location_id": str(LOCATION.id), "day": day, "hours": [{"start": "10:00", "end": "11:00"}]}],
        "holidays": [{"location_id": str(LOCATION.id), "first": "2027-12-24", "last": "2027-12-25"}],
        "time_off": [{"period": period, "reason": "sickness"}],
    }
    planned = (await book.post(f"{path}/hours", DESK, hours)).json()["time_off"][0]["time_off_id"]
    answer = await book.get(path, DESK)
    told = answer.json()
    assert answer.headers["etag"] == f'"{told["version"]}"'
    assert told["name"] == "Dr. Ada Example"
    assert [one["time_zone"] for one in told["locations"]] == ["Europe/Berlin"]
    assert {one["name"] for one in told["visit_types"]} >= {"Check-up", "Scan"}
    (weekly,) = told["weekly_hours"]
    assert weekly["hours"]["monday"] == [{"start": "08:00:00", "end": "18:00:00"}]
    assert [(one["day"], len(one["hours"])) for one in told["exceptions"]] == [(day, 1)]
    assert [one["day"] for one in told["holidays"]] == ["2027-12-25"]
    assert told["time_off"] == [{"time_off_id": planned, **period, "reason": "sickness"}]
    assert told["rules"]["horizon_days"] == 365
    public = (await book.get(path, patient_actor(clinic.patient))).json()
    assert public["time_off"] is None
    assert {**public, "time_off": told["time_off"]} == told
    assert "sickness" not in str(public)


async def test_a_provider_that_is_known_already_is_not_sent_again(book: Served, clinic: Clinic) -> None:
    path = f"/providers/{clinic.provider}"
    tag = (await book.get(path, DESK)).headers["etag"]
    for known in (tag, f'"1", {tag}', f"W/{tag}"):
        again = await book.get(path, DESK, headers={"If-None-Match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    await book.put(f"{path}/profile", ADMIN, {"name": "Dr. New"})
    changed = await book.get(path, DESK, headers={"If-None-Match": tag})
    assert (changed.status_code, changed.json()["name"]) == (200, "Dr. New")


async def test_a_provider_as_it_was(book: Served, clinic: Clinic) -> None:
    then = book.positions.show(await book.log.head())
    await book.put(f"/providers/{clinic.provider}/profile", ADMIN, {"name": "Dr. New"})
    was = await book.get(f"/providers/{clinic.provider}", DESK, params={"as_of": then})
    assert was.json()["name"] == "Dr. Ada Example"


async def test_all_providers_page_by_page(book: Served) -> None:
    clinic = await book.clinic(providers=3)
    first = (await book.get("/providers", DESK, params={"limit": 2})).json()
    rest = (await book.get("/providers", DESK, params={"limit": 2, "cursor": first["next"]})).json()
    seen = [one["provider_id"] for page in (first, rest) for one in page["providers"]]
    assert (seen, rest["next"]) == ([str(key) for key in clinic.providers], None)
    assert (await book.get("/providers", DESK, organization=ANOTHER)).json() == {"providers": [], "next": None}
    is_problem(await book.get("/providers", DESK, params={"cursor": first["next"][::-1]}), 400, "bad_cursor")
    resources = await book.get("/resources", DESK, params={"cursor": first["next"]})
    is_problem(resources, 400, "bad_cursor")


async def test_a_day_holds_hours_visits_blocks_and_absence(book: Served, clinic: Clinic) -> None:
    day = in_days(3).date()
    one = await booked(book, clinic)
    gone = (await book.post("/appointments", DESK, visit(clinic, in_days(3, 11)))).json()["appointment_id"]
    await book.post(f"/appointments/{gone}/cancel", DESK)
    await book.post("/appointments", DESK, visit(clinic, in_days(4)))
    lunch = {"start": at(in_days(3, 12)), "end": at(in_days(3, 13))}
    block = {"resource_id": str(clinic.provider), "period": lunch, "reason": "break"}
    made = (await book.post("/blocks", DESK, {"block": [block]})).json()["blocks"][0]["block_id"]
    away = {"start": at(in_days(3, 16)), "end": at(in_days(5, 16))}
    await book.post(f"/providers/{clinic.provider}/hours", DESK, {"time_off": [{"period": away, "reason": "training"}]})
    told = (await book.get(f"/providers/{clinic.provider}/day", DESK, params={"date": day.isoformat()})).json()
    assert (told["date"], told["time_zone"]) == (day.isoformat(), "Europe/Berlin")
    assert (told["start"], told["end"]) == (at(in_days(3, 0)), at(in_days(4, 0)))
    assert told["open"] == [{"location_id": str(LOCATION.id), "start": at(in_days(3, 8)), "end": at(in_days(3, 18))}]
    assert told["closed"] == []
    assert [(row["appointment_id"], row["status"]) for row in told["appointments"]] == [
        (one, "booked"),
        (gone, "cancelled"),
    ]
    assert told["blocks"] == [{"block_id": made, **lunch, "reason": "break"}]
    assert [row["reason"] for row in told["time_off"]] == ["training"]


async def test_a_week_is_seven_local_days(book: Served, clinic: Clinic) -> None:
    await booked(book, clinic)
    day = in_days(3).date()
    told = (await book.get(f"/providers/{clinic.provider}/week", DESK, params={"date": day.isoformat()})).json()
    monday = day - timedelta(days=day.weekday())
    assert [one["date"] for one in told["days"]] == [(monday + timedelta(days=n)).isoformat() for n in range(7)]
    assert [len(one["appointments"]) for one in told["days"]] == [int(n == day.weekday()) for n in range(7)]
    for before, after in zip(told["days"], told["days"][1:], strict=False):
        assert before["end"] == after["start"]


async def test_a_day_of_a_clock_change_has_23_hours(book: Served, clinic: Clinic) -> None:
    params = {"date": "2027-03-28"}
    told = (await book.get(f"/providers/{clinic.provider}/day", DESK, params=params)).json()
    assert (told["start"], told["end"]) == ("2027-03-27T23:00:00Z", "2027-03-28T22:00:00Z")
    assert told["open"][0]["start"] == "2027-03-28T06:00:00Z"


async def test_a_day_can_be_that_of_another_location(book: Served, clinic: Clinic) -> None:
    place, path = id_of("branch"), f"/providers/{clinic.provider}"
    await book.put(f"{path}/locations/{place}", DESK, {"name": "Branch", "time_zone": "Asia/Tokyo"})
    params = {"date": "2027-06-01", "location_id": str(place)}
    told = (await book.get(f"{path}/day", DESK, params=params)).json()
    assert (told["time_zone"], told["start"]) == ("Asia/Tokyo", "2027-05-31T15:00:00Z")
    assert [one["because"] for one in told["closed"]] == ["no_hours"]
    unknown = params | {"location_id": str(uuid4())}
    is_problem(await book.get(f"{path}/day", DESK, params=unknown), 404, "unknown_location")


async def test_a_day_as_it_was(book: Served, clinic: Clinic) -> None:
    params = {"date": in_days(3).date().isoformat()}
    before = book.positions.show(await book.log.head())
    await booked(book, clinic)
    after = str(book.position)
    path = f"/providers/{clinic.provider}/day"
    now = (await book.get(path, DESK, params=params)).json()
    was = (await book.get(path, DESK, params=params | {"as_of": before})).json()
    assert (len(was["appointments"]), len(now["appointments"])) == (0, 1)
    assert (await book.get(path, DESK, params=params | {"as_of": after})).json() == now
    week = (await book.get(f"/providers/{clinic.provider}/week", DESK, params=params | {"as_of": before})).json()
    assert [len(one["appointments"]) for one in week["days"]] == [0] * 7


@pytest.mark.parametrize("part", ["day", "week"])
async def test_a_diary_is_for_staff_and_auditors(book: Served, clinic: Clinic, part: str) -> None:
    path = f"/providers/{clinic.provider}/{part}"
    is_problem(await book.get(path, patient_actor(clinic.patient)), 403, "not_allowed")
    is_problem(await book.get(path, someone(Role.ANALYST)), 403, "not_allowed")
    is_problem(await book.get(path, DESK, organization=ANOTHER), 404, "unknown")
    is_problem(await book.get(f"/providers/{uuid4()}/{part}", DESK), 404, "unknown")
    for who in (DESK, ADMIN, someone(Role.PROVIDER, provider_id=clinic.provider), someone(Role.AUDITOR)):
        assert (await book.get(path, who)).status_code == 200
    # It shows every patient of the day, and a colleague's patients are not this provider's.
    is_problem(await book.get(path, someone(Role.PROVIDER, provider_id=uuid4())), 403, "not_allowed")


@pytest.mark.parametrize("day", ["tomorrow", "2027-02-30", "20270301", "9999-12-31", "0001-01-01", "2027-03-01T00:00"])
async def test_a_day_that_is_none_is_refused(book: Served, clinic: Clinic, day: str) -> None:
    for path in (f"/providers/{clinic.provider}/day", f"/resources/{clinic.provider}/page"):
        told = is_problem(await book.get(path, DESK, params={"date": day}), 422, "invalid")
        assert [(fault["location"], fault["pointer"]) for fault in told["errors"]] == [("query", "date")]


async def test_rooms_read_as_registered(book: Served, clinic: Clinic) -> None:
    one = str(clinic.rooms[0])
    answer = await book.get(f"/resources/{one}", DESK)
    assert answer.json() == {"resource_id": one, "kind": "room", "name": "Room 0", "retired": False, "version": 1}
    assert answer.headers["etag"] == '"1"'
    then = str(answer.headers["position"])
    await book.post(f"/resources/{one}/retire", DESK)
    assert (await book.get(f"/resources/{one}", DESK)).json()["retired"] is True
    assert (await book.get(f"/resources/{one}", DESK, params={"as_of": then})).json()["retired"] is False
    is_problem(await book.get(f"/resources/{one}", DESK, organization=ANOTHER), 404, "unknown")
    is_problem(await book.get(f"/resources/{uuid4()}", DESK), 404, "unknown")
    listed = (await book.get("/resources", DESK, params={"limit": 1})).json()
    rest = (await book.get("/resources", DESK, params={"limit": 1, "cursor": listed["next"]})).json()
    assert [row["resource_id"] for row in listed["resources"] + rest["resources"]] == [str(key) for key in clinic.rooms]


async def test_a_page_tells_what_occupies_a_room(book: Served, clinic: Clinic) -> None:
    room, other = (str(key) for key in clinic.rooms)
    before = book.positions.show(await book.log.head())
    one = await booked(book, clinic, visit_type_id=str(SCAN.id), resources=[room])
    held = visit(clinic, in_days(3, 15), visit_type_id=str(SCAN.id), resources=[room])
    hold = (await book.post("/appointments/hold", DESK, held)).json()
    lunch = {"start": at(in_days(3, 12)), "end": at(in_days(3, 13))}
    await book.post("/blocks", DESK, {"block": [{"resource_id": room, "period": lunch, "reason": "maintenance"}]})
    params = {"date": date.fromisoformat(at(in_days(3))[:10]).isoformat()}
    told = (await book.get(f"/resources/{room}/page", DESK, params=params)).json()
    assert [(row["kind"], row["start"], row["reason"]) for row in told["entries"]] == [
        ("visit", at(in_days(3)), None),
        ("block", lunch["start"], "maintenance"),
        ("hold", at(in_days(3, 15)), None),
    ]
    assert (told["entries"][0]["id"], told["entries"][2]["held_until"]) == (one, hold["held_until"])
    for owner, count in ((clinic.provider, 2), (clinic.patient, 2), (other, 0), (clinic.patients[2], 0)):
        page = (await book.get(f"/resources/{owner}/page", DESK, params=params)).json()
        assert len(page["entries"]) == count
    was = (await book.get(f"/resources/{room}/page", DESK, params=params | {"as_of": before})).json()
    assert was["entries"] == []
    is_problem(await book.get(f"/resources/{room}/page", DESK, params=params, organization=ANOTHER), 404, "unknown")
    is_problem(await book.get(f"/resources/{uuid4()}/page", DESK, params=params), 404, "unknown")
    is_problem(await book.get(f"/resources/{room}/page", patient_actor(clinic.patient)), 403, "not_allowed")


def whole(told: dict[str, Any]) -> int:
    return sum(group["visits"] for group in told["groups"])


async def test_figures_count_visits_and_those_that_were_missed(figures: Served) -> None:
    book = figures
    clinic = await book.clinic(patients=2)
    await booked(book, clinic)
    gone = (await book.post("/appointments", DESK, visit(clinic, in_days(3, 11)))).json()["appointment_id"]
    await book.post(f"/appointments/{gone}/cancel", DESK)
    day = in_days(3)
    between = {"first": in_days(0).date().isoformat(), "last": in_days(9).date().isoformat()}
    weekdays = (await book.get("/facts/weekdays", ADMIN, params=between)).json()
    assert [group["visits"] for group in weekdays["groups"]] == [int(n == day.weekday()) for n in range(7)]
    assert weekdays["groups"][0]["label"] == "Monday"
    leads = (await book.get("/facts/lead-times", ADMIN, params=between)).json()
    assert {group["label"]: group["visits"] for group in leads["groups"]}["3 to 7 days"] == whole(leads) == 1
    hours = (await book.get("/facts/hours", someone(Role.ANALYST), params=between)).json()
    assert [group["label"] for group in hours["groups"] if group["visits"]] == ["09:00"]
    statuses = (await book.get("/facts/statuses", someone(Role.AUDITOR), params=between)).json()
    assert statuses["appointments"] == {"booked": 1, "cancelled": 1}
    assert whole((await book.get("/facts/hours", ADMIN, params=between, organization=ANOTHER)).json()) == 0
    for part in ("weekdays", "lead-times", "hours", "statuses"):
        is_problem(await book.get(f"/facts/{part}", DESK, params=between), 403, "not_allowed")
        swapped = {"first": between["last"], "last": between["first"]}
        is_problem(await book.get(f"/facts/{part}", ADMIN, params=swapped), 422, "invalid")
        told = is_problem(await book.get(f"/facts/{part}", ADMIN), 422, "invalid")
        assert {fault["pointer"] for fault in told["errors"]} == {"first", "last"}


async def test_an_installation_without_figures_says_so(book: Served) -> None:
    between = {"first": "2027-01-01", "last": "2027-01-02"}
    is_problem(await book.get("/facts/hours", ADMIN, params=between), 404, "no_figures")
