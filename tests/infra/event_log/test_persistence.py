"""The `eventsourcing` library's own test cases, against this log.

Not taken over: `TaggedDecisionCountersProjectionTestCase`, which is about dynamic consistency boundaries: another kind
of recorder, without streams and versions. `TranscoderTestCase` and the mapper's are about code of the library alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, ClassVar
from unittest import mock
from uuid import UUID, uuid4

import psycopg
import pytest
from eventsourcing.persistence import (
    DataError,
    IntegrityError,
    OperationalError,
    ProgrammingError,
    StoredEvent,
    Tracking,
)

# The cases are named through their modules, since pytest would run those that it finds by name in this one.
from eventsourcing.tests import application, persistence, projection
from eventsourcing.utils import Environment

from domain.ports import Context
from infra.event_log.log import PostgresEventLog
from infra.event_log.persistence import (
    Datastore,
    LogAggregateRecorder,
    LogApplicationRecorder,
    LogFactory,
    LogProcessRecorder,
    LogTrackingRecorder,
)
from tests.conftest import Database, fresh_database
from tests.infra.event_log.conftest import notes

MODULE = "infra.event_log.persistence"


@pytest.fixture
def datastore(request: pytest.FixtureRequest, database: Database) -> Iterator[Datastore]:
    datastore = Datastore(database.app)
    if request.instance is not None:
        request.instance.datastore = datastore
    yield datastore
    datastore.close()


@pytest.fixture
def environment(request: pytest.FixtureRequest, database: Database) -> Iterator[Database]:
    """The environment variables of an application whose database is this one."""
    if request.instance is not None:
        request.instance.database = database
    with mock.patch.dict(os.environ, PERSISTENCE_MODULE=MODULE, POSTGRES_DSN=database.app):
        yield database


@pytest.fixture
def second_database(postgres: str, template: str) -> Iterator[Database]:
    with fresh_database(postgres, template) as database:
        yield database


@pytest.mark.usefixtures("datastore")
class TestAggregateRecorder(persistence.AggregateRecorderTestCase):
    datastore: Datastore

    def create_recorder(self) -> LogAggregateRecorder:
        return LogAggregateRecorder(self.datastore)


@pytest.mark.usefixtures("datastore")
class TestSnapshotRecorder(persistence.AggregateRecorderTestCase):
    datastore: Datastore

    def create_recorder(self) -> LogAggregateRecorder:
        return LogAggregateRecorder(self.datastore, purpose="snapshots")


@pytest.mark.usefixtures("datastore")
class TestApplicationRecorder(persistence.ApplicationRecorderTestCase[LogApplicationRecorder]):
    datastore: Datastore

    def create_recorder(self) -> LogApplicationRecorder:
        return LogApplicationRecorder(self.datastore)

    def test_insert_subscribe(self) -> None:
        self.optional_test_insert_subscribe()


@pytest.mark.usefixtures("datastore")
class TestTrackingRecorder(persistence.TrackingRecorderTestCase):
    datastore: Datastore

    def create_recorder(self) -> LogTrackingRecorder:
        return LogTrackingRecorder(self.datastore)


@pytest.mark.usefixtures("datastore")
class TestProcessRecorder(persistence.ProcessRecorderTestCase):
    datastore: Datastore

    def create_recorder(self) -> LogProcessRecorder:
        return LogProcessRecorder(self.datastore)


@pytest.mark.usefixtures("datastore")
class TestNonInterleaving(persistence.NonInterleavingNotificationIDsBaseCase):
    datastore: Datastore

    def create_recorder(self) -> LogApplicationRecorder:
        return LogApplicationRecorder(self.datastore)


class OwnTrackingRecorder(LogTrackingRecorder):
    pass


@pytest.mark.usefixtures("environment")
class TestFactory(persistence.InfrastructureFactoryTestCase[LogFactory]):
    database: Database

    def setUp(self) -> None:
        self.env = Environment("TestCase", {"PERSISTENCE_MODULE": MODULE, "POSTGRES_DSN": self.database.app})
        super().setUp()

    def expected_factory_class(self) -> type[LogFactory]:
        return LogFactory

    def expected_aggregate_recorder_class(self) -> type[LogAggregateRecorder]:
        return LogAggregateRecorder

    def expected_application_recorder_class(self) -> type[LogApplicationRecorder]:
        return LogApplicationRecorder

    def expected_tracking_recorder_class(self) -> type[LogTrackingRecorder]:
        return LogTrackingRecorder

    def tracking_recorder_subclass(self) -> type[LogTrackingRecorder]:
        return OwnTrackingRecorder

    def expected_process_recorder_class(self) -> type[LogProcessRecorder]:
        return LogProcessRecorder


@pytest.mark.usefixtures("environment")
class TestExampleApplication(application.ExampleApplicationTestCase):
    expected_factory_topic = f"{MODULE}:LogFactory"


@pytest.mark.usefixtures("environment")
class TestApplication(application.ApplicationTestCase):
    pass


class EventCounters(LogTrackingRecorder, projection.EventCountersView):
    """A read model that keeps its counts and its position in one transaction."""

    def __init__(self, datastore: Datastore, **kwargs: Any) -> None:
        super().__init__(datastore, **kwargs)
        with datastore.transaction() as cursor:
            cursor.execute("CREATE TABLE IF NOT EXISTS counters (name text PRIMARY KEY, count bigint NOT NULL)")

    def get_created_event_counter(self) -> int:
        return self._count("created")

    def get_subsequent_event_counter(self) -> int:
        return self._count("subsequent")

    def incr_created_event_counter(self, tracking: Tracking) -> None:
        self._increment("created", tracking)

    def incr_subsequent_event_counter(self, tracking: Tracking) -> None:
        self._increment("subsequent", tracking)

    def _count(self, name: str) -> int:
        with self.datastore.transaction() as cursor:
            row = cursor.execute("SELECT count FROM counters WHERE name = %s", (name,)).fetchone()
        return row[0] if row else 0

    def _increment(self, name: str, tracking: Tracking) -> None:
        with self.datastore.transaction() as cursor:
            self._insert_tracking(cursor, tracking)
            cursor.execute(
                "INSERT INTO counters VALUES (%s, 1) ON CONFLICT (name) DO UPDATE SET count = counters.count + 1",
                (name,),
            )


@pytest.fixture
def may_create_tables(database: Database) -> None:
    with psycopg.connect(database.superuser) as connection:
        connection.execute("GRANT CREATE ON SCHEMA public TO daybook_app")


@pytest.mark.usefixtures("may_create_tables", "datastore")
class TestEventCountersView(projection.EventCountersViewTestCase):
    datastore: Datastore

    def construct_event_counters_view(self) -> projection.EventCountersView:
        return EventCounters(self.datastore)


@pytest.mark.usefixtures("may_create_tables", "environment")
class TestAggregateEventCountersProjection(projection.AggregateEventCountersProjectionTestCase):
    view_class = EventCounters
    env: ClassVar[dict[str, str]] = {}


class TestEventSourcedProjection(projection.EventSourcedProjectionTestCase):
    """Two applications, each with a sequence of its own, so each with a database of its own."""

    @pytest.fixture(autouse=True)
    def _two_databases(self, environment: Database, second_database: Database) -> None:
        type(self).env = {"COUNTERS_POSTGRES_DSN": second_database.app}


def stored(originator_id: UUID | str, version: int, state: bytes = b"{}") -> StoredEvent:
    return StoredEvent(originator_id, version, "Noted.v1", state)


def text_recorder(database: Database) -> LogApplicationRecorder:
    return LogApplicationRecorder(Datastore(database.app, "text"))


def test_metadata_reaches_the_log_beside_the_event(database: Database) -> None:
    recorder = text_recorder(database)
    context = Context("clinic", "dr-grey", uuid4(), uuid4(), uuid4(), "patient-1", "TREAT")
    event_id, when = uuid4(), datetime(2026, 3, 1, tzinfo=UTC)
    recorder.insert_events([stored("clinic/appointment/1", 1)], context=context, occurred_at=when, event_ids=[event_id])
    with psycopg.connect(database.superuser) as connection:
        row = connection.execute(
            "SELECT organization, stream, event_id, actor, on_behalf_of, purpose, command_id, correlation_id,"
            " causation_id, occurred_at FROM events"
        ).fetchone()
    assert row == (
        "clinic",
        "clinic/appointment/1",
        event_id,
        "dr-grey",
        "patient-1",
        "TREAT",
        context.command_id,
        context.correlation_id,
        context.causation_id,
        when,
    )
    recorder.datastore.close()


async def test_the_library_reads_what_the_port_wrote(database: Database, log: PostgresEventLog) -> None:
    await log.append(notes("appointment/1", 0, 1, 2))
    recorder = text_recorder(database)
    events = recorder.select_events("clinic/appointment/1")
    assert [(event.originator_id, event.originator_version, event.topic) for event in events] == [
        ("clinic/appointment/1", 1, "TestNoted.v1"),
        ("clinic/appointment/1", 2, "TestNoted.v1"),
    ]
    recorder.insert_events(
        [StoredEvent("clinic/appointment/1", 3, "TestNoted.v1", b'{"number":3}')],
        context=Context("clinic", "desk", uuid4(), uuid4()),
    )
    assert [event.version for event in await log.read(0, 10)] == [1, 2, 3]
    recorder.datastore.close()


def test_a_stream_stays_in_its_organization(database: Database) -> None:
    recorder = text_recorder(database)
    with pytest.raises(ProgrammingError, match="organization"):
        recorder.insert_events([stored("clinic/appointment/1", 1)])
    recorder.datastore.close()


def test_versions_have_no_gap_and_start_at_nought_or_one(database: Database) -> None:
    recorder = text_recorder(database)
    for version in (2, 7, -1):
        with pytest.raises(IntegrityError):
            recorder.insert_events([stored("a", version)])
    recorder.insert_events([stored("a", 0), stored("b", 1)])
    with pytest.raises(IntegrityError):
        recorder.insert_events([stored("a", 2)])
    assert recorder.insert_events([stored("a", 1), stored("b", 2)]) == [3, 4]
    recorder.datastore.close()


def test_what_the_log_can_not_hold_is_a_data_error(database: Database) -> None:
    recorder = text_recorder(database)
    for event in (stored("a\x00", 1), StoredEvent("a", 1, "\ud800", b"")):
        with pytest.raises(DataError):
            recorder.insert_events([event])
    recorder.datastore.close()


def test_a_log_of_other_streams_does_not_pass_for_uuids(database: Database) -> None:
    text = text_recorder(database)
    text.insert_events([stored("plain", 1)])
    recorder = LogApplicationRecorder(Datastore(database.app))
    with pytest.raises(ProgrammingError, match="ORIGINATOR_ID_TYPE"):
        recorder.select_notifications(None, 10)
    text.datastore.close()
    recorder.datastore.close()


def test_an_environment_that_says_too_little_is_refused(database: Database) -> None:
    with pytest.raises(EnvironmentError, match="POSTGRES_DSN"):
        LogFactory({})
    with pytest.raises(EnvironmentError, match="ORIGINATOR_ID_TYPE"):
        LogFactory({"POSTGRES_DSN": database.app, "ORIGINATOR_ID_TYPE": "int"})


def test_an_unreachable_database_is_an_operational_error() -> None:
    recorder = LogApplicationRecorder(Datastore("host=/nowhere dbname=x", patience=0.2))
    with pytest.raises(OperationalError):
        recorder.max_notification_id()


def test_a_closed_factory_says_so(database: Database) -> None:
    factory = LogFactory({"POSTGRES_DSN": database.app})
    recorder = factory.application_recorder()
    recorder.insert_events([stored(uuid4(), 1)])
    factory.close()
    with pytest.raises(ProgrammingError, match="closed"):
        recorder.max_notification_id()


def test_the_factory_migrates_where_it_may(postgres: str) -> None:
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("CREATE DATABASE empty_one")
    owner = psycopg.conninfo.make_conninfo(postgres, dbname="empty_one")
    app = psycopg.conninfo.make_conninfo(owner, user="daybook_app")
    with LogFactory({"POSTGRES_DSN": app, "POSTGRES_OWNER_DSN": owner}) as factory:
        assert factory.application_recorder().insert_events([stored(uuid4(), 1)]) == [1]
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("DROP DATABASE empty_one")
