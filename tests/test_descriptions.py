"""What both APIs say of themselves holds: whatever fits the descriptions, or just does not, is answered as they say,
and never with a fault of ours."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4
from zlib import crc32

import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck, settings
from schemathesis import Case, GenerationMode
from schemathesis.checks import (
    content_type_conformance,
    negative_data_rejection,
    not_a_server_error,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)
from schemathesis.specs.openapi.checks import ignored_auth, missing_required_header

import read_api.app
import write_api.app
from infra.embedded.clickhouse import ClickHouse
from infra.http.service import Together
from tests.clinic import ADMIN, APPROVED, CHECKUP, LOCATION, VISIT_TYPES, in_days, patient_actor
from tests.conftest import fresh_database
from tests.house import PATIENCE
from tests.served import at, served, token, visit

EXAMPLES = 40

# A booked visit, one that is asked for, and a hold.
GOING_ON = [(CHECKUP, ""), (APPROVED, ""), (CHECKUP, "/hold")]

# What `positive_data_acceptance` would ask can't be: a well-formed request for a taken hour is refused.
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
    missing_required_header,
    unsupported_method,
    ignored_auth,
]


@dataclass
class Running:
    """Both APIs behind a real server, with a clinic in which something goes on; `known` is what is there, by name."""

    url: str
    known: dict[str, list[Any]]


@pytest.fixture(scope="module")
def running(
    postgres: str, template: str, redis_server: str, clickhouse: ClickHouse, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    ready, stop = threading.Event(), threading.Event()
    told: list[Running] = []

    async def serve(dsn: str, folder: Path) -> None:
        async with served(dsn, redis_server, clickhouse, folder) as book:
            clinic = await book.clinic(patients=2, rooms=1)
            ids = []
            for number, (kind, step) in enumerate(GOING_ON * 3):
                asked = visit(clinic, in_days(50 + number), visit_type_id=str(kind.id))
                made = await book.post(f"/appointments{step}", patient_actor(clinic.patient), asked)
                ids.append(made.json()["appointment_id"])
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = probe.getsockname()[1]
            app = Together({"write": book.writes, "read": book.reads})
            server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="critical", lifespan="off"))
            server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
            serving = asyncio.create_task(server.serve())
            while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
                await asyncio.sleep(0.01)
            known = {
                "appointment_id": ids,
                "patient_id": [str(key) for key in clinic.patients],
                "provider_id": [str(clinic.provider)],
                "location_id": [str(LOCATION.id)],
                "visit_type_id": [str(kind.id) for kind in VISIT_TYPES],
                "resource_id": [str(clinic.rooms[0])],
                "resources": [[], [str(clinic.rooms[0])]],
                "resource_ids": [[], [str(clinic.rooms[0])]],
                "time_zone": ["Europe/Berlin", "Asia/Kathmandu"],
                "as_of": [made.json()["position"]],
            }
            told.append(Running(f"http://127.0.0.1:{port}", known))
            ready.set()
            await asyncio.to_thread(stop.wait)
            server.should_exit = True
            await serving

    with fresh_database(postgres, template) as database:
        folder = tmp_path_factory.mktemp("described")
        thread = threading.Thread(target=lambda: asyncio.run(serve(database.app, folder)))
        thread.start()
        try:
            assert ready.wait(PATIENCE), "the APIs do not start"
            yield told[0]
        finally:
            stop.set()
            thread.join()


def put_known(part: Any, known: dict[str, list[Any]]) -> None:
    """What is there, in most places where an id is asked for, and times within opening hours: other ids are 404, other
    times past or far, and no more of a request would be looked at."""
    if isinstance(part, list):
        for value in part:
            put_known(value, known)
    if not isinstance(part, dict):
        return
    for name, value in list(part.items()):
        chance = crc32(repr((name, value)).encode())
        choices = known.get(name, [])
        if name == "start" and "end" not in part and isinstance(value, str) and chance % 4:
            part[name] = at(in_days(2 + chance % 40, 8 + chance % 10, 15 * (chance % 4)))
        elif choices and isinstance(value, type(choices[0])) and chance % 16:
            part[name] = choices[chance // 16 % len(choices)]
        else:
            put_known(value, known)


def make_likely(case: Case, known: dict[str, list[Any]]) -> None:
    """Turn a well-formed request into one that could have been meant."""
    for part in (case.path_parameters, case.query, case.body):
        put_known(part, known)
    if "Idempotency-Key" in case.headers:
        case.headers["Idempotency-Key"] = str(uuid4())
    for part, name in ((case.headers, "Read-After"), (case.query, "cursor")):
        if crc32(repr(part.get(name)).encode()) % 4:
            part.pop(name, None)


bounded = settings(
    max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None
)


# The descriptions need nothing of what the APIs are given.
NOTHING: Any = None
writes = schemathesis.openapi.from_dict(write_api.app.build(NOTHING, NOTHING, NOTHING).openapi())
reads = schemathesis.openapi.from_dict(
    read_api.app.build(*[NOTHING] * 8, people_model=NOTHING, trail=NOTHING, inquiries=NOTHING).openapi()
)


@writes.parametrize()
@bounded
def test_the_write_api_does_what_it_says(case: Case, running: Running) -> None:
    holds(case, running)


@reads.parametrize()
@bounded
def test_the_read_api_does_what_it_says(case: Case, running: Running) -> None:
    holds(case, running)


def holds(case: Case, running: Running) -> None:
    if case.meta is not None and case.meta.generation.mode is GenerationMode.POSITIVE:
        make_likely(case, running.known)
    headers = {"Authorization": f"Bearer {token(ADMIN)}"}
    case.call_and_validate(base_url=running.url, headers=headers, checks=CHECKS)
