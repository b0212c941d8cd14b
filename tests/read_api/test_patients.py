"""Who a patient is, what they agreed to and what was said of their visits: told to whoever may know, as of any time."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import httpx

from domain.access import Actor, Role
from tests.clinic import ADMIN, DESK, Clinic, in_days, patient_actor
from tests.served import Served, someone, visit

ANNA: dict[str, Any] = {
    "names": [{"family": "Exämple", "given": ["Anna", "Maria"], "prefix": "Dr."}],
    "birth_date": "1987-05-04",
    "gender": "female",
    "phones": [{"number": "+4930123456", "use": "home"}],
    "emails": [{"address": "anna@example.org"}],
    "addresses": [{"lines": ["1 Example Street"], "postal_code": "10115", "city": "Berlin", "country": "DE"}],
    "language": "de-AT",
}


async def registered(book: Served, **said: Any) -> str:
    answer = await book.post("/patients", DESK, said)
    assert answer.status_code == 201, answer.text
    patient_id: str = answer.json()["patient_id"]
    return patient_id


def known(answer: httpx.Response) -> dict[str, Any]:
    """What was told of somebody, without what was left at its default."""
    assert answer.status_code == 200, answer.text
    details: dict[str, Any] = answer.json()["details"]
    return details


async def test_what_is_told_of_a_patient_is_read_by_staff_and_by_themselves(book: Served) -> None:
    patient_id = await registered(book, reference="MRN-1", details=ANNA)
    for who in (DESK, patient_actor(UUID(patient_id))):
        answer = await book.get(f"/patients/{patient_id}", who)
        details = known(answer)
        assert details["names"][0] == {
            "use": "official",
            "family": "Exämple",
            "given": ["Anna", "Maria"],
            "prefix": "Dr.",
            "suffix": None,
        }
        assert (details["birth_date"], details["language"]) == ("1987-05-04", "de-AT")
        assert details["phones"] == [{"number": "+4930123456", "use": "home"}]
        told = answer.json()
        assert (told["reference"], told["corrections"], told["erased_at"]) == ("MRN-1", [], None)
    for stranger in (patient_actor(uuid4()), someone(Role.PROVIDER, provider_id=uuid4())):
        assert (await book.get(f"/patients/{patient_id}", stranger)).status_code == 404
    for role in (Role.AUDITOR, Role.ANALYST):
        assert (await book.get(f"/patients/{patient_id}", someone(role))).status_code == 403
    assert (await book.get(f"/patients/{uuid4()}", DESK)).status_code == 404
    assert (await book.get(f"/patients/{patient_id}", DESK, organization="another")).status_code == 404


async def test_a_correction_overwrites_nothing(book: Served) -> None:
    patient_id = await registered(book, details=ANNA)
    before = book.position
    path = f"/patients/{patient_id}/details"
    tag = (await book.get(f"/patients/{patient_id}", DESK)).headers["etag"]
    moved = {**ANNA, "addresses": [{"lines": ["2 Other Street"], "city": "Bonn", "country": "DE"}], "language": "en"}
    answer = await book.put(path, DESK, {"details": moved, "source": "document"}, headers={"If-Match": tag})
    assert answer.status_code == 200, answer.text
    late = await book.put(path, DESK, {"details": ANNA}, headers={"If-Match": tag})
    assert (late.status_code, late.json()["code"]) == (412, "version_mismatch")

    now = await book.get(f"/patients/{patient_id}", DESK)
    assert known(now)["addresses"][0]["city"] == "Bonn"
    (correction,) = now.json()["corrections"]
    assert (correction["source"], correction["changed"]) == ("document", ["addresses", "language"])
    then = await book.get(f"/patients/{patient_id}", DESK, params={"as_of": before})
    assert known(then)["addresses"][0]["city"] == "Berlin"
    assert then.json()["corrections"] == []

    own = await book.put(path, patient_actor(UUID(patient_id)), {"details": ANNA})
    assert own.status_code == 200
    assert (await book.put(path, patient_actor(uuid4()), {"details": ANNA})).status_code == 404


async def test_faulty_details_are_named_and_not_echoed(book: Served) -> None:
    said = {
        "names": [{"prefix": "Dr."}],
        "phones": [{"number": "030 123456"}],
        "birth_date": "04.05.1987",
        "shoe_size": 39,
    }
    answer = await book.post("/patients", DESK, {"details": said})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid")
    assert len(answer.json()["errors"]) == 4, answer.text
    assert "030 123456" not in answer.text
    assert "04.05.1987" not in answer.text


async def test_consents_have_a_history(book: Served, clinic: Clinic) -> None:
    patient_id, own = clinic.patient, patient_actor(clinic.patient)
    path = f"/patients/{patient_id}/consents"
    assert (await book.get(path, own)).json() == {"given": {}, "history": []}
    agreed = {"purpose": "email_messages", "text_version": "2027-01/en", "means": "online"}
    made = await book.post(path, own, agreed)
    assert made.status_code == 201, made.text
    before = book.position
    again = await book.post(path, DESK, agreed)
    assert (again.status_code, again.json()["code"]) == (409, "consent_stands")
    withdrawn = await book.post(f"{path}/withdraw", DESK, {"purpose": "email_messages", "means": "spoken"})
    assert withdrawn.status_code == 200, withdrawn.text
    twice = await book.post(f"{path}/withdraw", own, {"purpose": "email_messages", "means": "online"})
    assert (twice.status_code, twice.json()["code"]) == (409, "no_consent")

    told = (await book.get(path, own)).json()
    assert told["given"] == {}
    assert [(one["given"], one["means"], one["by"], one["text_version"]) for one in told["history"]] == [
        (True, "online", "patient", "2027-01/en"),
        (False, "spoken", "front_desk", None),
    ]
    then = (await book.get(path, own, params={"as_of": before})).json()
    assert then["given"] == {"email_messages": "2027-01/en"}
    assert (await book.get(path, patient_actor(uuid4()))).status_code == 404
    assert (await book.get(f"/patients/{uuid4()}/consents", DESK)).status_code == 404
    assert (await book.post(path, patient_actor(uuid4()), agreed)).status_code == 404


async def test_the_words_of_a_visit_are_for_those_whom_they_concern(book: Served, clinic: Clinic) -> None:
    own = patient_actor(clinic.patient)
    asked = visit(clinic, in_days(9), mode="telemedicine", reason="my knee")
    appointment_id = (await book.post("/appointments", own, asked)).json()["appointment_id"]
    said = {"reason": "patient_ill", "note": "a cold"}
    assert (await book.post(f"/appointments/{appointment_id}/cancel", own, said)).status_code == 200
    path = f"/appointments/{appointment_id}/words"
    # The least that is needed (45 CFR 164.502(b)): a desk does without, unless it says why not.
    desk = await book.get(path, DESK)
    assert (desk.status_code, desk.json()["code"]) == (403, "not_allowed")
    why = {"reason": "emergency", "words": "The patient collapsed at the desk."}
    assert (await book.post(f"/patients/{clinic.patient}/glass", DESK, why)).status_code == 201
    for who in (own, DESK, someone(Role.PROVIDER, provider_id=clinic.provider)):
        answer = await book.get(path, who)
        assert answer.status_code == 200, answer.text
        told = answer.json()
        assert (told["reason"], told["cancellation_note"], told["visit_note"]) == ("my knee", "a cold", None)
        assert told["video_url"].startswith("https://")
    stranger = await book.get(path, patient_actor(clinic.patients[1]))
    assert stranger.status_code == 404
    # Not even whose it is.
    assert str(clinic.patient) not in stranger.text
    assert (await book.get(path, someone(Role.AUDITOR))).status_code == 403
    assert (await book.get(f"/appointments/{uuid4()}/words", ADMIN)).status_code == 404


async def searched(book: Served, who: Actor = DESK, **said: Any) -> list[str]:
    headers = {"Read-After": book.position} if book.position else {}
    answer = await book.send("POST", "/read/patients/search", who, json=said, headers=headers)
    assert answer.status_code == 200, answer.text
    return [one["patient_id"] for one in answer.json()["patients"]]


async def test_staff_find_patients_by_what_they_know_of_them(book: Served) -> None:
    anna = await registered(book, details=ANNA)
    bert = await registered(book, details={"names": [{"family": "Exampel", "given": ["Bert"]}]})
    await registered(book, reference="MRN-3")
    assert await searched(book, name="exam") == [anna, bert]
    assert await searched(book, someone(Role.PROVIDER, provider_id=uuid4()), name="anna exaemple") == [anna]
    assert await searched(book, birth_date="1987-05-04") == [anna]
    assert await searched(book, phone="+49 30 123456") == [anna]
    assert await searched(book, phone="(030) 123-456", name="exam", birth_date="1987-05-04") == [anna]
    assert await searched(book, phone="0228 123456") == [] == await searched(book, name="quack")
    answer = await book.send("POST", "/read/patients/search", DESK, json={"name": "bert"})
    assert answer.json() == {
        "patients": [
            {
                "patient_id": bert,
                "names": [{"use": "official", "family": "Exampel", "given": ["Bert"], "prefix": None, "suffix": None}],
                "birth_date": None,
                "phones": [],
            }
        ],
        "more": False,
    }
    await book.put(f"/patients/{bert}/details", DESK, {"details": ANNA})
    assert await searched(book, name="bert") == []
    assert await searched(book, name="anna") == [anna, bert]
    await book.post(f"/patients/{bert}/erasure", ADMIN, {"ground": "objection"})
    assert await searched(book, name="anna") == [anna]


async def test_a_search_says_whom_it_is_for_and_stays_in_its_house(book: Served) -> None:
    anna = await registered(book, details=ANNA)
    path = "/read/patients/search"
    for said in ({}, {"name": "ex"}, {"name": " - "}, {"phone": "123"}, {"birth_date": "yesterday"}, {"names": "anna"}):
        answer = await book.send("POST", path, DESK, json=said)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid"), said
        assert "yesterday" not in answer.text
    for who in (patient_actor(UUID(anna)), someone(Role.AUDITOR), someone(Role.ANALYST)):
        assert (await book.send("POST", path, who, json={"name": "anna"})).status_code == 403
    elsewhere = await book.send("POST", path, DESK, json={"name": "anna"}, organization="another")
    assert elsewhere.json()["patients"] == []
