"""Traces, by OpenTelemetry: one booking followed from HTTP through command, log, relay and read models to the read.

In: what the parts of the house tell of themselves. Out: spans, by OTLP over HTTP, where a collector is named; otherwise
nothing is made of it. A row of the log has no room for a trace, and needs none: its correlation id is the trace id, and
the command's span is named by the last eight bytes of the command id, so that whoever reads the row can go on with the
trace, in whatever process (docs/decisions/0085-traces.md). Spans tell names of operations, positions and counts.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from hashlib import blake2b
from importlib.metadata import version
from typing import Any, Final
from uuid import UUID

from opentelemetry import context as contexts
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    get_current_span,
    set_span_in_context,
)
from starlette.types import Scope

from commands.loop import Answer, Command
from domain.ports import Context, EventLog, Recorded, Save, Saved
from domain.refusals import Refusal
from infra.event_log.rows import command_and_correlation_in
from infra.http.correlation import correlate, correlation_of, traced_by
from infra.ids import TimeOrderedIds
from infra.settings import Settings
from streams.relay import Outlet, Published, Row

_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
_RANDOM_BITS: Final = 56
_QUEUE: Final = 16_384
_EVERY_MS: Final = 1_000
_EXPORT_WITHIN: Final = 5.0
# A batch span names so many of the traces that it carries.
_LINKS: Final = 100
_METHODS: Final = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})


def command_span(command_id: UUID) -> int:
    """The id of the span of a command. The first bytes of a UUIDv7 are the time, the last are random and never 0."""
    return int.from_bytes(command_id.bytes[8:])


def relay_span(command_id: UUID) -> int:
    """The id of the span in which the relay publishes what a command wrote; the `traceparent` of its messages."""
    return int.from_bytes(blake2b(command_id.bytes, digest_size=8, person=b"relay").digest()) or 1


@asynccontextmanager
async def tracing(settings: Settings, service: str) -> AsyncIterator[Traces | None]:
    """Where no collector is named there are none. What has been gathered is sent before the end."""
    if not settings.otlp_endpoint:
        yield None
        return
    exporter = OTLPSpanExporter(f"{settings.otlp_endpoint.rstrip('/')}/v1/traces", timeout=_EXPORT_WITHIN)
    traces = Traces(exporter, service, settings.trace_ratio)
    try:
        yield traces
    finally:
        await asyncio.to_thread(traces.close)


class Traces:
    """Makes spans. What it is called with from several threads it takes."""

    def __init__(self, exporter: Any, service: str, ratio: float = 1.0) -> None:
        self._ids = _Ids()
        self._sampler = _ByTrace(ratio)
        resource = {"service.name": service, "service.namespace": "daybook", "service.version": version("daybook")}
        self._provider = TracerProvider(
            sampler=self._sampler, resource=Resource.create(resource), id_generator=self._ids, shutdown_on_exit=False
        )
        self._provider.add_span_processor(
            BatchSpanProcessor(exporter, max_queue_size=_QUEUE, schedule_delay_millis=_EVERY_MS)
        )
        self._tracer = self._provider.get_tracer("daybook")

    def close(self) -> None:
        self._provider.shutdown()

    # A request

    def asked(self, scope: Scope) -> _Asked:
        """Begin the span of a request. Its trace is the caller's, and what is written meanwhile stands under its id.

        Whether it is recorded is decided by the trace id alone, the same in every service: a caller's flag is a hint
        (Trace Context §3.2.2.5.1), and a stranger's must not make us record."""
        headers = scope["headers"]
        method = scope["method"] if scope["method"] in _METHODS else "other"
        if (caller := traced_by(headers)) is not None:
            span = self._span(method, SpanKind.SERVER, parent=_remote(*caller))
        else:
            given = correlation_of(headers)
            span = self._span(method, SpanKind.SERVER, trace=given.int if given else None)
        correlate(scope, UUID(int=span.get_span_context().trace_id))
        return _Asked(span, method)

    # A command (`commands.loop.Observer`)

    def began(self, command: Command, context: Context) -> Span | None:
        trace = context.correlation_id.int
        if not self._sampler.wants(trace):
            return None
        asked = _current()
        parent = asked if asked is not None and asked.trace_id == trace else None
        name = type(command).__name__
        return self._span(
            f"command {name}",
            SpanKind.INTERNAL,
            parent=parent,
            trace=None if parent else trace,
            span=command_span(context.command_id),
            attributes={"daybook.command": name},
        )

    def ended(self, begun: Span | None, answer: Answer | None, error: BaseException | None) -> None:
        if begun is None:
            return
        if answer is not None:
            begun.set_attributes({"daybook.position": answer.position, "daybook.replayed": answer.replayed})
        elif isinstance(error, Refusal):
            begun.set_attribute("daybook.refusal", error.code)
        elif error is not None:
            begun.set_status(Status(StatusCode.ERROR, type(error).__name__))
        begun.end()

    # The log

    def appending(self, context: Context) -> Span | None:
        trace = context.correlation_id.int
        if not self._sampler.wants(trace):
            return None
        return self._span("log append", SpanKind.CLIENT, parent=_ours(trace, command_span(context.command_id)))

    # Batches

    def relayed(self, rows: Sequence[Row], seconds: float) -> None:
        """A batch that was published, just now."""
        commands = _counted(
            (command, correlation, row.position)
            for row in rows
            if not _is_aside(row.stream.partition("/")[2])
            for command, correlation in [_ids_in(row)]
            if self._sampler.wants(correlation.int)
        )
        self._batch("relay publish", SpanKind.PRODUCER, commands, seconds, command_span, relay_span, len(rows))

    def applied(self, model: str, *, through_kafka: bool) -> Callable[[Sequence[Recorded], float], None]:
        """Follows what a read model applies."""
        above = relay_span if through_kafka else command_span

        def told(events: Sequence[Recorded], seconds: float) -> None:
            commands = _counted(
                (event.command_id, event.correlation_id, event.position)
                for event in events
                if self._sampler.wants(event.correlation_id.int) and not _is_aside(event.stream)
            )
            kind = SpanKind.CONSUMER if through_kafka else SpanKind.INTERNAL
            self._batch(f"project {model}", kind, commands, seconds, above, None, len(events))

        return told

    def _batch(
        self,
        name: str,
        kind: SpanKind,
        commands: Mapping[tuple[UUID, UUID], tuple[int, int]],
        seconds: float,
        above: Callable[[UUID], int],
        named: Callable[[UUID], int] | None,
        count: int,
    ) -> None:
        """A span for the batch, that names the traces in it, and in each of these one of its own."""
        if not commands:
            return
        end = time.time_ns()
        start = end - int(seconds * 1e9)
        links = [Link(_ours(trace.int, above(command))) for command, trace in list(commands)[:_LINKS]]
        batch = self._span(f"{name} batch", kind, links=links, start=start, attributes={"daybook.events": count})
        batch.end(end)
        for (command, trace), (position, events) in commands.items():
            self._span(
                name,
                kind,
                parent=_remote(trace.int, above(command)),
                span=named(command) if named else None,
                links=[Link(batch.get_span_context())],
                start=start,
                attributes={"daybook.position": position, "daybook.events": events},
            ).end(end)

    def _span(
        self,
        name: str,
        kind: SpanKind,
        *,
        parent: SpanContext | None = None,
        trace: int | None = None,
        span: int | None = None,
        links: Sequence[Link] = (),
        start: int | None = None,
        attributes: Mapping[str, str | int] | None = None,
    ) -> Span:
        above = (
            contexts.Context() if parent is None else set_span_in_context(NonRecordingSpan(parent), contexts.Context())
        )
        self._ids.next(trace, span)
        return self._tracer.start_span(
            name, above, kind, attributes, links, start, record_exception=False, set_status_on_exception=False
        )


