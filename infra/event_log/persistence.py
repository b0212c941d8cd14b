"""The log as a persistence module of the `eventsourcing` library: `PERSISTENCE_MODULE=infra.event_log.persistence`.

In: the library's stored events. Out: the same, from the same writer and reader that the asynchronous port uses, run by
an event loop in a thread of its own.

Environment, each name also with an application's name in front (`COUNTERS_POSTGRES_DSN`):

- `POSTGRES_DSN`: the database, entered as the application's role. One database holds one log, so two applications that
  need sequences of their own need a database each.
- `POSTGRES_OWNER_DSN`: where given and `CREATE_TABLE` is not off, migrations run through it first.
- `ORIGINATOR_ID_TYPE`: `uuid` (default) or `text`. A text id is a stream's full name, `organization/kind/id`; an id
  without a slash, as every UUID is, stands under `default/aggregate/`.

`insert_events` takes `context` (a `domain.ports.Context`), `occurred_at` (one aware instant) and `event_ids`; without
them the events stand under the organization `default`, by the actor `eventsourcing`, as true now.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final, Literal, TypeVar, cast
from uuid import UUID

import psycopg
import uuid_utils.compat as uuids
from eventsourcing.persistence import (
    AggregateRecorder,
    ApplicationRecorder,
    DataError,
    InfrastructureFactory,
    IntegrityError,
    ListenNotifySubscription,
    Notification,
    OperationalError,
    ProcessRecorder,
    ProgrammingError,
    StoredEvent,
    Subscription,
    Tracking,
    TrackingRecorder,
)
from eventsourcing.utils import Environment, EnvType, resolve_topic, strtobool
from psycopg_pool import ConnectionPool

from domain.ports import Context, KeyReused, LogUnavailable, Saved, VersionConflict
from domain.refusals import Invalid
from infra.clock import DatabaseClock
from infra.event_log.connections import Connections, application_name
from infra.event_log.rows import Author, author, draft
from infra.event_log.schema import migrate
from infra.event_log.watch import Watch
from infra.event_log.writer import Tracked, TrackingConflict, Writer

DEFAULT_ORGANIZATION: Final = "default"
DEFAULT_ACTOR: Final = "eventsourcing"
_PLAIN: Final = f"{DEFAULT_ORGANIZATION}/aggregate/"
_NO_END: Final = 2**63 - 1

_EVENTS = (
    "SELECT stream, version, name, payload FROM all_events WHERE stream = %s AND version > %s AND version <= %s"
    " AND NOT EXISTS (SELECT FROM archived_streams AS s WHERE s.stream = %s AND s.gone > %s AND refuse_detached())"
)
_SNAPSHOTS = "SELECT stream, version, name, payload FROM snapshots WHERE stream = %s AND version > %s AND version <= %s"
_ORDER = {False: " ORDER BY version LIMIT %s", True: " ORDER BY version DESC LIMIT %s"}
_NOTIFICATIONS = (
    "SELECT stream, version, name, payload, position FROM all_events WHERE position >= %s AND position <= %s"
    " AND (%s::text[] = '{}' OR name = ANY(%s::text[]))"
    " AND NOT EXISTS (SELECT FROM archive_parts AS p WHERE p.detached_at IS NOT NULL AND p.upto >= %s"
    " AND refuse_detached()) ORDER BY position LIMIT %s"
)
_INSERT_SNAPSHOTS = (
    "INSERT INTO snapshots (stream, version, name, payload)"
    " SELECT * FROM unnest(%s::text[], %s::bigint[], %s::text[], %s::bytea[])"
)
_TRACK = (
    "INSERT INTO tracking (application, position) VALUES (%s, %s)"
    " ON CONFLICT (application) DO UPDATE SET position = excluded.position"
    " WHERE tracking.position < excluded.position RETURNING position"
)
_TRACKED = "SELECT position FROM tracking WHERE application = %s"

T = TypeVar("T")


class Engine:
    """The writer and the reader in an event loop of their own. Started by the first question, stopped by `close`."""

    def __init__(self, dsn: str, patience: float, readers: int = 4) -> None:
        self._dsn = dsn
        self._patience = patience
        self._readers = readers
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._guard = threading.Lock()
        self._closed = False
        self._writer: Writer | None = None
        self._watch: Watch | None = None
        self._connections: Connections | None = None

    def run(self, work: Callable[[Writer, Connections], Coroutine[Any, Any, T]]) -> T:
        """Do `work` in the loop and wait for it. Errors come out as the library's."""
        loop = self._started()
        if self._writer is None or self._connections is None:
            raise ProgrammingError("the log is closed")
        with _library_errors():
            return asyncio.run_coroutine_threadsafe(work(self._writer, self._connections), loop).result()

    def listen(self, listener: Callable[[int], None]) -> Callable[[], None]:
        """Call `listener` with every new head, from the loop's thread. Returns how to stop it."""
        loop = self._started()
        watch = self._watch
        if watch is None:
            raise ProgrammingError("the log is closed")
        loop.call_soon_threadsafe(watch.listeners.add, listener)

        def stop() -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(watch.listeners.discard, listener)

        return stop

    def close(self) -> None:
        """Finish the saves under way and stop the loop."""
        if (stopping := self._stop()) is not None:
            stopping.join()

    def abandon(self) -> None:
        """Like `close`, but waits for nothing: for the garbage collector, which may call it in any thread."""
        self._stop()

    def _stop(self) -> threading.Thread | None:
        self._closed = True
        loop, thread = self._loop, self._thread
        self._loop = self._thread = None
        if loop is not None:
            asyncio.run_coroutine_threadsafe(self._close(), loop).add_done_callback(
                lambda _: loop.call_soon_threadsafe(loop.stop)
            )
        return thread

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._guard:
            if self._closed:
                raise ProgrammingError("the log is closed")
            if self._loop is None:
                loop = asyncio.new_event_loop()
                thread = threading.Thread(target=_run, args=(loop,), name="event log", daemon=True)
                thread.start()
                try:
                    with _library_errors():
                        asyncio.run_coroutine_threadsafe(self._open(), loop).result()
                except BaseException:
                    loop.call_soon_threadsafe(loop.stop)
                    thread.join()
                    raise
                self._loop, self._thread = loop, thread
            return self._loop

    async def _open(self) -> None:
        clock = DatabaseClock()
        self._watch = Watch(self._dsn, clock)
        self._writer = Writer(self._dsn, clock, on_commit=self._watch.advance, patience=self._patience)
        self._connections = Connections(self._dsn, "reader", size=self._readers, patience=self._patience)
        await self._watch.open(self._patience)
        self._writer.start()

    async def _close(self) -> None:
        if self._writer and self._watch and self._connections:
            await self._writer.close()
            await self._watch.close()
            await self._connections.close()


