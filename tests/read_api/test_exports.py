"""A person gets all that is held of them, for machines and for people, and nobody else does."""

from __future__ import annotations

from html.parser import HTMLParser
from uuid import UUID, uuid4

import pytest

from domain.access import Role
from read_api import exports
from tests.clinic import ADMIN, DESK, Clinic, in_days, patient_actor
from tests.read_api.test_patients import ANNA, registered
from tests.served import Served, someone, visit

NASTY = "<script>alert(1)</script>"


class Page(HTMLParser):
    """The words of a page, and whatever it would fetch or run."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words = ""
        self.reaching: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.reaching += [tag] * (tag in ("script", "link", "img", "iframe", "form"))
        self.reaching += [name for name, _ in attrs if name.startswith("on") or name in ("src", "href", "style")]

    def handle_data(self, data: str) -> None:
        self.words += data


async def a_life(book: Served, clinic: Clinic) -> str:
    patient_id = await registered(book, reference="MRN-1", details=ANNA)
    own = patient_actor(UUID(patient_id))
    asked = visit(clinic, in_days(9), patient_id=patient_id, reason=f"my knee {NASTY}")
    made = await book.post("/appointments", own, asked)
    said = {"reason": "patient_ill", "note": "a cold"}
    await book.post(f"/appointments/{made.json()['appointment_id']}/cancel", own, said)
    later = visit(clinic, in_days(12), patient_id=patient_id)
    assert (await book.post("/appointments", own, later)).status_code == 201
    corrected = {**ANNA, "addresses": [{"lines": ["2 Other Street"], "city": "Bonn"}]}
    await book.put(f"/patients/{patient_id}/details", own, {"details": corrected, "source": "patient"})
    agreed = {"purpose": "sms_messages", "text_version": "1/en", "means": "online"}
    await book.post(f"/patients/{patient_id}/consents", own, agreed)
    assert (await book.get(f"/patients/{patient_id}", DESK)).status_code == 200
    await book.post(f"/patients/{patient_id}/erasure", ADMIN, {"ground": "objection"})
    return patient_id


async def test_a_person_gets_all_that_is_held_of_them(book: Served, clinic: Clinic) -> None:
    patient_id = await a_life(book, clinic)
    answer = await book.get(f"/patients/{patient_id}/export", patient_actor(UUID(patient_id)))
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert answer.text == exports.PersonExport.model_validate(told).model_dump_json()
    assert (told["patient_id"], told["reference"], told["erased_at"]) == (patient_id, "MRN-1", None)
    assert [one["details"]["addresses"][0]["city"] for one in told["tellings"]] == ["Berlin", "Bonn"]
    assert [one["source"] for one in told["tellings"]] == [None, "patient"]
    cancelled, booked = told["appointments"]
    assert cancelled["words"]["reason"] == f"my knee {NASTY}"
    assert cancelled["words"]["cancellation_note"] == "a cold"
    assert "cancelled" in cancelled["history"][-1]
    assert (cancelled["status"], booked["status"]) == ("cancelled", "booked")
    assert [(one["purpose"], one["given"]) for one in told["consents"]] == [("sms_messages", True)]
    (look,) = [one for one in told["looks"] if one["role"] == "front_desk"]
    assert look["purpose"] == "TREATMENT"
    (refused,) = told["refused_erasures"]
    assert (refused["reason"], refused["article"]) == ("visits_to_come", "GDPR 17(1)(a)")
    last = in_days(12).date().isoformat()
    assert told["kept"]["last_visit"] == last
    assert told["kept"]["until"] == f"{int(last[:4]) + 10}{last[4:]}"
    assert told["purposes"]
    assert told["rights"]


async def test_the_page_says_the_same_to_people_and_neither_fetches_nor_runs_anything(
    book: Served, clinic: Clinic
) -> None:
    patient_id = await a_life(book, clinic)
    answer = await book.get(f"/patients/{patient_id}/export", ADMIN, params={"format": "html"})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "script-src" not in answer.headers["content-security-policy"]
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    page = Page(answer.text)
    assert page.reaching == []
    for words in ("Dr. Anna Maria Exämple", "1987-05-04", "+4930123456", "Bonn", "Berlin", "MRN-1", "a cold", NASTY):
        assert words in page.words, words


@pytest.mark.parametrize("form", ["json", "html"])
async def test_nobody_else_gets_it(book: Served, clinic: Clinic, form: str) -> None:
    path = f"/patients/{clinic.patient}/export"
    for who, status in (
        (patient_actor(clinic.patients[1]), 404),
        (someone(Role.PROVIDER, provider_id=clinic.provider), 403),
        # All at once is more than a desk needs (45 CFR 164.502(b)).
        (DESK, 403),
        (someone(Role.AUDITOR), 403),
        (someone(Role.ANALYST), 403),
    ):
        assert (await book.get(path, who, params={"format": form})).status_code == status
    assert (await book.get(f"/patients/{uuid4()}/export", ADMIN, params={"format": form})).status_code == 404
    assert (await book.get(path, ADMIN, organization="another", params={"format": form})).status_code == 404
    assert (await book.get(path, ADMIN, params={"format": "xml"})).status_code == 422


async def test_an_export_is_a_look(book: Served, clinic: Clinic) -> None:
    path = f"/patients/{clinic.patient}/export"
    await book.get(path, ADMIN, headers={"Purpose-Of-Use": "REQUEST"})
    (look,) = (await book.get(path, ADMIN)).json()["looks"]
    assert (look["role"], look["purpose"]) == ("admin", "REQUEST")