class _Asked:
    """A request under way: what is done meanwhile stands below it."""

    def __init__(self, span: Span, method: str) -> None:
        self._span = span
        self._method = method
        self._token = contexts.attach(set_span_in_context(span))

    def answered(self, scope: Scope, status: int) -> None:
        span = self._span
        if span.is_recording():
            operation = getattr(scope.get("route"), "name", "")
            span.update_name(f"{self._method} {operation}".rstrip())
            span.set_attributes(
                {
                    "http.request.method": self._method,
                    "http.response.status_code": status,
                    "http.route": getattr(scope.get("route"), "path", ""),
                }
            )
            if status >= 500:
                span.set_status(Status(StatusCode.ERROR))
        span.end()
        contexts.detach(self._token)


class TracedLog:
    """The log, with a span for each save. Implements `domain.ports.EventLog`."""

    def __init__(self, log: EventLog, traces: Traces) -> None:
        self._log = log
        self._traces = traces

    async def append(self, save: Save) -> Saved:
        span = self._traces.appending(save.context)
        if span is None:
            return await self._log.append(save)
        span.set_attributes({"daybook.events": len(save.events), "daybook.streams": len(save.expected)})
        try:
            saved = await self._log.append(save)
            span.set_attribute("daybook.position", saved.position)
            return saved
        except BaseException as error:
            span.set_status(Status(StatusCode.ERROR, type(error).__name__))
            raise
        finally:
            span.end()

    async def key_for(self, organization: str, person: UUID) -> None:
        await self._log.key_for(organization, person)

    async def remembered(self, organization: str, actor: str, key: str, body_hash: bytes) -> Saved | None:
        return await self._log.remembered(organization, actor, key, body_hash)

    async def load(
        self, organization: str, after: Mapping[str, int], *, upto: int | None = None
    ) -> Mapping[str, Sequence[Recorded]]:
        return await self._log.load(organization, after, upto=upto)

    async def streams(
        self, organization: str, first: str, last: str, *, limit: int | None = None, backwards: bool = False
    ) -> Sequence[str]:
        return await self._log.streams(organization, first, last, limit=limit, backwards=backwards)

    async def read(self, after: int, limit: int) -> Sequence[Recorded]:
        return await self._log.read(after, limit)

    async def head(self) -> int:
        return await self._log.head()

    async def wait(self, after: int, timeout: float) -> int:
        return await self._log.wait(after, timeout)

    async def position_at(self, instant: datetime) -> int:
        return await self._log.position_at(instant)


