"""Who is shown what of whom is in the log before the answer leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from domain.access import Actor, Role
from domain.look import RecordSeen, Screen, streams_of
from domain.origin import OriginSeen, stream
from domain.ports import FixedClock, LogUnavailable, Recorded
from infra.http.origins import Origins
from infra.ids import TimeOrderedIds
from read_api.asking import Asking
from tests.clinic import DESK, ORGANIZATION, Clinic, in_days, patient_actor
from tests.served import SECRET, Served, at, someone, visit
from tests.write_api.test_appointments import booked, is_problem


async def looks_at(book: Served, patient_id: UUID) -> Sequence[Recorded]:
    names = await book.log.streams(ORGANIZATION, *streams_of(patient_id))
    found = await book.log.load(ORGANIZATION, dict.fromkeys(names, 0))
    return [recorded for name in names for recorded in found[name]]


async def test_a_look_at_one_appointment_is_an_event_that_says_who_saw_what_of_whom_and_why(
    book: Served, clinic: Clinic
) -> None:
    one = UUID(await booked(book, clinic))
    headers = {"Purpose-Of-Use": "PAYMENT", "User-Agent": "frontdesk/3"}
    answer = await book.get(f"/appointments/{one}", DESK, headers=headers)
    (look,) = await looks_at(book, clinic.patient)
    assert look.event == RecordSeen(
        patient_id=clinic.patient, screen=Screen.APPOINTMENT, role=Role.FRONT_DESK, resource_id=one
    )
    assert (look.actor, look.purpose, look.on_behalf_of) == (DESK.id, "PAYMENT", None)
    assert str(look.correlation_id) == answer.headers["x-request-id"]
    assert look.causation_id is not None
    (origin,) = (await book.log.load(ORGANIZATION, {stream(look.causation_id): 0}))[stream(look.causation_id)]
    assert isinstance(origin.event, OriginSeen)
    assert (origin.event.person, origin.event.address, origin.event.agent) == (DESK.id, "127.0.0.1", "frontdesk/3")
    assert origin.position < look.position


async def test_commands_and_looks_of_one_origin_name_it_and_it_is_written_once(book: Served, clinic: Clinic) -> None:
    head = await book.log.head()
    one = await booked(book, clinic)
    for _ in range(3):
        await book.get(f"/appointments/{one}", DESK)
    await book.get(f"/appointments/{one}", DESK, headers={"User-Agent": "another"})
    events = await book.log.read(head, 100)
    first, second = [recorded for recorded in events if isinstance(recorded.event, OriginSeen)]
    causes = [recorded.causation_id for recorded in events if recorded not in (first, second)]
    origins = [UUID(recorded.stream.partition("/")[2]) for recorded in (first, second)]
    assert causes == [*[origins[0]] * 6, origins[1]]


@pytest.mark.parametrize("said", ["CURIOSITY", "", "ä"])
async def test_a_purpose_that_is_none_is_refused_and_nothing_is_shown(book: Served, clinic: Clinic, said: str) -> None:
    path = f"/patients/{clinic.patient}/appointments"
    told = is_problem(await book.get(path, DESK, headers={"Purpose-Of-Use": said.encode()}), 422, "invalid")
    assert "TREATMENT" in told["allowed"]
    assert await looks_at(book, clinic.patient) == []


@pytest.mark.parametrize(
    ("role", "purpose"),
    [(Role.PROVIDER, "TREATMENT"), (Role.FRONT_DESK, "TREATMENT"), (Role.ADMIN, "OPERATIONS")],
)
async def test_unsaid_the_purpose_is_what_the_role_usually_asks_for(
    book: Served, clinic: Clinic, role: Role, purpose: str
) -> None:
    who = someone(role, **({"provider_id": clinic.provider} if role is Role.PROVIDER else {}))
    one = await booked(book, clinic)
    await book.get(f"/appointments/{one}", who)
    (look,) = await looks_at(book, clinic.patient)
    assert look.purpose == purpose


async def test_a_patients_look_at_their_own_record_is_one_too(book: Served, clinic: Clinic) -> None:
    who = patient_actor(clinic.patient)
    await book.get(f"/patients/{clinic.patient}/appointments", who)
    (look,) = await looks_at(book, clinic.patient)
    assert (look.actor, look.purpose) == (who.id, "REQUEST")


async def test_what_is_not_shown_is_not_a_look(book: Served, clinic: Clinic) -> None:
    one = await booked(book, clinic)
    stranger = patient_actor(clinic.patients[1])
    is_problem(await book.get(f"/appointments/{one}", stranger), 404, "unknown")
    is_problem(await book.get(f"/patients/{clinic.patient}/appointments", stranger), 404, "unknown")
    nobody = uuid4()
    is_problem(await book.get(f"/patients/{nobody}/appointments", DESK), 404, "unknown")
    assert [*await looks_at(book, clinic.patient), *await looks_at(book, nobody)] == []


async def test_a_single_record_is_written_at_every_look_and_a_list_once_a_minute(book: Served, clinic: Clinic) -> None:
    for patient_id, hour in zip(clinic.patients, (9, 10, 11), strict=True):
        asked = visit(clinic, in_days(3, hour), patient_id=str(patient_id))
        assert (await book.post("/appointments", DESK, asked)).status_code == 201
    day = {"date": at(in_days(3))[:10]}

    async def shown(what: str = "day", who: Actor = DESK, **headers: str) -> None:
        answer = await book.get(f"/providers/{clinic.provider}/{what}", who, params=day, headers=headers)
        assert answer.status_code == 200

    async def count() -> int:
        return len(await looks_at(book, clinic.patient))

    for _ in range(3):
        await shown()
    assert [len(await looks_at(book, one)) for one in clinic.patients] == [1, 1, 1]
    # Three patients, one save.
    assert len({(await looks_at(book, one))[0].command_id for one in clinic.patients}) == 1
    await shown("week")
    await shown(who=someone(Role.ADMIN))
    await shown(**{"Purpose-Of-Use": "EMERGENCY"})
    assert await count() == 4
    trail = book.reads.state.library.trail
    trail._clock = FixedClock(book.log.clock.now() + timedelta(seconds=61))
    await shown()
    assert await count() == 5
    for _ in range(2):
        await book.get(f"/patients/{clinic.patient}/appointments", DESK)
    assert await count() == 7


async def test_a_patients_page_and_free_times_beside_their_visits_are_looks(book: Served, clinic: Clinic) -> None:
    await booked(book, clinic)
    await book.get(f"/resources/{clinic.patient}/page", DESK)
    await book.get(f"/resources/{clinic.provider}/page", DESK)
    visit_type = visit(clinic, in_days(3))["visit_type_id"]
    own = patient_actor(clinic.patient)
    for who, params in (
        (DESK, {"visit_type_id": visit_type, "patient_id": str(clinic.patient)}),
        (DESK, {"visit_type_id": visit_type}),
        (own, {"visit_type_id": visit_type}),
    ):
        assert (await book.get("/slots", who, params=params)).status_code == 200
    shown = [recorded.event.screen for recorded in await looks_at(book, clinic.patient)]  # type: ignore[attr-defined]
    assert shown == [Screen.PAGE, Screen.FREE_TIMES]


async def test_what_can_not_be_recorded_is_not_shown(
    book: Served, clinic: Clinic, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await booked(book, clinic)
    append = book.log.append
    day = {"date": at(in_days(3))[:10]}

    async def away(save: Any) -> Any:
        await asyncio.sleep(0)
        raise LogUnavailable("the log can't be reached")

    paths = (
        f"/appointments/{one}",
        f"/patients/{clinic.patient}/appointments",
        f"/providers/{clinic.provider}/day?date={day['date']}",
    )
    monkeypatch.setattr(book.log, "append", away)
    for path in paths:
        told = await book.get(path, DESK)
        is_problem(told, 503, "unavailable")
        assert str(clinic.patient) not in told.text
        assert "retry-after" in told.headers
    # What shows nobody needs no record.
    assert (await book.get(f"/providers/{clinic.provider}", DESK)).status_code == 200
    monkeypatch.setattr(book.log, "append", append)
    for path in paths:
        assert (await book.get(path, DESK)).status_code == 200
    assert len(await looks_at(book, clinic.patient)) == 3


async def test_an_answer_waits_until_its_look_is_written(
    book: Served, clinic: Clinic, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await booked(book, clinic)
    append, may_go = book.log.append, asyncio.Event()

    async def held_up(save: Any) -> Any:
        await may_go.wait()
        return await append(save)

    monkeypatch.setattr(book.log, "append", held_up)
    asking = asyncio.create_task(book.get(f"/appointments/{one}", DESK))
    done, _ = await asyncio.wait((asking,), timeout=0.5)
    assert not done
    may_go.set()
    assert (await asking).status_code == 200


async def test_a_route_that_does_not_say_whom_it_shows_shows_nothing(
    book: Served, clinic: Clinic, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await booked(book, clinic)
    monkeypatch.setattr(Asking, "shows", lambda *forgotten, **more: None)
    is_problem(await book.get(f"/appointments/{one}", DESK), 500, "internal_error")
    # What is nobody's in person has nobody to name.
    assert (await book.get(f"/providers/{clinic.provider}", DESK)).status_code == 200


async def test_a_known_origin_asks_nothing_of_the_log_and_two_processes_give_one_origin_one_id(
    book: Served, clinic: Clinic, monkeypatch: pytest.MonkeyPatch
) -> None:
    append, origins = book.log.append, 0

    async def counted(save: Any) -> Any:
        nonlocal origins
        origins += sum(isinstance(new.event, OriginSeen) for new in save.events)
        return await append(save)

    monkeypatch.setattr(book.log, "append", counted)
    scope = {"type": "http", "headers": [(b"user-agent", b"frontdesk/3")], "client": ("192.0.2.7", 4711)}
    here, elsewhere = (Origins(book.log, book.log.clock, TimeOrderedIds(), SECRET) for _ in range(2))
    one = await here.of(scope, ORGANIZATION, DESK)
    assert [await here.of(scope, ORGANIZATION, DESK) for _ in range(3)] == [one] * 3
    assert origins == 1
    # Another process meets it for the first time, and finds it written.
    assert await elsewhere.of(scope, ORGANIZATION, DESK) == one
    assert len((await book.log.load(ORGANIZATION, {stream(one): 0}))[stream(one)]) == 1
    # Whatever makes another origin gives another id.
    others = {
        await here.of({**scope, "client": ("192.0.2.8", 4711)}, ORGANIZATION, DESK),
        await here.of({**scope, "headers": []}, ORGANIZATION, DESK),
        await here.of(scope, ORGANIZATION, replace(DESK, session_id=uuid4())),
        await here.of(scope, ORGANIZATION, replace(DESK, client_id="portal")),
        await here.of(scope, "another", DESK),
        await Origins(book.log, book.log.clock, TimeOrderedIds(), b"x" * 32).of(scope, ORGANIZATION, DESK),
    }
    assert len(others - {one}) == 6
    assert one.version == 8
