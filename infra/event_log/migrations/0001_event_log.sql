-- One row an event. The order of the columns is row v1 (docs/decisions/0001-row-v1-and-chain.md): it never changes.
CREATE TABLE events (
    position        bigint      NOT NULL PRIMARY KEY,
    organization    text        COLLATE "C" NOT NULL,
    stream          text        COLLATE "C" NOT NULL,
    version         bigint      NOT NULL,
    event_id        uuid        NOT NULL,
    name            text        COLLATE "C" NOT NULL,
    payload         bytea       NOT NULL,
    actor           text        COLLATE "C" NOT NULL,
    on_behalf_of    text        COLLATE "C",
    purpose         text        COLLATE "C",
    command_id      uuid        NOT NULL,
    correlation_id  uuid        NOT NULL,
    causation_id    uuid,
    occurred_at     timestamptz NOT NULL,
    recorded_at     timestamptz NOT NULL,
    hash            bytea       NOT NULL,
    UNIQUE (stream, version)
);
-- Rows are read back whole and soon; squeezing a few hundred bytes costs more than it saves.
ALTER TABLE events ALTER COLUMN payload SET STORAGE EXTERNAL;

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the event log is append-only: % is refused', TG_OP USING ERRCODE = 'insufficient_privilege';
END
$$;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON events
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
-- ALWAYS: a session that calls itself a replica is refused too.
ALTER TABLE events ENABLE ALWAYS TRIGGER append_only;

-- The one row that a batch locks: it hands out positions and carries the chain.
CREATE TABLE log_head (
    only_one    boolean     NOT NULL PRIMARY KEY DEFAULT true CHECK (only_one),
    position    bigint      NOT NULL,
    hash        bytea       NOT NULL,
    recorded_at timestamptz NOT NULL
) WITH (fillfactor = 10);
INSERT INTO log_head (position, hash, recorded_at)
    VALUES (0, decode(repeat('00', 32), 'hex'), 'epoch');

-- What each command was answered, so that a repeat is answered alike.
CREATE TABLE commands (
    organization    text        COLLATE "C" NOT NULL,
    actor           text        COLLATE "C" NOT NULL,
    key             text        COLLATE "C" NOT NULL,
    body_hash       bytea       NOT NULL,
    first_position  bigint,
    last_position   bigint,
    result          bytea       NOT NULL,
    recorded_at     timestamptz NOT NULL,
    PRIMARY KEY (organization, actor, key)
);

-- Data keys of persons, wrapped by a master key that is never in the database. No row: never made, or destroyed.
CREATE TABLE data_keys (
    organization    text        COLLATE "C" NOT NULL,
    person          text        COLLATE "C" NOT NULL,
    wrapped         bytea       NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (organization, person)
);

-- How far a process application of the eventsourcing library has followed another one.
CREATE TABLE tracking (
    application     text        COLLATE "C" NOT NULL PRIMARY KEY,
    position        bigint      NOT NULL
);

-- Snapshots of the eventsourcing library: a cache that may be dropped at any time.
CREATE TABLE snapshots (
    stream          text        COLLATE "C" NOT NULL,
    version         bigint      NOT NULL,
    name            text        COLLATE "C" NOT NULL,
    payload         bytea       NOT NULL,
    PRIMARY KEY (stream, version)
);

-- The last position recorded at or before an instant; recorded_at never runs backwards, so halving finds it.
CREATE FUNCTION position_at(instant timestamptz) RETURNS bigint LANGUAGE plpgsql STABLE AS $$
DECLARE
    low     bigint := 0;
    high    bigint := (SELECT h.position FROM log_head h);
    middle  bigint;
BEGIN
    WHILE low < high LOOP
        middle := low + (high - low + 1) / 2;
        IF (SELECT e.recorded_at FROM events e WHERE e.position = middle) <= instant THEN
            low := middle;
        ELSE
            high := middle - 1;
        END IF;
    END LOOP;
    RETURN low;
END
$$;

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'daybook_app') THEN
        CREATE ROLE daybook_app LOGIN;
    END IF;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
    NULL; -- another database of the same server was being migrated at the same moment
END
$$;
GRANT SELECT ON schema_migrations TO daybook_app;
GRANT SELECT, INSERT ON events, commands TO daybook_app;
GRANT SELECT, UPDATE ON log_head TO daybook_app;
GRANT SELECT, INSERT, DELETE ON data_keys TO daybook_app;
GRANT SELECT, INSERT, UPDATE ON tracking TO daybook_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON snapshots TO daybook_app;