class TracedOutlet:
    """The relay's outlet, with spans for each batch. Implements `streams.relay.Outlet`."""

    def __init__(self, outlet: Outlet, traces: Traces) -> None:
        self._outlet = outlet
        self._traces = traces

    async def open(self) -> Published:
        return await self._outlet.open()

    async def publish(self, after: int, rows: Sequence[Row]) -> None:
        began = time.monotonic()
        await self._outlet.publish(after, rows)
        self._traces.relayed(rows, time.monotonic() - began)

    async def close(self) -> None:
        await self._outlet.close()


class _Ids(IdGenerator):
    """Ids by chance, unless the next ones are said beforehand, in the same thread."""

    def __init__(self) -> None:
        self._next = threading.local()
        self._new = TimeOrderedIds()

    def next(self, trace: int | None, span: int | None) -> None:
        self._next.trace, self._next.span = trace, span

    def generate_trace_id(self) -> int:
        return getattr(self._next, "trace", None) or self._new.new().int

    def generate_span_id(self) -> int:
        return getattr(self._next, "span", None) or int.from_bytes(self._new.new().bytes[8:])

    def is_trace_id_random(self) -> bool:
        return False


class _ByTrace(Sampler):
    """Decides by the trace id alone, so that every service decides alike; a batch is wanted when a trace in it is.

    The last 56 bits are random (Trace Context Level 2 §3.2.2.3.2), in a UUIDv4 and a UUIDv7 too."""

    def __init__(self, ratio: float) -> None:
        self._below = int(ratio * (1 << _RANDOM_BITS))

    def wants(self, trace: int) -> bool:
        return trace & ((1 << _RANDOM_BITS) - 1) < self._below

    def should_sample(
        self,
        parent_context: contexts.Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Any = None,
        links: Sequence[Link] | None = None,
        trace_state: Any = None,
    ) -> SamplingResult:
        wanted = bool(links) or self.wants(trace_id)
        return SamplingResult(Decision.RECORD_AND_SAMPLE if wanted else Decision.DROP, attributes)

    def get_description(self) -> str:
        return f"by the trace id, {self._below / (1 << _RANDOM_BITS)}"


def _current() -> SpanContext | None:
    context = get_current_span().get_span_context()
    return context if context.is_valid else None


def _ours(trace: int, span: int) -> SpanContext:
    return SpanContext(trace, span, is_remote=False, trace_flags=_SAMPLED)


def _remote(trace: int, span: int) -> SpanContext:
    return SpanContext(trace, span, is_remote=True, trace_flags=_SAMPLED)


def _is_aside(stream: str) -> bool:
    """Looks and origins change no read model, and no command's span stands above them."""
    return stream.startswith(("look/", "origin/"))


def _ids_in(row: Row) -> tuple[UUID, UUID]:
    command, correlation = command_and_correlation_in(row.data)
    return UUID(bytes=bytes(command)), UUID(bytes=bytes(correlation))


def _counted(found: Iterable[tuple[UUID, UUID, int]]) -> dict[tuple[UUID, UUID], tuple[int, int]]:
    """By command and trace: the last position, and how many events."""
    counted: dict[tuple[UUID, UUID], tuple[int, int]] = {}
    for command, trace, position in found:
        counted[command, trace] = (position, counted.get((command, trace), (0, 0))[1] + 1)
    return counted
