"""Providers through HTTP: registered, changed and published, with forms that somebody else may have changed."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from domain.access import Actor, Role
from tests.clinic import ADMIN, CHECKUP, DESK, LOCATION, Clinic, in_days, patient_actor
from tests.served import Served, at, visit
from tests.write_api.test_appointments import ANOTHER, is_problem

PROFILE = {"name": "Dr. Ada Beispiel", "specialties": [{"code": "207Q00000X", "name": "Family doctor"}]}
PLACE = {"name": "Branch", "time_zone": "Europe/Madrid", "latitude": "40.416775", "longitude": "-3.703790"}
OFFER = {"name": "Follow-up", "duration_minutes": 20, "fee": {"amount": "40.50", "currency": "EUR"}}
MORNINGS = [{"start": "09:00", "end": "12:00"}]
RULES = {"minimum_notice_minutes": 60}
# Tests are told apart by what they are given, the same in every process.
SOME_ID, OTHER_ID = UUID(int=1), str(UUID(int=2))


async def test_a_provider_is_registered_complete_and_can_be_booked(book: Served) -> None:
    place, offer = str(uuid4()), str(uuid4())
    days = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
    body = PROFILE | {
        "languages": ["en", "de"],
        "locations": [{"id": place, **PLACE}],
        "visit_types": [{"id": offer, **OFFER}],
        "hours": [{"location_id": place, "hours": dict.fromkeys(days, MORNINGS)}],
        "rules": RULES,
    }
    made = await book.post("/providers", ADMIN, body)
    assert made.status_code == 201, made.text
    assert made.headers["location"] == f"/read/providers/{made.json()['provider_id']}"
    person = await book.post("/patients", DESK, {"reference": "MRN-1"})
    assert (person.status_code, set(person.json())) == (201, {"patient_id", "position"})
    asked = {
        "patient_id": person.json()["patient_id"],
        "provider_id": made.json()["provider_id"],
        "location_id": place,
        "visit_type_id": offer,
        "start": in_days(3, 10).isoformat(),
    }
    assert (await book.post("/appointments", DESK, asked)).status_code == 201


async def test_a_bare_provider_is_filled_in_step_by_step(book: Served) -> None:
    made = await book.post("/providers", ADMIN, {"name": "Dr. Bare"})
    one = f"/providers/{made.json()['provider_id']}"
    place, offer = uuid4(), uuid4()
    for method, path, body, told in (
        ("PUT", f"{one}/profile", PROFILE, "provider_id"),
        ("PUT", f"{one}/locations/{place}", PLACE, "location_id"),
        ("PUT", f"{one}/visit-types/{offer}", OFFER, "visit_type_id"),
        ("PUT", f"{one}/rules", RULES, "provider_id"),
        ("POST", f"{one}/hours", {"weekly": [{"location_id": str(place), "hours": {"monday": MORNINGS}}]}, "time_off"),
        ("DELETE", f"{one}/visit-types/{offer}", None, "provider_id"),
    ):
        answer = await book.send(method, f"/write{path}", ADMIN, **({"json": body} if body else {}))
        assert answer.status_code == 200, answer.text
        assert told in answer.json()
        assert answer.json()["position"] == answer.headers["position"]
    is_problem(await book.delete(f"{one}/visit-types/{offer}", ADMIN), 404, "unknown_visit_type")


async def test_time_off_names_the_visits_it_runs_into_and_can_be_taken_back(book: Served, clinic: Clinic) -> None:
    booked = await book.post("/appointments", DESK, visit(clinic, in_days(3)))
    period = {"start": at(in_days(2)), "end": at(in_days(4))}
    path = f"/providers/{clinic.provider}"
    away = await book.post(f"{path}/hours", DESK, {"time_off": [{"period": period, "reason": "sickness"}]})
    (planned,) = away.json()["time_off"]
    assert planned["affected_appointments"] == [booked.json()["appointment_id"]]
    other = visit(clinic, in_days(3, 11))
    told = is_problem(await book.post("/appointments", DESK, other), 409, "provider_away")
    assert told["until"] == period["end"]
    assert (await book.delete(f"{path}/time-off/{planned['time_off_id']}", DESK)).status_code == 200
    is_problem(await book.delete(f"{path}/time-off/{planned['time_off_id']}", DESK), 404, "unknown_time_off")
    assert (await book.post("/appointments", DESK, other)).status_code == 201


async def test_a_batch_of_hours_is_taken_whole_or_not_at_all(book: Served, clinic: Clinic) -> None:
    day = in_days(3).date().isoformat()
    closed = {"location_id": str(LOCATION.id), "day": day}
    path = f"/providers/{clinic.provider}/hours"
    bad = {"exceptions": [closed], "weekly": [{"location_id": str(uuid4()), "hours": {}}]}
    is_problem(await book.post(path, DESK, bad), 404, "unknown_location")
    assert (await book.post("/appointments", DESK, visit(clinic, in_days(3)))).status_code == 201
    assert (await book.post(path, DESK, {"exceptions": [closed]})).status_code == 200
    is_problem(await book.post("/appointments", DESK, visit(clinic, in_days(3, 11))), 409, "outside_opening_hours")
    assert (await book.post(path, DESK, {"clear_exceptions": [closed]})).status_code == 200
    assert (await book.post("/appointments", DESK, visit(clinic, in_days(3, 11)))).status_code == 201


async def test_public_holidays_close_the_location(book: Served, clinic: Clinic) -> None:
    year = in_days(400).year
    path = f"/providers/{clinic.provider}"
    await book.put(f"{path}/rules", DESK, {"horizon_days": 1000})
    observed = {"location_id": str(LOCATION.id), "first": f"{year}-01-01", "last": f"{year}-12-31"}
    assert (await book.post(f"{path}/hours", DESK, {"holidays": [observed]})).status_code == 200
    new_year = visit(clinic, in_days(3)) | {"start": f"{year}-01-01T10:00:00+01:00"}
    is_problem(await book.post("/appointments", DESK, new_year), 409, "public_holiday")
    nowhere = observed | {"country": "XX"}
    is_problem(await book.post(f"{path}/hours", DESK, {"holidays": [nowhere]}), 422, "unknown_holiday_calendar")


FORMS: list[tuple[str, str, dict[str, Any] | None]] = [
    ("PUT", "profile", PROFILE),
    ("PUT", "rules", RULES),
    ("PUT", f"locations/{LOCATION.id}", PLACE),
    ("PUT", f"visit-types/{CHECKUP.id}", OFFER),
    ("DELETE", f"visit-types/{CHECKUP.id}", None),
    ("POST", "hours", {"weekly": [{"location_id": str(LOCATION.id), "hours": {}}]}),
]


@pytest.mark.parametrize(("method", "part", "body"), FORMS)
async def test_a_form_that_somebody_changed_meanwhile_is_refused(
    book: Served, clinic: Clinic, method: str, part: str, body: dict[str, Any] | None
) -> None:
    path = f"/write/providers/{clinic.provider}/{part}"
    sent = {"json": body} if body else {}
    seen = (await book.get(f"/providers/{clinic.provider}", DESK)).headers["etag"]
    await book.put(f"/providers/{clinic.provider}/profile", ADMIN, PROFILE)
    late = await book.send(method, path, DESK, headers={"If-Match": seen}, **sent)
    is_problem(late, 412, "version_mismatch")
    now = (await book.get(f"/providers/{clinic.provider}", DESK)).headers["etag"]
    key = {"If-Match": now, "Idempotency-Key": "form-1"}
    first = await book.send(method, path, DESK, headers=key, **sent)
    again = await book.send(method, path, DESK, headers=key, **sent)
    assert (first.status_code, again.status_code) == (200, 200)
    assert again.headers["idempotency-replayed"] == "true"


@pytest.mark.parametrize("said", ["3", "W/", '"abc"', '"3", "4"', '""', '"0"'])
async def test_an_if_match_that_is_no_etag_of_ours_is_refused(book: Served, clinic: Clinic, said: str) -> None:
    answer = await book.put(f"/providers/{clinic.provider}/rules", DESK, RULES, headers={"If-Match": said})
    is_problem(answer, 422, "invalid")


@pytest.mark.parametrize(("method", "part", "body"), FORMS)
async def test_a_provider_manages_their_own_hours_and_nobody_elses(
    book: Served, method: str, part: str, body: dict[str, Any] | None
) -> None:
    clinic = await book.clinic(providers=2)
    path = f"/write/providers/{clinic.provider}/{part}"
    sent = {"json": body} if body else {}
    own, other = (Actor("dr", Role.PROVIDER, provider_id=key) for key in clinic.providers)
    is_problem(await book.send(method, path, other, **sent), 403, "not_allowed")
    is_problem(await book.send(method, path, patient_actor(clinic.patient), **sent), 403, "not_allowed")
    is_problem(await book.send(method, path, ADMIN, organization=ANOTHER, **sent), 404, "unknown")
    is_problem(await book.send(method, f"/write/providers/{uuid4()}/{part}", DESK, **sent), 404, "unknown")
    assert (await book.send(method, path, own, **sent)).status_code == 200


async def test_only_administrators_register_providers(book: Served) -> None:
    is_problem(await book.post("/providers", DESK, PROFILE), 403, "not_allowed")


@pytest.mark.parametrize(
    ("part", "body", "places"),
    [
        ("profile", {"name": " ", "languages": ["English"]}, {"/name", "/languages/0"}),
        ("rules", {"hold_minutes": "ten", "slot_step_minutes": 0}, {"/hold_minutes", "/slot_step_minutes"}),
        (f"locations/{SOME_ID}", {"name": "X", "time_zone": "Mars/Olympus"}, {"/time_zone"}),
        (f"locations/{SOME_ID}", PLACE | {"id": OTHER_ID}, {"/id"}),
        (f"visit-types/{SOME_ID}", {"name": "X", "duration_minutes": 0}, {"/duration_minutes"}),
        (f"visit-types/{SOME_ID}", OFFER | {"fee": {"amount": "1.005", "currency": "EUR"}}, {"/fee/amount"}),
    ],
)
async def test_every_faulty_field_is_named(
    book: Served, clinic: Clinic, part: str, body: dict[str, Any], places: set[str]
) -> None:
    told = is_problem(await book.put(f"/providers/{clinic.provider}/{part}", DESK, body), 422, "invalid")
    assert {fault["pointer"] for fault in told["errors"]} == places


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"time_off": [{"period": {"start": "2030-01-02T00:00:00Z", "end": "2030-01-01T00:00:00Z"}, "reason": "other"}]},
        {"time_off": [{"period": {"start": "2030-01-01T00:00:00", "end": "2030-01-02T00:00:00"}, "reason": "other"}]},
        {
            "weekly": [
                {"location_id": str(LOCATION.id), "hours": {"monday": [{"start": "09:00+01:00", "end": "10:00"}]}}
            ]
        },
        {"holidays": [{"location_id": str(LOCATION.id), "first": "9999-12-30", "last": "9999-12-31"}]},
        {"holidays": [{"location_id": str(LOCATION.id), "first": "2030-01-02", "last": "2030-01-01"}]},
        {"weekly": [{"location_id": str(LOCATION.id), "hours": {"monday": [*MORNINGS, *MORNINGS]}}]},
        {"exceptions": [{"location_id": str(LOCATION.id), "day": "9999-12-31"}]},
    ],
)
async def test_hours_that_mean_nothing_are_refused(book: Served, clinic: Clinic, body: dict[str, Any]) -> None:
    answer = await book.post(f"/providers/{clinic.provider}/hours", DESK, body)
    assert answer.status_code == 422, answer.text


async def test_a_retired_room_is_named_by_no_new_visit(book: Served, clinic: Clinic) -> None:
    made = await book.post("/resources", DESK, {"kind": "device", "name": "Scanner"})
    assert made.status_code == 201
    one = made.json()["resource_id"]
    assert made.headers["location"] == f"/read/resources/{one}"
    is_problem(await book.post(f"/resources/{one}/retire", DESK, organization=ANOTHER), 404, "unknown")
    assert (await book.post(f"/resources/{one}/retire", DESK)).status_code == 200
    is_problem(await book.post(f"/resources/{one}/retire", DESK), 409, "already_retired")
    asked = visit(clinic, in_days(3), resources=[one])
    is_problem(await book.post("/appointments", DESK, asked), 409, "resource_retired")


async def test_blocks_are_set_and_taken_away_in_one_batch(book: Served, clinic: Clinic) -> None:
    booked = await book.post("/appointments", DESK, visit(clinic, in_days(3)))
    period = {"start": at(in_days(3)), "end": at(in_days(3) + timedelta(hours=3))}
    block = {"resource_id": str(clinic.provider), "period": period, "reason": "meeting"}
    told = is_problem(await book.post("/blocks", DESK, {"block": [block]}), 409, "time_in_use")
    assert told["appointments"] == [booked.json()["appointment_id"]]
    made = await book.post("/blocks", DESK, {"block": [block | {"over_visits": True}]})
    (one,) = made.json()["blocks"]
    is_problem(await book.post("/appointments", DESK, visit(clinic, in_days(3, 11))), 409, "time_blocked")
    gone = {"resource_id": str(clinic.provider), "block_id": one["block_id"], "period": period}
    is_problem(await book.post("/blocks", DESK, {"unblock": [gone]}, organization=ANOTHER), 404, "unknown")
    assert (await book.post("/blocks", DESK, {"unblock": [gone]})).status_code == 200
    is_problem(await book.post("/blocks", DESK, {"unblock": [gone]}), 404, "unknown_block")
    assert (await book.post("/appointments", DESK, visit(clinic, in_days(3, 11)))).status_code == 201
    is_problem(await book.post("/blocks", DESK, {}), 422, "invalid")
    is_problem(await book.post("/blocks", patient_actor(clinic.patient), {"block": [block]}), 403, "not_allowed")


async def test_text_that_the_log_can_not_keep_is_a_faulty_field(book: Served) -> None:
    answer = await book.post("/providers", ADMIN, {"name": "Dr. \x00 Example"})
    assert answer.status_code == 422
    assert [fault["pointer"] for fault in answer.json()["errors"]] == ["/name"]
