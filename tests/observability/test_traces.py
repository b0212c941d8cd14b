"""One booking followed from the request to the read, as a collector gets to know it from the processes themselves."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult

from commands.loop import Desk
from domain.access import Role
from infra.bench.served import Served, folder, free_port, open_clinic, running
from infra.event_log.log import PostgresEventLog
from infra.event_log.raw import RawLog
from infra.holidays import PublicHolidays
from infra.ids import TimeOrderedIds
from infra.kafka.messages import headers_of
from infra.keyring import MasterKeyFile, PostgresKeyring
from infra.settings import MODELS
from infra.traces import TracedOutlet, Traces, command_span, relay_span
from streams.relay import Published, Row
from tests.clinic import open_clinic as open_clinic_at
from tests.conftest import Database
from tests.house import PATIENCE, FullHouse, House
from tests.observability.collector import Collector, Span, collecting

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{CALLER}-01"
DAYBOOK = [sys.executable, "-m", "infra.cli.main"]


@contextmanager
def embedded(**environ: str) -> Iterator[Served]:
    with folder("traces") as data:
        port = free_port()
        environ = {"DATA": str(data), "PORT": str(port), **environ}
        with running([*DAYBOOK, "serve"], port, "/health/ready", **environ):
            mint = [*DAYBOOK, "token", "--role", "admin", "--org", "bench"]
            token = subprocess.run(mint, env={**os.environ, **environ}, check=True, capture_output=True, text=True)
            yield Served("127.0.0.1", port, data, token.stdout.strip().splitlines()[-1])


def book_and_read(served: Served, read_url: str = "", **headers: str) -> tuple[httpx.Response, httpx.Response]:
    clinic = open_clinic(served, providers=1, patients=1)
    provider, start = next(clinic.slots())
    with served.client() as client:
        booked = client.post(
            "/write/appointments",
            json={
                "patient_id": clinic.patients[0],
                "provider_id": provider,
                "location_id": str(clinic.location_id),
                "visit_type_id": str(clinic.visit_type_id),
                "start": start.isoformat(),
            },
            headers=headers,
        )
        assert booked.status_code == 201
        url = f"{read_url}/read/appointments/{booked.json()['appointment_id']}"
        after = {"Read-After": booked.headers["position"]}
        # A busy machine may take longer than a reader is let wait; the reading that is followed waits no more.
        give_up = time.monotonic() + PATIENCE
        while client.get(url, headers=after).status_code == 503:
            assert time.monotonic() < give_up
            time.sleep(0.1)
        read = client.get(url, headers={**headers, **after})
        assert read.status_code == 200
        return booked, read


def one(spans: list[Span], name: str) -> Span:
    (found,) = [span for span in spans if span.name == name]
    return found


def test_one_booking_is_one_trace_from_the_request_to_the_read(watched: tuple[House, Collector]) -> None:
    house, collector = watched
    full = isinstance(house, FullHouse)
    write, read = (httpx.URL(url).port or 0 for url in (house.write_url, house.read_url))
    token = house.token("bench", Role.ADMIN)
    booked, _ = book_and_read(
        Served("127.0.0.1", write, house.folder, token), f"http://127.0.0.1:{read}", traceparent=TRACEPARENT
    )
    assert booked.headers["x-request-id"] == str(UUID(TRACE))
    wanted = {"GET read_appointment", *(f"project {model}" for model in MODELS)}
    collector.wait(lambda spans: wanted <= {span.name for span in spans if span.trace == TRACE}, PATIENCE)
    spans = collector.of(TRACE)
    asked, command, append = (
        one(spans, name) for name in ("POST book_appointment", "command BookAppointment", "log append")
    )
    assert (asked.parent, command.parent, append.parent) == (CALLER, asked.id, command.id)
    assert asked.attributes["http.response.status_code"] == 201
    assert command.attributes["daybook.position"] == append.attributes["daybook.position"]
    assert append.attributes["daybook.events"] == 3
    assert asked.start <= command.start <= append.start < append.end <= command.end <= asked.end
    above = command
    if full:
        above = one(spans, "relay publish")
        assert (above.service, above.parent) == ("relay", command.id)
        assert above.end >= append.end
    for model in MODELS:
        # A booking's streams may lie in several parts, which a worker may take at different times.
        for projected in (span for span in spans if span.name == f"project {model}"):
            assert (projected.service, projected.parent) == (f"work-{model}" if full else "daybook", above.id)
            batch = next(span for span in collector.spans if span.id in projected.links)
            assert (batch.name, above.id in batch.links) == (f"project {model} batch", True)
            assert batch.trace != TRACE
    seen = one(spans, "GET read_appointment")
    assert (seen.service, seen.parent) == ("read-api" if full else "daybook", CALLER)
    assert asked.service == ("write-api" if full else "daybook")
    assert not any(span.failed for span in spans)


def test_without_a_caller_s_trace_the_request_id_is_the_trace() -> None:
    given = uuid4()
    with collecting() as collector, embedded(DAYBOOK_OTLP_ENDPOINT=collector.url) as served:
        booked, _ = book_and_read(served, **{"X-Request-Id": str(given)})
        assert booked.headers["x-request-id"] == str(given)
        with served.client() as client:
            alone = client.post("/write/patients", json={})
        own = UUID(alone.headers["x-request-id"]).hex
        collector.wait(
            lambda spans: {"GET read_appointment"} <= {span.name for span in spans if span.trace == given.hex}
        )
        collector.wait(lambda spans: any(span.name == "log append" and span.trace == own for span in spans))
    assert one(collector.of(given.hex), "POST book_appointment").parent == ""
    assert (
        one(collector.of(own), "command RegisterPatient").parent == one(collector.of(own), "POST register_patient").id
    )


def test_traces_that_are_not_wanted_are_not_made() -> None:
    with collecting() as collector:
        with embedded(DAYBOOK_OTLP_ENDPOINT=collector.url, DAYBOOK_TRACE_RATIO="0") as served:
            book_and_read(served, traceparent=TRACEPARENT)
        assert collector.spans == []


class _Kept:
    """An exporter that keeps what it gets."""

    def __init__(self) -> None:
        self.spans: list[Any] = []

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.spans += spans
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        pass


@pytest.mark.parametrize("ratio", [0.1, 0.5])
def test_every_process_decides_alike_by_the_trace_alone(ratio: float) -> None:
    here, there = Traces(_Kept(), "here", ratio), Traces(_Kept(), "there", ratio)
    traces = [uuid4().int for _ in range(4_000)]
    wanted = [trace for trace in traces if here._sampler.wants(trace)]
    assert wanted == [trace for trace in traces if there._sampler.wants(trace)]
    assert abs(len(wanted) / len(traces) - ratio) < 0.05


async def test_the_relay_and_a_worker_go_on_with_a_trace_from_the_row_alone(database: Database, tmp_path: Path) -> None:
    keyring = PostgresKeyring(database.app, MasterKeyFile.at(tmp_path / "master.key"))
    kept = _Kept(), _Kept()
    relay, worker = Traces(kept[0], "relay"), Traces(kept[1], "work-diary")
    async with PostgresEventLog(database.app, keyring) as log, RawLog(database.app) as raw:
        clinic = await open_clinic_at(Desk(log, log.clock, TimeOrderedIds(), PublicHolidays()))
        assert clinic.patients
        rows = await raw.rows(0, 100)
        events = await log.read(0, 100)
        await TracedOutlet(_Nowhere(), relay).publish(0, rows)
        worker.applied("diary", through_kafka=True)(events, 0.01)
    for traces in (relay, worker):
        traces.close()
    await keyring.close()
    last = events[-1]
    published = {span.context.span_id: span for span in kept[0].spans if span.name == "relay publish"}
    assert len(published) == len({event.command_id for event in events})
    ours = published[relay_span(last.command_id)]
    assert (ours.context.trace_id, ours.parent.span_id) == (last.correlation_id.int, command_span(last.command_id))
    assert dict(headers_of(rows[-1]))["traceparent"].decode() == (
        f"00-{last.correlation_id.hex}-{command_span(last.command_id):016x}-01"
    )
    projected = [span for span in kept[1].spans if span.context.trace_id == last.correlation_id.int]
    assert [(span.name, span.parent.span_id) for span in projected] == [("project diary", ours.context.span_id)]


class _Nowhere:
    async def open(self) -> Published:
        return Published(0)

    async def publish(self, after: int, rows: Sequence[Row]) -> None:
        pass

    async def close(self) -> None:
        pass