def _run(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
    finally:
        loop.close()


@contextmanager
def _library_errors() -> Iterator[None]:
    try:
        yield
    except (VersionConflict, TrackingConflict, KeyReused, psycopg.IntegrityError) as error:
        raise IntegrityError(str(error)) from error
    except (LogUnavailable, psycopg.OperationalError) as error:
        raise OperationalError(str(error)) from error
    except (Invalid, psycopg.DataError) as error:
        raise DataError("the log can't hold this") from error


class Datastore:
    """What the recorders of one factory share."""

    def __init__(
        self,
        dsn: str,
        originator_id_type: Literal["uuid", "text"] = "uuid",
        *,
        patience: float = 5.0,
        readers: int = 4,
        transactions: int = 4,
    ) -> None:
        """`patience` is how many seconds a question may take before `OperationalError`. Beside the writer and the watch
        there are at most `readers` connections for the log and `transactions` for read models."""
        self.engine = Engine(dsn, patience, readers)
        self._ids = originator_id_type
        session = {"autocommit": True, "application_name": application_name(dsn, "library")}
        self._pool = ConnectionPool(dsn, min_size=0, max_size=transactions, open=False, kwargs=session)
        # Recorders outlive their factory, so it is with the last of them that the connections go.
        weakref.finalize(self, self.engine.abandon)

    @contextmanager
    def transaction(self) -> Iterator[psycopg.Cursor[Any]]:
        """A transaction of the caller's own, for read models that keep their position beside their rows."""
        self._pool.open()
        with _library_errors(), self._pool.connection() as connection, connection.transaction():
            yield connection.cursor()

    def close(self) -> None:
        self.engine.close()
        self._pool.close()

    def stream(self, originator_id: UUID | str) -> str:
        """The full name of a stream by its id in the library."""
        name = str(originator_id)
        return name if "/" in name else _PLAIN + name

    def originator_id(self, stream: str) -> UUID | str:
        """A stream's id in the library. Raises `ProgrammingError` when a UUID is wanted and there is none."""
        name = stream.removeprefix(_PLAIN)
        if self._ids == "text":
            return name
        try:
            return UUID(name)
        except ValueError:
            raise ProgrammingError("the log holds streams that are not UUIDs; set ORIGINATOR_ID_TYPE=text") from None


class LogAggregateRecorder(AggregateRecorder):
    """The log without its positions, or, for the purpose `snapshots`, the table of snapshots."""

    def __init__(self, datastore: Datastore, *, purpose: str = "events") -> None:
        if purpose not in ("events", "snapshots"):
            raise ProgrammingError(f"the log keeps events and snapshots, not {purpose}")
        self.datastore = datastore
        self._snapshots = purpose == "snapshots"

    def insert_events(self, stored_events: Sequence[StoredEvent], **kwargs: Any) -> Sequence[int] | None:
        if self._snapshots:
            self._insert_snapshots(stored_events)
        else:
            self._append(stored_events, **kwargs)
        return None

    def select_events(
        self,
        originator_id: UUID | str,
        *,
        gt: int | None = None,
        lte: int | None = None,
        desc: bool = False,
        limit: int | None = None,
    ) -> Sequence[StoredEvent]:
        query = (_SNAPSHOTS if self._snapshots else _EVENTS) + _ORDER[desc]
        stream, after = self.datastore.stream(originator_id), -1 if gt is None else gt
        again = () if self._snapshots else (stream, after)
        parameters = (stream, after, _NO_END if lte is None else lte, *again, limit)
        rows = self.datastore.engine.run(lambda writer, reader: reader.fetch(query, parameters))
        return [
            StoredEvent(self.datastore.originator_id(stream), version, name, payload)
            for stream, version, name, payload in rows
        ]

    def _insert_snapshots(self, stored_events: Sequence[StoredEvent]) -> None:
        columns = (
            [self.datastore.stream(stored.originator_id) for stored in stored_events],
            [stored.originator_version for stored in stored_events],
            [stored.topic for stored in stored_events],
            [stored.state for stored in stored_events],
        )
        self.datastore.engine.run(lambda writer, reader: reader.fetch(_INSERT_SNAPSHOTS, columns))

    def _append(
        self,
        stored_events: Sequence[StoredEvent],
        *,
        context: Context | None = None,
        occurred_at: datetime | None = None,
        event_ids: Sequence[UUID] | None = None,
        tracking: Tracking | None = None,
        **_: Any,
    ) -> Saved | None:
        if not stored_events and tracking is None:
            return None
        if context is None:
            context = Context(DEFAULT_ORGANIZATION, DEFAULT_ACTOR, uuids.uuid7(), uuids.uuid7())
        when = occurred_at or datetime.now(UTC)
        ids = event_ids or [uuids.uuid7() for _ in stored_events]
        streams = [self.datastore.stream(stored.originator_id) for stored in stored_events]
        with _library_errors():
            drafts = [
                draft(_author(stream, context), stream, event_id, stored.topic, stored.state, when)
                for stream, stored, event_id in zip(streams, stored_events, ids, strict=True)
            ]
        versions = [stored.originator_version for stored in stored_events]
        tracked = Tracked(tracking.application_name, tracking.notification_id) if tracking is not None else None
        return self.datastore.engine.run(
            lambda writer, reader: writer.submit({}, drafts, versions=versions, tracked=tracked)
        )


@lru_cache(maxsize=256)
def _author(stream: str, context: Context) -> Author:
    organization = stream.partition("/")[0]
    if organization != context.organization:
        raise ProgrammingError("a stream belongs to the organization that its name starts with")
    return author(
        organization=organization,
        actor=context.actor,
        on_behalf_of=context.on_behalf_of,
        purpose=context.purpose,
        command_id=context.command_id,
        correlation_id=context.correlation_id,
        causation_id=context.causation_id,
    )


class LogApplicationRecorder(LogAggregateRecorder, ApplicationRecorder):
    """The log with its positions, which are the library's notification ids."""

    def insert_events(self, stored_events: Sequence[StoredEvent], **kwargs: Any) -> Sequence[int] | None:
        saved = self._append(stored_events, **kwargs)
        return list(saved.positions) if saved is not None else None

    def select_notifications(
        self,
        start: int | None,
        limit: int,
        stop: int | None = None,
        topics: Sequence[str] = (),
        *,
        inclusive_of_start: bool = True,
    ) -> Sequence[Notification]:
        first = 0 if start is None else start if inclusive_of_start else start + 1
        names = list(topics)
        parameters = (first, _NO_END if stop is None else stop, names, names, first, limit)
        rows = self.datastore.engine.run(lambda writer, reader: reader.fetch(_NOTIFICATIONS, parameters))
        return [
            Notification(self.datastore.originator_id(stream), version, name, payload, id=position)
            for stream, version, name, payload, position in rows
        ]

    def max_notification_id(self) -> int | None:
        rows = self.datastore.engine.run(lambda writer, reader: reader.fetch("SELECT position FROM log_head"))
        return rows[0][0] or None

    def subscribe(self, gt: int | None = None, topics: Sequence[str] = ()) -> Subscription[ApplicationRecorder]:
        return LogSubscription(self, gt=gt, topics=topics)


class LogSubscription(ListenNotifySubscription[LogApplicationRecorder]):
    """Wakes with the log's head, without a connection or a thread of its own for listening."""

    def __init__(self, recorder: LogApplicationRecorder, gt: int | None = None, topics: Sequence[str] = ()) -> None:
        super().__init__(recorder=recorder, gt=gt, topics=topics)
        self._stop_listening = recorder.datastore.engine.listen(self._wake)
        # What was committed between the first pull and now has woken nobody.
        self._has_been_notified.set()

    def stop(self) -> None:
        super().stop()
        # The first pull may fail, and stop this, before there is anything to stop.
        if stop := getattr(self, "_stop_listening", None):
            stop()

    def _wake(self, position: int) -> None:
        self._has_been_notified.set()


class LogTrackingRecorder(TrackingRecorder):
    """Positions of followers. A read model inherits from it and keeps its rows in the same `transaction`."""

    def __init__(self, datastore: Datastore, **_: Any) -> None:
        self.datastore = datastore

    def insert_tracking(self, tracking: Tracking) -> None:
        with self.datastore.transaction() as cursor:
            self._insert_tracking(cursor, tracking)

    def _insert_tracking(self, cursor: psycopg.Cursor[Any], tracking: Tracking) -> None:
        """Inside a transaction of the caller's. Raises `IntegrityError` for a position that is not later."""
        cursor.execute(_TRACK, (tracking.application_name, tracking.notification_id))
        if cursor.fetchone() is None:
            raise IntegrityError("the position was tracked before")

    def max_tracking_id(self, application_name: str) -> int | None:
        with self.datastore.transaction() as cursor:
            row = cursor.execute(_TRACKED, (application_name,)).fetchone()
        return None if row is None else row[0]


class LogProcessRecorder(LogTrackingRecorder, LogApplicationRecorder, ProcessRecorder):
    """Events together with the position that led to them, in one save: `insert_events(…, tracking=…)`."""

    def __init__(self, datastore: Datastore) -> None:
        LogApplicationRecorder.__init__(self, datastore)


class LogFactory(InfrastructureFactory[LogTrackingRecorder]):
    """Makes recorders over one writer and one reader. Close it, or leave its `with` block, when done."""

    POSTGRES_DSN = "POSTGRES_DSN"
    POSTGRES_OWNER_DSN = "POSTGRES_OWNER_DSN"
    ORIGINATOR_ID_TYPE = "ORIGINATOR_ID_TYPE"
    CREATE_TABLE = "CREATE_TABLE"

    def __init__(self, env: Environment | EnvType | None) -> None:
        """Raises `EnvironmentError` when the environment says too little or something else than it may."""
        super().__init__(env)
        dsn = self.env.get(self.POSTGRES_DSN)
        if not dsn:
            raise OSError(f"{self.POSTGRES_DSN} names no database")
        ids = self.env.get(self.ORIGINATOR_ID_TYPE, "uuid").lower()
        if ids not in ("uuid", "text"):
            raise OSError(f"{self.ORIGINATOR_ID_TYPE} is uuid or text")
        owner = self.env.get(self.POSTGRES_OWNER_DSN)
        if owner and strtobool(self.env.get(self.CREATE_TABLE) or "yes"):
            with _library_errors():
                migrate(owner)
        self.datastore = Datastore(dsn, cast(Literal["uuid", "text"], ids))

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.close()

    def close(self) -> None:
        self.datastore.close()

    def aggregate_recorder(self, purpose: str = "events") -> AggregateRecorder:
        return LogAggregateRecorder(self.datastore, purpose=purpose)

    def application_recorder(self) -> ApplicationRecorder:
        topic = self.env.get(self.APPLICATION_RECORDER_TOPIC)
        kind: type[LogApplicationRecorder] = resolve_topic(topic) if topic else LogApplicationRecorder
        return kind(self.datastore)

    def tracking_recorder(self, tracking_recorder_class: type[LogTrackingRecorder] | None = None) -> Any:
        if tracking_recorder_class is None:
            topic = self.env.get(self.TRACKING_RECORDER_TOPIC)
            tracking_recorder_class = resolve_topic(topic) if topic else LogTrackingRecorder
        return tracking_recorder_class(self.datastore)

    def process_recorder(self) -> ProcessRecorder:
        topic = self.env.get(self.PROCESS_RECORDER_TOPIC)
        kind: type[LogProcessRecorder] = resolve_topic(topic) if topic else LogProcessRecorder
        return kind(self.datastore)
