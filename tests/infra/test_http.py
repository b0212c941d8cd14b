"""Whatever is sent, the answer is a problem with a code, names every faulty field, and repeats nothing of it."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from datetime import date
from enum import StrEnum
from typing import Annotated, Any, Literal
from uuid import UUID

import httpx
import pytest
from fastapi import APIRouter, FastAPI, Form, HTTPException, Query
from prometheus_client import CollectorRegistry
from pydantic import AfterValidator, AwareDatetime, BaseModel, Field
from starlette.responses import HTMLResponse

from domain.ports import KeyReused, LogUnavailable
from domain.refusals import NotAllowed, Refusal, Unknown
from domain.time import ZoneName
from infra.http.address import Outside
from infra.http.edge import Edge
from infra.http.health import HttpMetrics, router
from infra.http.problems import EVERYWHERE, MalformedBody, responses
from infra.http.service import Together, service

LIMIT = 10_000


class SlotTaken(Refusal):
    code = "slot_taken"


class Crowded(Exception):
    pass


class Kind(StrEnum):
    NEW = "new"
    RETURN = "return"


class Walk(BaseModel):
    by: Literal["walk"]


class Ride(BaseModel):
    by: Literal["ride"]
    price: int


def _grown_up(born: date) -> date:
    if born.year > 2008:
        raise ValueError(f"{born.isoformat()!r} is too young")
    return born


class Visit(BaseModel):
    patient_id: UUID
    start: AwareDatetime
    kind: Kind
    zone: ZoneName
    born: Annotated[date, AfterValidator(_grown_up)]
    minutes: int = Field(gt=0)
    notes: list[str] = []
    comes: Walk | Ride | None = Field(None, discriminator="by")


routes = APIRouter()


@routes.post("/visits", responses=responses(409))
async def book(visit: Visit, step: Annotated[int, Query(ge=5)] = 5) -> dict[str, str]:
    return {"visit": str(visit.patient_id)}


@routes.get("/raise/{what}")
async def fail(what: str) -> None:
    errors: dict[str, Exception] = {
        "taken": SlotTaken("that time is taken", alternatives=["2026-03-01T10:00:00Z"], status="free", code="x"),
        "unknown": Unknown("unknown id"),
        "not_allowed": NotAllowed("not for you"),
        "reused": KeyReused(),
        "unavailable": LogUnavailable(),
        "crowded": Crowded(),
        "bug": RuntimeError("patient Maria Lopez has no bed"),
        "malformed": MalformedBody("what is this"),
        "gone": HTTPException(410, "Maria"),
    }
    raise errors[what]


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def app(registry: CollectorRegistry) -> FastAPI:
    return service(
        "write",
        title="Write",
        description="",
        routers=[routes],
        busy=[Crowded],
        body_limit=LIMIT,
        nesting_limit=20,
        metrics=HttpMetrics(registry, "write"),
    )


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://book") as client:
        yield client


def is_problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["cache-control"] == "no-store"
    body: dict[str, Any] = response.json()
    assert body["code"] == code
    assert body["status"] == status
    assert body["type"] == f"urn:daybook:problem:{code}"
    assert body["title"]
    assert body["detail"]
    return body


GOOD = {
    "patient_id": "0190a3c0-0000-7000-8000-000000000000",
    "start": "2026-03-01T09:00:00Z",
    "kind": "new",
    "zone": "Europe/Berlin",
    "born": "1980-01-01",
    "minutes": 20,
}


async def test_a_good_request_passes_untouched(client: httpx.AsyncClient) -> None:
    answer = await client.post("/write/visits", json=GOOD)
    assert answer.status_code == 200
    assert answer.json() == {"visit": GOOD["patient_id"]}


@pytest.mark.parametrize(
    ("what", "status", "code"),
    [
        ("taken", 409, "slot_taken"),
        ("unknown", 404, "unknown"),
        ("not_allowed", 403, "not_allowed"),
        ("reused", 422, "idempotency_key_reused"),
        ("malformed", 400, "malformed_body"),
        ("gone", 410, "gone"),
    ],
)
async def test_each_refusal_has_its_status_and_code(
    client: httpx.AsyncClient, what: str, status: int, code: str
) -> None:
    body = is_problem(await client.get(f"/write/raise/{what}"), status, code)
    assert "Maria" not in json.dumps(body)
    if what == "taken":
        assert body["alternatives"] == ["2026-03-01T10:00:00Z"]
        assert body["detail"] == "that time is taken"


@pytest.mark.parametrize("what", ["unavailable", "crowded"])
async def test_what_cannot_be_done_now_says_when_to_ask_again(client: httpx.AsyncClient, what: str) -> None:
    answer = await client.get(f"/write/raise/{what}")
    is_problem(answer, 503, "unavailable")
    assert int(answer.headers["retry-after"]) >= 1


async def test_a_fault_of_ours_is_bare_and_logged_without_its_words(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        answer = await client.get("/write/raise/bug")
    body = is_problem(answer, 500, "internal_error")
    assert set(body) == {"type", "title", "status", "code", "detail"}
    assert "RuntimeError" in caplog.text
    assert "test_http.py" in caplog.text
    assert "Maria" not in caplog.text + answer.text


async def test_a_parameter_that_no_route_knows_is_refused(client: httpx.AsyncClient) -> None:
    answer = await client.post("/write/visits", params={"stepp": "7", "step": "7", "": "x"}, json=GOOD)
    body = is_problem(answer, 422, "invalid")
    assert [(error["location"], error["pointer"]) for error in body["errors"]] == [("query", "stepp"), ("query", "")]
    assert (await client.post("/write/visits", params={"step": "7"}, json=GOOD)).status_code == 200


async def test_every_faulty_field_is_named_and_none_repeated(client: httpx.AsyncClient) -> None:
    secret = "Maria-Lopez"
    bad = {
        "patient_id": f"{secret}-z",
        "start": "2026-03-01T09:00:00",
        "kind": secret,
        "zone": secret,
        "born": "2020-12-31",
        "minutes": 0,
        "notes": ["fine", {"a": secret}],
        "comes": {"by": secret},
    }
    answer = await client.post("/write/visits", params={"step": "x" + secret}, json=bad)
    body = is_problem(answer, 422, "invalid")
    found = {(error["location"], error["pointer"]): error["code"] for error in body["errors"]}
    assert found == {
        ("query", "step"): "int_parsing",
        ("body", "/patient_id"): "uuid_parsing",
        ("body", "/start"): "timezone_aware",
        ("body", "/kind"): "enum",
        ("body", "/zone"): "value_error",
        ("body", "/born"): "value_error",
        ("body", "/minutes"): "greater_than",
        ("body", "/notes/1"): "string_type",
        ("body", "/comes"): "union_tag_invalid",
    }
    assert secret not in answer.text
    assert "2020-12-31" not in answer.text
    assert all(error["message"] for error in body["errors"])


async def test_an_endless_list_of_faults_is_cut(client: httpx.AsyncClient) -> None:
    body = is_problem(await client.post("/write/visits", json=GOOD | {"notes": [0] * 1000}), 422, "invalid")
    assert len(body["errors"]) + body["further_errors"] == 1000


JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"{", 400, "malformed_json"),
        (b'{"a": 1} x', 400, "malformed_json"),
        (b'"\xff\xfe"', 400, "malformed_body"),
        (b'{"patient_id": "\\ud800"}', 422, "invalid"),
        (b'{"minutes": ' + b"9" * 9000 + b"}", 400, "malformed_body"),
        (b"[" * 21 + b"]" * 21, 400, "body_too_deep"),
        (b"[" * 5000, 400, "body_too_deep"),
        (b'{"a":' * 1500, 400, "body_too_deep"),
        (b'["' + b"[" * 500 + b'\\"[["]', 422, "invalid"),
        (b"[{}," * 10 + b"{}" + b"]" * 10, 422, "invalid"),
        (b"", 422, "invalid"),
        (b"null", 422, "invalid"),
        (b"NaN", 422, "invalid"),
    ],
)
async def test_a_body_that_means_nothing_is_refused(
    client: httpx.AsyncClient, content: bytes, status: int, code: str
) -> None:
    is_problem(await client.post("/write/visits", content=content, headers=JSON), status, code)


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", None])
async def test_a_body_that_is_not_called_json_is_refused(client: httpx.AsyncClient, kind: str | None) -> None:
    headers = {"content-type": kind} if kind else {}
    is_problem(await client.post("/write/visits", content=b"{}", headers=headers), 415, "unsupported_media_type")


async def test_a_body_over_the_limit_is_refused_announced_or_not(client: httpx.AsyncClient) -> None:
    body = json.dumps(GOOD | {"notes": ["x" * LIMIT]}).encode()
    is_problem(await client.post("/write/visits", content=body, headers=JSON), 413, "body_too_large")
    read = 0

    async def pages(count: int) -> AsyncIterator[bytes]:
        nonlocal read
        for _ in range(count):
            read += 1
            yield b" " * 1000

    is_problem(await client.post("/write/visits", content=pages(20), headers=JSON), 413, "body_too_large")
    assert read == 20, "a body somewhat too long is read to its end, so that the client hears the answer"
    read = 0
    answer = await client.post("/write/visits", content=pages(100_000), headers=JSON)
    is_problem(answer, 413, "body_too_large")
    assert answer.headers["connection"] == "close"
    assert read < 1000
    exact = json.dumps(GOOD).encode()
    padded = exact + b" " * (LIMIT - len(exact))
    assert (await client.post("/write/visits", content=padded, headers=JSON)).status_code == 200


@pytest.mark.parametrize(
    "body", ['{"a": 1, "a": 2}', '{"a": {"b": 1, "c": [{"d": 1, "d": 1}]}}', '{"a": 1, "\\u0061": 2}']
)
async def test_a_name_that_stands_twice_in_an_object_is_refused(client: httpx.AsyncClient, body: str) -> None:
    is_problem(await client.post("/write/visits", content=body, headers=JSON), 400, "repeated_key")


@pytest.mark.parametrize("name", ["Authorization", "Content-Type", "Idempotency-Key", "Purpose-Of-Use", "Read-After"])
async def test_a_header_that_two_readers_could_understand_differently_is_refused(
    client: httpx.AsyncClient, name: str
) -> None:
    answer = await client.get("/write/raise/unknown", headers=[(name, "one"), (name.lower(), "another")])
    is_problem(answer, 400, "repeated_header")
    assert "another" not in answer.text


async def test_a_form_is_taken_only_where_the_service_says_so() -> None:
    taking = APIRouter()

    @taking.post("/token")
    async def token(grant: Annotated[str, Form()]) -> str:
        return grant

    kind = "application/x-www-form-urlencoded"
    for media_types, status in (((), 415), ((kind,), 200)):
        app = service("oauth", title="OAuth", description="", routers=[taking], media_types=media_types)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://book") as client:
            assert (await client.post("/oauth/token", data={"grant": "[" * 100})).status_code == status
            named = {"content-type": f"{kind}; charset=UTF-8"}
            assert (await client.post("/oauth/token", content=b"grant=x", headers=named)).status_code == status
            assert (
                await client.post("/oauth/token", content=b"x", headers={"content-type": "text/plain"})
            ).status_code == 415


EVERY_ANSWER = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


async def test_every_answer_is_kept_to_whom_it_is_for(app: FastAPI) -> None:
    own = APIRouter()

    @own.get("/page")
    async def page() -> HTMLResponse:
        return HTMLResponse("<p>a page", headers={"Content-Security-Policy": "default-src 'self'", "X-Own": "yes"})

    pages = service("pages", title="Pages", description="", routers=[own])
    for https in (False, True):
        together = Together({"write": app, "pages": pages}, Outside(https=https))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(together), base_url="http://book") as client:
            for path in (
                "/write/raise/bug",
                "/write/raise/unknown",
                "/write/nowhere",
                "/nowhere",
                "/write/openapi.json",
            ):
                answer = await client.get(path)
                assert {name: answer.headers.get_list(name) for name in EVERY_ANSWER} == {
                    name: [value] for name, value in EVERY_ANSWER.items()
                }, path
                assert ("strict-transport-security" in answer.headers) is https
            headers = (await client.get("/pages/page")).headers
            assert headers.get_list("content-security-policy") == ["default-src 'self'"], "a page's own goes before"
            assert headers["x-own"] == "yes"
            assert headers["x-content-type-options"] == "nosniff"


async def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    answered: list[Any] = []

    async def never() -> Any:
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        answered.append(message)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("nobody is asked")

    scope = {"type": "http", "method": "POST", "path": "/", "headers": [(b"content-length", b"9")]}
    await Edge(app, body_within=0.05)(scope, never, send)
    assert answered[0]["status"] == 408
    assert (b"connection", b"close") in answered[0]["headers"]
    assert json.loads(answered[1]["body"])["code"] == "body_too_slow"


async def test_unknown_addresses_and_methods(client: httpx.AsyncClient) -> None:
    is_problem(await client.get("/write/nowhere"), 404, "not_found")
    answer = await client.delete("/write/visits")
    is_problem(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "POST"


async def test_the_description_knows_problems_and_nothing_of_fastapis_own(client: httpx.AsyncClient) -> None:
    document = (await client.get("/write/openapi.json")).json()
    assert {"Problem", "FaultyField", "Visit"} <= set(document["components"]["schemas"])
    assert "HTTPValidationError" not in json.dumps(document)
    answers = document["paths"]["/write/visits"]["post"]["responses"]
    assert {str(status) for status in (*EVERYWHERE, 409)} <= set(answers)
    assert answers["422"]["content"] == {
        "application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}
    }
    assert (await client.get("/write/docs")).status_code == 200


async def test_services_stand_together_and_are_told_apart_by_their_first_part(app: FastAPI) -> None:
    async def fine() -> str:
        return "position 7"

    async def broken() -> str:
        raise RuntimeError("dsn=secret")

    registry = CollectorRegistry()
    rest = service("", title="Rest", description="", routers=[router({"log": fine}, registry)])
    ill = service("", title="Ill", description="", routers=[router({"log": fine, "redis": broken}, registry)])
    together = Together({"write": app, "ill": ill, "": rest})
    async with httpx.AsyncClient(transport=httpx.ASGITransport(together), base_url="http://book") as client:
        assert (await client.post("/write/visits", json=GOOD)).status_code == 200
        is_problem(await client.get("/write/raise/unknown"), 404, "unknown")
        for nowhere in ("/", "//", "/openapi.json", "/writes", "/health"):
            is_problem(await client.get(nowhere), 404, "not_found")
        assert (await client.get("/health/live")).json()["status"] == "live"
        ready = (await client.get("/health/ready")).json()
        assert ready["checks"] == {"log": "position 7"}
        assert ready["tzdata"].startswith("20")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(ill), base_url="http://book") as client:
        answer = await client.get("/health/ready")
        assert answer.status_code == 503
        assert answer.json()["checks"] == {"log": "position 7", "redis": "RuntimeError"}
        assert "secret" not in answer.text


async def test_answers_are_counted_by_operation_never_by_address(
    client: httpx.AsyncClient, registry: CollectorRegistry
) -> None:
    await client.get("/write/raise/unknown")
    await client.get("/write/nowhere/Maria")
    labels = {"service": "write", "method": "GET"}
    count = registry.get_sample_value("daybook_http_answers_total", labels | {"operation": "fail", "status": "404"})
    assert count == 1
    assert registry.get_sample_value("daybook_http_answers_total", labels | {"operation": "", "status": "404"}) == 1
