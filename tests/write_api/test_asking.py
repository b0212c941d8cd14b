"""What every command has in common: keys that make a repeat safe, and headers that are written into the log."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from commands.loop import HANDLERS
from infra.http.limits import Policy, RateLimit
from tests.clinic import ADMIN, DESK, ORGANIZATION, Clinic, in_days, open_clinic
from tests.conftest import Database
from tests.served import Served, served, token, visit
from tests.write_api.test_appointments import ANOTHER, is_problem

# Routes that ask for no token.
OPEN = {"register_account", "verify_account", "ask_reset", "reset_password"}
# What stands against an example besides ids that are not there: it is for people with an account, or of other roles.
NOT_THEIRS = {"not_allowed", "link_ended"}
# Asked by imports, by the pages of OAuth, by sweepers, by the command line; and a link is followed by two routes.
ELSEWHERE = {"commands.history", "commands.sign_in", "commands.sessions", "commands.clients", "commands.outside"}
# Of the jobs and the command line.
NO_ROUTE = {
    "lapse_hold",
    "create_account",
    "close_account_of",
    "follow_link",
    "forget_strangers",
    "forget_unverified",
}


async def test_a_repeat_answers_as_the_first_did(book: Served, clinic: Clinic) -> None:
    body, key = visit(clinic, in_days(3)), {"Idempotency-Key": "one"}
    first = await book.post("/appointments", DESK, body, headers=key)
    again = await book.post("/appointments", DESK, body, headers=key)
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.content == first.content
    for header in ("position", "location"):
        assert again.headers[header] == first.headers[header]
    assert again.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in first.headers


async def test_repeats_at_one_moment_book_once(book: Served, clinic: Clinic) -> None:
    body, key = visit(clinic, in_days(3)), {"Idempotency-Key": "one"}
    answers = await asyncio.gather(*(book.post("/appointments", DESK, body, headers=key) for _ in range(8)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    assert Counter(answer.headers.get("idempotency-replayed") for answer in answers) == {"true": 7, None: 1}


async def test_a_key_with_another_body_is_refused(book: Served, clinic: Clinic) -> None:
    key = {"Idempotency-Key": "one"}
    await book.post("/appointments", DESK, visit(clinic, in_days(3)), headers=key)
    other = await book.post("/appointments", DESK, visit(clinic, in_days(4)), headers=key)
    is_problem(other, 422, "idempotency_key_reused")


async def test_a_key_is_its_owners_alone(book: Served, clinic: Clinic) -> None:
    key = {"Idempotency-Key": "one"}
    await book.post("/appointments", DESK, visit(clinic, in_days(3)), headers=key)
    other = await book.post("/appointments", ADMIN, visit(clinic, in_days(4)), headers=key)
    assert (other.status_code, other.headers.get("idempotency-replayed")) == (201, None)


async def test_a_refusal_is_decided_again(book: Served, clinic: Clinic) -> None:
    taken = await book.post("/appointments", DESK, visit(clinic, in_days(3)))
    body, key = visit(clinic, in_days(3), patient_id=str(clinic.patients[1])), {"Idempotency-Key": "two"}
    is_problem(await book.post("/appointments", DESK, body, headers=key), 409, "slot_taken")
    await book.post(f"/appointments/{taken.json()['appointment_id']}/cancel", DESK)
    assert (await book.post("/appointments", DESK, body, headers=key)).status_code == 201


@pytest.mark.parametrize("key", ["", "a" * 256, "with space", "naïve"])
async def test_a_key_that_is_none_is_refused(book: Served, clinic: Clinic, key: str) -> None:
    headers = {"Idempotency-Key": key.encode()}
    answer = await book.post("/appointments", DESK, visit(clinic, in_days(3)), headers=headers)
    is_problem(answer, 422, "invalid")


@pytest.mark.parametrize("key", ["!", "~" * 255])
async def test_a_key_may_have_255_visible_characters(book: Served, clinic: Clinic, key: str) -> None:
    answer = await book.post("/appointments", DESK, visit(clinic, in_days(3)), headers={"Idempotency-Key": key})
    assert answer.status_code == 201


TRACE = "0af7651916cd43dd8448eb211c80319c"
REQUEST = "6f1c4c9e-8d0b-4a53-9a3e-0f4c2a1b7d11"


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"X-Request-Id": REQUEST}, UUID(REQUEST)),
        ({"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}, UUID(TRACE)),
        ({"X-Request-Id": REQUEST, "traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}, UUID(TRACE)),
        ({"X-Request-Id": "mine"}, None),
        ({"traceparent": f"00-{'0' * 32}-b7ad6b7169203331-01"}, None),
        ({"traceparent": "nonsense"}, None),
    ],
)
async def test_who_asked_and_why_is_written_beside_every_event(
    book: Served, clinic: Clinic, headers: dict[str, str], expected: UUID | None
) -> None:
    answer = await book.post(
        "/appointments", DESK, visit(clinic, in_days(3)), headers={**headers, "Purpose-Of-Use": "TREATMENT"}
    )
    position = book.positions.read(answer.headers["position"])
    events = await book.log.read(position - 3, 3)
    assert len(events) == 3
    for event in events:
        assert (event.organization, event.actor, event.purpose) == (ORGANIZATION, DESK.id, "TREATMENT")
        assert str(event.correlation_id) == answer.headers["x-request-id"]
        assert expected is None or event.correlation_id == expected


async def test_a_purpose_that_is_none_is_refused(book: Served, clinic: Clinic) -> None:
    asked = visit(clinic, in_days(3))
    told = is_problem(
        await book.post("/appointments", DESK, asked, headers={"Purpose-Of-Use": "CURIOSITY"}), 422, "invalid"
    )
    assert "TREATMENT" in told["allowed"]


async def test_a_refusal_carries_the_correlation_id_too(book: Served) -> None:
    answer = await book.post("/appointments", DESK, {}, headers={"X-Request-Id": REQUEST})
    assert (answer.status_code, answer.headers["x-request-id"]) == (422, REQUEST)


async def test_patients_and_rooms_are_registered_in_the_callers_organization(book: Served) -> None:
    made = await book.post("/patients", ADMIN, organization=ANOTHER)
    position = book.positions.read(made.json()["position"])
    (event,) = await book.log.read(position - 1, 1)
    assert event.organization == ANOTHER


async def test_an_unreachable_log_is_503_and_then_comes_back(
    postgres: str, database: Database, redis_server: str, tmp_path: Path
) -> None:
    def let_in(yes: bool) -> None:
        with psycopg.connect(postgres, autocommit=True) as owner:
            owner.execute("UPDATE pg_database SET datallowconn = %s WHERE datname = %s", (yes, database.name))
            if not yes:
                owner.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (database.name,)
                )

    async with served(database.app, redis_server, None, tmp_path, log_patience=0.5) as book:
        clinic = await book.clinic()
        let_in(False)
        for _ in range(2):
            answer = await book.post("/appointments", DESK, visit(clinic, in_days(3)))
            is_problem(answer, 503, "unavailable")
            assert int(answer.headers["retry-after"]) >= 1
        let_in(True)
        until = time.monotonic() + 20
        while answer.status_code == 503 and time.monotonic() < until:
            answer = await book.post("/appointments", DESK, visit(clinic, in_days(3)))
        assert answer.status_code == 201


async def test_who_asks_too_often_is_told_when_to_come_back(
    database: Database, redis_server: str, tmp_path: Path
) -> None:
    limit = RateLimit(Policy(3, 60))
    async with served(database.app, redis_server, None, tmp_path, limit=limit) as book:
        answers = [await book.post("/patients", DESK) for _ in range(4)]
        assert [answer.status_code for answer in answers] == [201, 201, 201, 429]
        assert int(is_problem(answers[-1], 429, "too_many_requests")["retry_after"]) >= 1
        assert (await book.post("/patients", ADMIN)).status_code == 201


async def test_a_token_of_the_read_api_is_no_token_here(book: Served) -> None:
    answer = await book.http.post("/write/patients", headers={"Authorization": f"Bearer {token(DESK)[:-4]}AAAA"})
    is_problem(answer, 401, "token_invalid")


async def test_the_description_is_there_and_whole(book: Served) -> None:
    """Every command that people may ask for has a route, and every reference leads somewhere."""
    assert (await book.http.get("/write/docs")).status_code == 200
    document = (await book.http.get("/write/openapi.json")).json()
    schemas = document["components"]["schemas"]

    def references(part: Any) -> Any:
        if isinstance(part, dict):
            if "$ref" in part:
                yield part["$ref"]
            for value in part.values():
                yield from references(value)
        elif isinstance(part, list):
            for value in part:
                yield from references(value)

    assert {reference.rsplit("/", 1)[1] for reference in references(document)} <= set(schemas)
    operations = [one for path in document["paths"].values() for one in path.values()]
    assert all(one["description"] and one["tags"] for one in operations)
    assert {one["operationId"] for one in operations if one.get("security") != [{"bearer": []}]} == OPEN
    assert "appointment_id" not in schemas["MoveAppointmentBody"]["properties"]
    assert "start" in schemas["MoveAppointmentBody"]["required"]


async def test_the_examples_can_be_pasted(book: Served) -> None:
    """Each example body is well-formed: what stands against it can only be an id that is not there."""
    document = (await book.http.get("/write/openapi.json")).json()
    tried = 0
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            for example in content.get("examples", {}).values():
                address = path
                for part in operation.get("parameters", []):
                    if part["in"] == "path":
                        address = address.replace("{" + part["name"] + "}", str(uuid4()))
                answer = await book.send(method.upper(), address, ADMIN, json=example["value"])
                assert answer.status_code in (200, 201, 202, 404) or answer.json()["code"] in NOT_THEIRS, (
                    path,
                    answer.text,
                )
                tried += 1
    assert tried > 20


async def test_every_command_that_people_may_ask_for_has_a_route(book: Served) -> None:
    document = (await book.http.get("/write/openapi.json")).json()
    asked = {one["operationId"] for path in document["paths"].values() for one in path.values()}
    handlers = {handler.__name__ for kind, (handler, _) in HANDLERS.items() if kind.__module__ not in ELSEWHERE}
    assert handlers - asked == NO_ROUTE


async def test_two_organizations_share_nothing(book: Served, clinic: Clinic) -> None:
    other = await open_clinic(book.desk, organization=ANOTHER)
    mixed = visit(clinic, in_days(3), patient_id=str(other.patient))
    is_problem(await book.post("/appointments", DESK, mixed), 404, "unknown")
    is_problem(await book.post("/appointments", DESK, mixed, organization=ANOTHER), 404, "unknown")
