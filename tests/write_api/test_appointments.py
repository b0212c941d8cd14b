"""Appointments through HTTP: every command's answer, and what is refused and how it is told."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from domain.access import Role
from tests.clinic import APPROVED, DESK, LOCATION, Clinic, in_days, patient_actor
from tests.served import Served, at, someone, visit


async def book_visit(book: Served, clinic: Clinic, **more: Any) -> str:
    answer = await book.post("/appointments", DESK, visit(clinic, in_days(3), **more))
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
