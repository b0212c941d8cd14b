"""Who stands in for whom, granted and ended over HTTP, and what whoever stands in sees."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from domain.access import Actor, Role, Whose
from domain.refusals import Unknown
from read_api.access import reached
from tests.clinic import DESK, ORGANIZATION, Clinic, in_days, patient_actor
from tests.served import Served, someone, visit
from tests.write_api.test_appointments import ANOTHER, booked, is_problem


def granting(clinic: Clinic, **changes: Any) -> dict[str, Any]:
    return {
        "proxy_patient_id": str(clinic.patients[1]),
        "basis": "consent",
        "allows": ["read", "book"],
        "until": (datetime.now(UTC) + timedelta(days=1)).isoformat(),
        **changes,
    }


async def granted(book: Served, clinic: Clinic, **changes: Any) -> str:
    path = f"/patients/{clinic.patient}/proxies"
    answer = await book.post(path, patient_actor(clinic.patient), granting(clinic, **changes))
    assert answer.status_code == 201, answer.text
    assert answer.headers["location"] == f"/read{path}"
    return str(answer.json()["proxy_id"])


async def test_whoever_stands_in_sees_the_record_until_it_ends(book: Served, clinic: Clinic) -> None:
    anna, ben = patient_actor(clinic.patient), patient_actor(clinic.patients[1])
    one = await booked(book, clinic)
    is_problem(await book.get(f"/appointments/{one}", ben), 404, "unknown")
    proxy_id = await granted(book, clinic)
    assert (await book.get(f"/appointments/{one}", ben)).status_code == 200
    listed = (await book.get(f"/patients/{clinic.patient}/proxies", anna)).json()["proxies"]
    assert [(one["proxy_id"], one["holds"], one["ended"]) for one in listed] == [(proxy_id, True, None)]
    charges = (await book.get("/proxies", ben)).json()["charges"]
    assert [(one["patient_id"], one["proxy_id"]) for one in charges] == [(str(clinic.patient), proxy_id)]
    ended = await book.post(f"/patients/{clinic.patient}/proxies/{proxy_id}/end", anna, {"reason": "withdrawn"})
    assert ended.status_code == 200
    is_problem(await book.get(f"/appointments/{one}", ben), 404, "unknown")
    assert (await book.get("/proxies", ben)).json() == {"charges": []}
    listed = (await book.get(f"/patients/{clinic.patient}/proxies", anna)).json()["proxies"]
    assert [(one["holds"], one["ended"]) for one in listed] == [(False, "withdrawn")]


async def test_a_proxy_who_may_read_books_nothing_and_one_who_may_book_reads_nothing(
    book: Served, clinic: Clinic
) -> None:
    ben = patient_actor(clinic.patients[1])
    one = await booked(book, clinic)
    reading = await granted(book, clinic, allows=["read"])
    assert (await book.get(f"/appointments/{one}", ben)).status_code == 200
    is_problem(await book.post(f"/appointments/{one}/cancel", ben), 404, "unknown")
    gone = await book.post(f"/patients/{clinic.patient}/proxies/{reading}/give-up", ben)
    assert gone.status_code == 200
    await granted(book, clinic, allows=["book"])
    is_problem(await book.get(f"/appointments/{one}", ben), 404, "unknown")
    assert (await book.post(f"/appointments/{one}/cancel", ben)).status_code == 200


async def test_reading_ends_by_the_clock_too(book: Served, clinic: Clinic) -> None:
    ben = patient_actor(clinic.patients[1])
    until = datetime.now(UTC) + timedelta(hours=1)
    await granted(book, clinic, until=until.isoformat())
    asked = (ORGANIZATION, ben, "read_appointment", Whose(clinic.patient))
    last = until - timedelta.resolution
    assert (await reached(book.log, last, *asked)).on_behalf_of == clinic.patient
    with pytest.raises(Unknown):
        await reached(book.log, until, *asked)


async def test_a_patient_grants_by_consent_and_the_desk_records_the_law(book: Served, clinic: Clinic) -> None:
    anna, path = patient_actor(clinic.patient), f"/patients/{clinic.patient}/proxies"
    by_law = granting(clinic, basis="guardian", document="Court order 7 F 12/26")
    is_problem(await book.post(path, anna, by_law), 403, "not_allowed")
    answer = await book.post(path, DESK, by_law)
    assert answer.status_code == 201
    listed = await book.get(path, anna)
    assert listed.json()["proxies"][0]["basis"] == "guardian"
    is_problem(await book.post(path, anna, granting(clinic, proxy_patient_id=str(clinic.patient))), 422, "invalid")
    both = granting(clinic, account_id=str(clinic.patient))
    is_problem(await book.post(path, anna, both), 422, "invalid")
    past = granting(clinic, until="2020-01-01T00:00:00Z")
    is_problem(await book.post(path, anna, past), 422, "invalid")


async def test_proxies_of_another_organization_are_unknown(book: Served, clinic: Clinic) -> None:
    proxy_id = await granted(book, clinic)
    path = f"/patients/{clinic.patient}/proxies"
    is_problem(await book.get(path, DESK, organization=ANOTHER), 404, "unknown")
    ending = await book.post(f"{path}/{proxy_id}/end", DESK, {"reason": "withdrawn"}, organization=ANOTHER)
    is_problem(ending, 404, "unknown")
    ben = patient_actor(clinic.patients[1])
    assert (await book.get("/proxies", ben, organization=ANOTHER)).json() == {"charges": []}
    one = await booked(book, clinic)
    is_problem(await book.get(f"/appointments/{one}", ben, organization=ANOTHER), 404, "unknown")


async def test_a_look_by_a_proxy_is_written_down_as_for_the_patient(book: Served, clinic: Clinic) -> None:
    one = await booked(book, clinic)
    await granted(book, clinic)
    ben = patient_actor(clinic.patients[1])
    await book.get(f"/appointments/{one}", ben)
    looks = await book.log.streams(ORGANIZATION, f"look/{clinic.patient}/", f"look/{clinic.patient}/~")
    (told,) = (await book.log.load(ORGANIZATION, {looks[-1]: 0}))[looks[-1]]
    assert (told.actor, told.on_behalf_of) == (ben.id, str(clinic.patient))


async def test_a_providers_own_patients_visits_with_colleagues_are_theirs_to_read(book: Served, clinic: Clinic) -> None:
    wide = await book.clinic(providers=2)
    mine, colleague = wide.providers
    theirs = await booked(book, wide, provider_id=str(colleague))
    doctor = Actor("dr", Role.PROVIDER, provider_id=mine)
    is_problem(await book.get(f"/appointments/{theirs}", doctor), 404, "unknown")
    is_problem(await book.get(f"/patients/{wide.patient}/appointments", doctor), 404, "unknown")
    own = (await book.post("/appointments", DESK, visit(wide, in_days(4)))).json()["appointment_id"]
    assert (await book.get(f"/appointments/{theirs}", doctor)).status_code == 200
    assert (await book.get(f"/patients/{wide.patient}/appointments", doctor)).status_code == 200
    # What was called off is still in their own book, and makes nobody their patient.
    await book.post(f"/appointments/{own}/cancel", DESK)
    assert (await book.get(f"/appointments/{own}", doctor)).status_code == 200
    is_problem(await book.get(f"/appointments/{theirs}", doctor), 404, "unknown")
    assert (await book.get(f"/appointments/{theirs}", someone(Role.AUDITOR))).status_code == 200
