"""What a patient is told of those who looked, and the accounting of what went outside."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from domain.access import Actor, Role
from domain.disclosure import Kind, kind_of_look
from domain.look import RecordSeen, Screen, stream
from domain.ports import Context, NewEvent, Save
from infra.event_log.connections import Connections
from infra.event_log.reader import BACKWARDS, FORWARDS
from infra.ids import TimeOrderedIds
from projections.looks import said
from tests.clinic import ADMIN, DESK, ORGANIZATION, Clinic, patient_actor
from tests.domain.clinic import uid
from tests.served import Served, at, someone
from tests.write_api.test_appointments import ANOTHER, booked, is_problem

AUDITOR = someone(Role.AUDITOR)


async def told(book: Served, path: str, who: Actor, **asked: Any) -> Any:
    answer = await book.get(path, who, **asked)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_patients_are_told_who_looked_without_being_told_who_that_is(book: Served, clinic: Clinic) -> None:
    patient = patient_actor(clinic.patient)
    one = await booked(book, clinic)
    for who in (DESK, ADMIN, DESK):
        await book.get(f"/appointments/{one}", who)
    await book.get(f"/patients/{clinic.patient}/appointments", patient)
    looks = (await told(book, f"/patients/{clinic.patient}/looks", patient))["looks"]
    assert [(look["role"], look["screen"], look["purpose"], look["yours"]) for look in looks] == [
        ("patient", "appointments", "REQUEST", True),
        ("front_desk", "appointment", "TREATMENT", False),
        ("admin", "appointment", "OPERATIONS", False),
        ("front_desk", "appointment", "TREATMENT", False),
    ]
    assert looks[1]["said"] == "an appointment"
    assert looks[1]["resource_id"] == one
    # The same person has the same name, and it is not theirs.
    names = [look["who"] for look in looks]
    assert names[1] == names[3] != names[2]
    assert not {DESK.id, ADMIN.id} & set(names)
    # Another patient is told another one.
    await book.get(f"/patients/{clinic.patients[1]}/appointments", DESK)
    (other,) = (await told(book, f"/patients/{clinic.patients[1]}/looks", patient_actor(clinic.patients[1])))["looks"]
    assert other["who"] != names[1]


async def test_an_auditor_reads_whose_looks_they_were_and_leaves_a_look(book: Served, clinic: Clinic) -> None:
    path = f"/patients/{clinic.patient}/looks"
    await book.get(f"/patients/{clinic.patient}/appointments", DESK)
    (look,) = (await told(book, path, AUDITOR))["looks"]
    assert look["who"] == DESK.id
    again = (await told(book, path, AUDITOR))["looks"]
    assert [(one["who"], one["screen"]) for one in again] == [(AUDITOR.id, "looks"), (DESK.id, "appointments")]
    # The patients' own reading of who looked is none.
    await told(book, path, patient_actor(clinic.patient))
    assert len((await told(book, path, patient_actor(clinic.patient)))["looks"]) == 3


async def test_looks_come_page_by_page_the_newest_first(book: Served, clinic: Clinic) -> None:
    patient = patient_actor(clinic.patient)
    path = f"/patients/{clinic.patient}/looks"
    for _ in range(5):
        await book.get(f"/patients/{clinic.patient}/appointments", DESK)
    whole = (await told(book, path, patient))["looks"]
    assert [look["at"] for look in whole] == sorted((look["at"] for look in whole), reverse=True)
    found, cursor = [], None
    while True:
        page = await told(book, path, patient, params={"limit": 2, **({"cursor": cursor} if cursor else {})})
        found += page["looks"]
        cursor = page["next"]
        if cursor is None:
            break
    assert found == whole
    assert len(whole) == 5
    first = await told(book, path, patient, params={"limit": 2})
    other = f"/patients/{clinic.patients[1]}/looks"
    stolen = await book.get(other, patient_actor(clinic.patients[1]), params={"cursor": first["next"]})
    is_problem(stolen, 400, "bad_cursor")


async def test_an_accounting_comes_page_by_page_as_it_stood_at_the_first(book: Served, clinic: Clinic) -> None:
    path = f"/patients/{clinic.patient}/disclosures"
    seen = f"/patients/{clinic.patient}/appointments"
    for _ in range(7):
        await book.get(seen, DESK)
    made_at = [book.log.clock.now() - timedelta(days=days) for days in (0, 30, 400)]
    await book.get(seen, DESK)
    by_post = {"purpose": "PUBLICHEALTH", "means": "post", "recipient": "A", "what": "b", "why": "c"}
    for moment in made_at:
        assert (await book.post(path, DESK, {**by_post, "made_at": at(moment)})).status_code == 201
    patient = patient_actor(clinic.patient)
    whole = (await told(book, path, patient))["disclosures"]
    assert [line["at"] for line in whole] == sorted(line["at"] for line in whole)
    assert [line["recipient"] == "A" for line in whole] == [True, True, *[False] * 7, True, False]
    page = await told(book, path, patient, params={"limit": 2})
    (found, accountable) = (page["disclosures"], page["accountable"])
    while page["next"]:
        # Meanwhile others look, and an old letter is found.
        await book.get(seen, DESK)
        await book.post(path, DESK, {**by_post, "made_at": at(made_at[-1] - timedelta(days=1))})
        page = await told(book, path, patient, params={"limit": 2, "cursor": page["next"]})
        assert 0 < len(page["disclosures"]) <= 2
        found += page["disclosures"]
        accountable += page["accountable"]
    assert found == whole
    assert accountable == 3
    first = await told(book, path, patient, params={"limit": 2})
    another = {"cursor": first["next"], "from": at(made_at[1])}
    is_problem(await book.get(path, patient, params=another), 400, "bad_cursor")


async def looked_at(book: Served, patient_id: UUID, times: int) -> None:
    """Looks by many, written at one go."""
    context = Context(ORGANIZATION, DESK.id, uuid4(), uuid4(), purpose="TREATMENT")
    new, now = TimeOrderedIds().new, book.log.clock.now()
    seen = RecordSeen(patient_id=patient_id, screen=Screen.PATIENT, role=Role.FRONT_DESK)
    for start in range(0, times, 1000):
        ids = [new() for _ in range(min(1000, times - start))]
        looks = [NewEvent(stream(patient_id, key), seen, now, key) for key in ids]
        await book.log.append(Save(context, {one.stream: 0 for one in looks}, looks))


async def test_who_is_looked_at_without_end_keeps_nobody_waiting(
    book: Served, clinic: Clinic, monkeypatch: pytest.MonkeyPatch
) -> None:
    await looked_at(book, clinic.patient, 20_000)
    most = 0

    async def counted(connections: Connections, *question: Any) -> list[tuple[Any, ...]]:
        nonlocal most
        rows = await fetch(connections, *question)
        if question[0] in (FORWARDS, BACKWARDS):
            most = max(most, len(rows))
        return rows

    fetch = Connections.fetch
    monkeypatch.setattr(Connections, "fetch", counted)
    patient = patient_actor(clinic.patient)
    for path in ("looks", "disclosures"):
        page = await told(book, f"/patients/{clinic.patient}/{path}", patient, params={"limit": 10})
        assert len(page[path]) == 10
        assert page["next"]
    assert most <= 20
    for form, times in (("json", '"role":"front_desk"'), ("html", "<td>front desk</td>")):
        params = {"format": form}
        export = asyncio.create_task(book.get(f"/patients/{clinic.patient}/export", patient, params=params))
        answered = 0
        while not export.done():
            assert (await book.get("/providers", DESK)).status_code == 200
            answered += 1
        assert export.result().text.count(times) == 20_000
        assert most <= 500
        assert answered > 10


@pytest.mark.parametrize("what", ["looks", "disclosures"])
async def test_looks_and_disclosures_are_the_patients_the_administrators_and_the_auditors(
    book: Served, clinic: Clinic, what: str
) -> None:
    path = f"/patients/{clinic.patient}/{what}"
    provider = someone(Role.PROVIDER, provider_id=clinic.provider)
    for who in (DESK, provider, someone(Role.ANALYST), someone(Role.SYSTEM)):
        is_problem(await book.get(path, who), 403, "not_allowed")
    is_problem(await book.get(path, patient_actor(clinic.patients[1])), 404, "unknown")
    is_problem(await book.get(path, AUDITOR, organization=ANOTHER), 404, "unknown")
    is_problem(await book.get(f"/patients/{uuid4()}/{what}", AUDITOR), 404, "unknown")
    for who in (ADMIN, AUDITOR, patient_actor(clinic.patient)):
        assert (await book.get(path, who)).status_code == 200


async def test_an_accounting_tells_what_went_outside_and_marks_what_the_rule_exempts(
    book: Served, clinic: Clinic
) -> None:
    patient = patient_actor(clinic.patient)
    system = someone(Role.SYSTEM)
    seen = f"/patients/{clinic.patient}/appointments"
    await book.get(seen, DESK)
    await book.get(seen, patient)
    await book.get(seen, system, headers={"Purpose-Of-Use": "TREATMENT"})
    await book.get(seen, system, headers={"Purpose-Of-Use": "REQUEST"})
    await book.get(seen, someone(Role.PROVIDER, provider_id=clinic.provider), headers={"Purpose-Of-Use": "RESEARCH"})
    await booked(book, clinic)
    await book.get(seen, someone(Role.PROVIDER, provider_id=clinic.provider), headers={"Purpose-Of-Use": "RESEARCH"})
    made_at = book.log.clock.now() - timedelta(days=400)
    by_fax = {
        "made_at": at(made_at),
        "purpose": "PUBLICHEALTH",
        "means": "fax",
        "recipient": "Health Office of Example",
        "address": "1 Example Square",
        "what": "a positive test",
        "why": "a notifiable disease",
    }
    assert (await book.post(f"/patients/{clinic.patient}/disclosures", DESK, by_fax)).status_code == 201
    whole = await told(book, f"/patients/{clinic.patient}/disclosures", AUDITOR)
    lines = [(one["kind"], one["recipient"], one["why"]) for one in whole["disclosures"]]
    assert lines == [
        ("accountable", "Health Office of Example", "a notifiable disease"),
        ("use", DESK.id, "TREATMENT"),
        ("to_the_individual", patient.id, "REQUEST"),
        ("treatment_payment_operations", system.id, "TREATMENT"),
        ("accountable", system.id, "REQUEST"),
        ("accountable", "provider-7", "RESEARCH"),
    ]
    assert whole["accountable"] == 3
    assert whole["disclosures"][0]["recipient_address"] == "1 Example Square"
    # To the patient, who was told by hand is told by name, and who looked under another.
    own = await told(book, f"/patients/{clinic.patient}/disclosures", patient)
    recipients = [one["recipient"] for one in own["disclosures"]]
    assert recipients[0] == "Health Office of Example"
    assert DESK.id not in recipients
    # Six years and no more, unless somebody asks for another time.
    early = {"from": at(made_at + timedelta(seconds=1))}
    assert len((await told(book, f"/patients/{clinic.patient}/disclosures", AUDITOR, params=early))["disclosures"]) > 5
    later = {"to": at(made_at)}
    assert (await told(book, f"/patients/{clinic.patient}/disclosures", AUDITOR, params=later))["disclosures"] == []


async def test_a_disclosure_to_come_or_of_nobody_is_refused(book: Served, clinic: Clinic) -> None:
    words = {"purpose": "PUBLICHEALTH", "means": "post", "recipient": "A", "what": "b", "why": "c"}
    tomorrow = {**words, "made_at": at(book.log.clock.now() + timedelta(days=1))}
    path = f"/patients/{clinic.patient}/disclosures"
    is_problem(await book.post(path, DESK, tomorrow), 422, "invalid")
    today = {**words, "made_at": at(book.log.clock.now())}
    is_problem(await book.post(f"/patients/{uuid4()}/disclosures", DESK, today), 404, "unknown")
    is_problem(await book.post(path, patient_actor(clinic.patient), today), 403, "not_allowed")


@pytest.mark.parametrize(
    ("role", "purpose", "kind"),
    [
        (Role.PATIENT, "RESEARCH", Kind.TO_THE_INDIVIDUAL),
        (Role.FRONT_DESK, "TREATMENT", Kind.USE),
        (Role.ADMIN, None, Kind.USE),
        (Role.ADMIN, "RESEARCH", Kind.ACCOUNTABLE),
        (Role.SYSTEM, "PUBLICHEALTH", Kind.ACCOUNTABLE),
        (Role.SYSTEM, "EMERGENCY", Kind.TREATMENT_PAYMENT_OPERATIONS),
        (Role.SYSTEM, None, Kind.ACCOUNTABLE),
        (Role.SYSTEM, "a purpose of old", Kind.ACCOUNTABLE),
    ],
)
def test_what_is_not_known_to_be_exempt_has_to_be_told(role: Role, purpose: str | None, kind: Kind) -> None:
    look = RecordSeen(patient_id=uid(1), screen=Screen.PATIENT, role=role)
    assert kind_of_look(look, purpose) is kind


@pytest.mark.parametrize("screen", list(Screen))
def test_every_screen_has_words_that_people_read(screen: Screen) -> None:
    assert said(screen)
