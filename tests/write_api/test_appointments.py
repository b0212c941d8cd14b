"""Appointments through HTTP: every command's answer, and what is refused and how it is told."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from domain.access import Actor, Role
from domain.provider import BookingRules
from tests.clinic import ADMIN, APPROVED, DESK, GROUP, SCAN, Clinic, every_day, in_days, patient_actor
from tests.served import Served, at, someone, visit

ANOTHER = "oak-street"


def is_problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    told: dict[str, Any] = answer.json()
    assert (told["code"], told["status"]) == (code, status)
    return told


async def booked(book: Served, clinic: Clinic, who: Actor = DESK, **more: Any) -> str:
    answer = await book.post("/appointments", who, visit(clinic, in_days(3), **more))
    assert answer.status_code == 201, answer.text
    return str(answer.json()["appointment_id"])


async def test_a_booking_answers_with_what_was_booked_and_where_it_is(book: Served, clinic: Clinic) -> None:
    start = in_days(3)
    answer = await book.post("/appointments", DESK, visit(clinic, start))
    assert answer.status_code == 201
    told = answer.json()
    assert told == {
        "appointment_id": told["appointment_id"],
        "status": "booked",
        "start": at(start),
        "end": at(start + timedelta(minutes=30)),
        "held_until": None,
        "position": answer.headers["position"],
    }
    assert answer.headers["location"] == f"/read/appointments/{told['appointment_id']}"
    assert UUID(answer.headers["x-request-id"])
    assert "idempotency-replayed" not in answer.headers


async def test_a_lost_slot_names_the_three_nearest_free_times(book: Served, clinic: Clinic) -> None:
    start = in_days(3, 12)
    await book.post("/appointments", DESK, visit(clinic, start))
    other = visit(clinic, start, patient_id=str(clinic.patients[1]))
    told = is_problem(await book.post("/appointments", DESK, other), 409, "slot_taken")
    half = timedelta(minutes=30)
    assert told["alternatives"] == [
        {"start": at(start + by), "end": at(start + by + half)} for by in (-half - half / 2, -half, half)
    ]
    assert told["occupied"] == [{"start": at(start), "end": at(start + half)}]
    assert str(clinic.patient) not in str(told)
    taken = await book.post("/appointments", DESK, other | {"start": told["alternatives"][0]["start"]})
    assert taken.status_code == 201


@pytest.mark.parametrize(
    ("rules", "days", "hour", "code"),
    [
        ({}, -1, 9, "in_the_past"),
        ({}, 3, 6, "outside_opening_hours"),
        ({"minimum_notice_minutes": 10 * 24 * 60}, 3, 9, "too_soon"),
        ({"horizon_days": 2}, 5, 9, "beyond_horizon"),
        ({"slot_step_minutes": 50}, 3, 9, "off_slot_step"),
    ],
)
async def test_a_time_that_rules_forbid_is_refused_by_its_rule(
    book: Served, rules: dict[str, Any], days: int, hour: int, code: str
) -> None:
    clinic = await book.clinic(rules=BookingRules(**rules))
    is_problem(await book.post("/appointments", DESK, visit(clinic, in_days(days, hour))), 409, code)


async def test_a_capped_day_is_refused_until_staff_set_the_cap_aside(book: Served) -> None:
    clinic = await book.clinic(rules=BookingRules(cap_per_day=1))
    await booked(book, clinic)
    second = visit(clinic, in_days(3, 14), patient_id=str(clinic.patients[1]))
    is_problem(await book.post("/appointments", DESK, second), 409, "day_cap_reached")
    aside = {"rules": ["day_cap_reached"], "reason": "urgent_need"}
    patient = patient_actor(clinic.patients[1])
    is_problem(await book.post("/appointments", patient, second | {"override": aside}), 403, "not_allowed")
    assert (await book.post("/appointments", DESK, second | {"override": aside})).status_code == 201


async def test_a_hold_is_made_firm_or_given_back(book: Served, clinic: Clinic) -> None:
    patient = patient_actor(clinic.patient)
    held = await book.post("/appointments/hold", patient, visit(clinic, in_days(3)))
    assert (held.status_code, held.json()["status"]) == (201, "held")
    assert held.json()["held_until"] is not None
    one = held.json()["appointment_id"]
    firm = await book.post(f"/appointments/{one}/book", patient)
    assert (firm.status_code, firm.json()["status"], firm.json()["held_until"]) == (200, "booked", None)
    again = is_problem(await book.post(f"/appointments/{one}/book", patient), 409, "wrong_status")
    assert again["appointment_status"] == "booked"
    other = await book.post("/appointments/hold", patient, visit(clinic, in_days(4)))
    back = await book.post(f"/appointments/{other.json()['appointment_id']}/cancel", patient)
    assert (back.status_code, back.json()["status"]) == (200, "cancelled")


async def test_a_request_is_accepted_or_declined_by_staff(book: Served, clinic: Clinic) -> None:
    patient = patient_actor(clinic.patient)
    ids = []
    for day in (3, 4):
        asked = visit(clinic, in_days(day), visit_type_id=str(APPROVED.id), reason="It hurts.")
        answer = await book.post("/appointments", patient, asked)
        assert (answer.status_code, answer.json()["status"]) == (201, "requested")
        ids.append(answer.json()["appointment_id"])
    is_problem(await book.post(f"/appointments/{ids[0]}/accept", patient), 403, "not_allowed")
    accepted = await book.post(f"/appointments/{ids[0]}/accept", DESK)
    assert (accepted.status_code, accepted.json()["status"]) == (200, "booked")
    declined = await book.post(f"/appointments/{ids[1]}/decline", DESK, {"reason": "no_capacity"})
    assert (declined.status_code, declined.json()["status"]) == (200, "declined")
    is_problem(await book.post(f"/appointments/{ids[1]}/decline", DESK, {}), 422, "invalid")


async def test_a_visit_is_moved_in_one_step_or_stays(book: Served, clinic: Clinic) -> None:
    one = await booked(book, clinic)
    other = visit(clinic, in_days(3, 11), patient_id=str(clinic.patients[1]))
    assert (await book.post("/appointments", DESK, other)).status_code == 201
    refused = await book.post(f"/appointments/{one}/move", DESK, {"start": other["start"]})
    assert len(is_problem(refused, 409, "slot_taken")["alternatives"]) == 3
    moved = await book.post(f"/appointments/{one}/move", DESK, {"start": in_days(3, 10).isoformat()})
    assert (moved.status_code, moved.json()["start"]) == (200, at(in_days(3, 10)))
    third = visit(clinic, in_days(3), patient_id=str(clinic.patients[2]))
    assert (await book.post("/appointments", DESK, third)).status_code == 201
    same = await book.post(f"/appointments/{one}/move", DESK, {"start": in_days(3, 10).isoformat()})
    is_problem(same, 409, "nothing_to_move")


async def test_cancelling_late_needs_staff_and_a_reason(book: Served) -> None:
    clinic = await book.clinic(rules=BookingRules(cancel_notice_minutes=20 * 24 * 60))
    one = await booked(book, clinic)
    late = await book.post(f"/appointments/{one}/cancel", patient_actor(clinic.patient))
    is_problem(late, 409, "too_late_to_cancel")
    aside = {"reason": "patient_ill", "override": {"rules": ["too_late_to_cancel"], "reason": "patient_request"}}
    done = await book.post(f"/appointments/{one}/cancel", DESK, aside)
    assert (done.status_code, done.json()["status"]) == (200, "cancelled")


async def test_attending_follows_its_order(book: Served) -> None:
    clinic = await book.clinic(hours=every_day("00:00", "00:00"))
    far = await booked(book, clinic)
    is_problem(await book.post(f"/appointments/{far}/check-in", DESK), 409, "too_early")
    soon = book.log.clock.now().replace(minute=0, second=0, microsecond=0) + timedelta(hours=2)
    made = await book.post("/appointments", DESK, visit(clinic, soon))
    one = made.json()["appointment_id"]
    is_problem(await book.post(f"/appointments/{one}/no-show", DESK), 409, "too_early")
    is_problem(await book.post(f"/appointments/{one}/check-in", patient_actor(clinic.patient)), 403, "not_allowed")
    for step, body, status in (
        ("check-in", None, "checked_in"),
        ("start", {}, "in_progress"),
        ("complete", {"outcome": "follow_up", "note": "Come again."}, "completed"),
        ("entered-in-error", None, "entered_in_error"),
    ):
        answer = await book.post(f"/appointments/{one}/{step}", DESK, body)
        assert (answer.status_code, answer.json()["status"]) == (200, status), answer.text
    is_problem(await book.post(f"/appointments/{one}/check-in", DESK), 409, "wrong_status")


async def test_a_series_is_booked_whole_or_not_at_all(book: Served, clinic: Clinic) -> None:
    weekly = {"recurrence": {"frequency": "weekly", "count": 3}}
    made = await book.post("/series", DESK, visit(clinic, in_days(3)) | weekly)
    assert made.status_code == 201, made.text
    assert [one["start"] for one in made.json()["appointments"]] == [at(in_days(3 + 7 * week)) for week in range(3)]
    again = visit(clinic, in_days(10), patient_id=str(clinic.patients[1])) | weekly
    told = is_problem(await book.post("/series", DESK, again), 409, "series_clashes")
    assert [(clash["start"], clash["code"]) for clash in told["clashes"]] == [
        (at(in_days(day)), "slot_taken") for day in (10, 17)
    ]
    assert len(told["clashes"][0]["alternatives"]) == 3
    # The third date was free, and still is.
    free = visit(clinic, in_days(24), patient_id=str(clinic.patients[2]))
    assert (await book.post("/appointments", DESK, free)).status_code == 201


async def test_a_room_is_taken_along(book: Served, clinic: Clinic) -> None:
    scan = visit(clinic, in_days(3), visit_type_id=str(SCAN.id))
    is_problem(await book.post("/appointments", DESK, scan), 409, "resource_missing")
    with_room = scan | {"resources": [str(clinic.rooms[0])]}
    assert (await book.post("/appointments", DESK, with_room)).status_code == 201
    is_problem(await book.post("/appointments", DESK, scan | {"resources": [str(uuid4())]}), 404, "unknown")


async def test_a_group_visit_fills_up(book: Served) -> None:
    clinic = await book.clinic(patients=4)
    answers = [
        await book.post(
            "/appointments",
            DESK,
            visit(clinic, in_days(3), visit_type_id=str(GROUP.id), patient_id=str(patient)),
        )
        for patient in clinic.patients
    ]
    assert [answer.status_code for answer in answers] == [201, 201, 201, 409]
    is_problem(answers[-1], 409, "session_full")


@pytest.mark.parametrize("field", ["patient_id", "provider_id", "location_id", "visit_type_id"])
async def test_an_unknown_id_is_404(book: Served, clinic: Clinic, field: str) -> None:
    answer = await book.post("/appointments", DESK, visit(clinic, in_days(3), **{field: str(uuid4())}))
    assert answer.status_code == 404
    assert answer.json()["code"] in {"unknown", "unknown_location", "unknown_visit_type"}


STEPS = (
    ("book", None),
    ("accept", None),
    ("decline", {"reason": "other"}),
    ("move", {"start": "2030-01-01T10:00:00Z"}),
    ("cancel", None),
    ("check-in", None),
    ("start", None),
    ("complete", None),
    ("no-show", None),
    ("entered-in-error", None),
)


@pytest.mark.parametrize(("step", "body"), STEPS)
async def test_anothers_appointment_reads_as_unknown(
    book: Served, clinic: Clinic, step: str, body: dict[str, Any] | None
) -> None:
    """Of another organization for staff, of another patient for a patient."""
    one = await booked(book, clinic)
    unknown = await book.post(f"/appointments/{uuid4()}/{step}", DESK, body)
    foreign = await book.post(f"/appointments/{one}/{step}", ADMIN, body, organization=ANOTHER)
    for answer in (unknown, foreign):
        is_problem(answer, 404, "unknown")
    patient = await book.post(f"/appointments/{one}/{step}", patient_actor(clinic.patients[1]), body)
    assert (patient.status_code, patient.json()["code"]) in {(404, "unknown"), (403, "not_allowed")}


async def test_another_organization_books_nothing_here(book: Served, clinic: Clinic) -> None:
    is_problem(await book.post("/appointments", DESK, visit(clinic, in_days(3)), organization=ANOTHER), 404, "unknown")


async def test_a_patient_books_for_nobody_else(book: Served, clinic: Clinic) -> None:
    answer = await book.post("/appointments", patient_actor(clinic.patients[1]), visit(clinic, in_days(3)))
    is_problem(answer, 404, "unknown")


@pytest.mark.parametrize("role", [Role.AUDITOR, Role.ANALYST])
async def test_who_only_reads_asks_for_nothing(book: Served, clinic: Clinic, role: Role) -> None:
    is_problem(await book.post("/appointments", someone(role), visit(clinic, in_days(3))), 403, "not_allowed")


BAD: list[tuple[dict[str, Any], set[str]]] = [
    ({"start": "2030-01-01T10:00:00"}, {"/start"}),
    ({"start": 1893492000}, {"/start"}),
    ({"start": "9999-12-31T23:59:59-14:00"}, {"/start"}),
    ({"start": "0001-01-01T00:00:00+14:00"}, {"/start"}),
    (
        {"patient_id": "me", "mode": "pigeon", "resources": ["x"], "colour": 1},
        {"/patient_id", "/mode", "/resources/0", "/colour"},
    ),
    ({"reason": ""}, {"/reason"}),
    ({"reason": "x" * 2001}, {"/reason"}),
    ({"override": {"rules": [], "reason": "because"}}, {"/override/rules", "/override/reason"}),
]


@pytest.mark.parametrize(("faults", "places"), BAD)
async def test_every_faulty_field_is_named(
    book: Served, clinic: Clinic, faults: dict[str, Any], places: set[str]
) -> None:
    answer = await book.post("/appointments", DESK, visit(clinic, in_days(3)) | faults)
    told = is_problem(answer, 422, "invalid")
    assert {fault["pointer"] for fault in told["errors"]} == places
    assert {fault["location"] for fault in told["errors"]} == {"body"}


async def test_a_missing_body_names_every_field_that_is_needed(book: Served) -> None:
    told = is_problem(await book.post("/appointments", DESK), 422, "invalid")
    assert {fault["pointer"] for fault in told["errors"]} == {
        "/patient_id",
        "/provider_id",
        "/location_id",
        "/visit_type_id",
        "/start",
    }


@pytest.mark.parametrize(
    ("body", "kind", "status", "code"),
    [
        (b'{"start":', "application/json", 400, "malformed_json"),
        (b"\xff\xfe", "application/json", 400, "malformed_json"),
        (b"[]", "application/json", 422, "invalid"),
        (b"{}", "text/plain", 415, "unsupported_media_type"),
        (b'{"a":' + b"[" * 100 + b"]" * 100 + b"}", "application/json", 400, "body_too_deep"),
        (b'"' + b"x" * 10_000_000 + b'"', "application/json", 413, "body_too_large"),
    ],
)
async def test_what_is_no_body_is_refused(book: Served, body: bytes, kind: str, status: int, code: str) -> None:
    answer = await book.post("/appointments", DESK, content=body, headers={"Content-Type": kind})
    is_problem(answer, status, code)


async def test_text_that_the_log_cannot_hold_is_refused(book: Served, clinic: Clinic) -> None:
    answer = await book.post("/appointments", DESK, visit(clinic, in_days(3), reason="a\x00b"))
    is_problem(answer, 422, "invalid")


async def test_a_path_that_names_no_id_is_refused(book: Served) -> None:
    told = is_problem(await book.post("/appointments/seven/book", DESK), 422, "invalid")
    assert [(fault["location"], fault["pointer"]) for fault in told["errors"]] == [("path", "appointment_id")]


async def test_no_token_no_answer(book: Served) -> None:
    answer = await book.http.post("/write/appointments", json={})
    is_problem(answer, 401, "unauthenticated")
    assert answer.headers["www-authenticate"].startswith("Bearer")


async def test_telemedicine_is_booked_where_it_is_offered(book: Served, clinic: Clinic) -> None:
    video = visit(clinic, in_days(3), mode="telemedicine")
    assert (await book.post("/appointments", DESK, video)).status_code == 201
    group = visit(clinic, in_days(4), mode="telemedicine", visit_type_id=str(GROUP.id))
    is_problem(await book.post("/appointments", DESK, group), 409, "mode_not_offered")
