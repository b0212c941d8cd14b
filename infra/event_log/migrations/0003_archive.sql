-- Old events move from `events` into `archived_events`, oldest first, and stay part of the log: every event stands in
-- exactly one of the two, and `all_events` shows both. The database keeps the archive's ledgers itself and refuses
-- whatever would lose, double or change an event, whoever asks (docs/decisions/0071-archive.md).
CREATE TABLE archived_events (LIKE events INCLUDING STORAGE) PARTITION BY RANGE (position);
ALTER TABLE archived_events ADD PRIMARY KEY (position);
CREATE INDEX ON archived_events (stream, version);

-- A stream's last archived version, for the check of conflicts and of loads; `gone` is its last version in a detached
-- part, or -1.
CREATE TABLE archived_streams (
    stream          text        COLLATE "C" NOT NULL PRIMARY KEY,
    version         bigint      NOT NULL,
    first_position  bigint      NOT NULL,
    last_position   bigint      NOT NULL,
    gone            bigint      NOT NULL DEFAULT -1
);

-- Where the archive ends: the last archived event's position, chain hash and time, and the roots of the Merkle tree's
-- perfect subtrees up to there. A part holds `part_size` positions, so each is one perfect subtree.
CREATE TABLE archive_floor (
    only_one        boolean     NOT NULL PRIMARY KEY DEFAULT true CHECK (only_one),
    position        bigint      NOT NULL DEFAULT 0,
    hash            bytea       NOT NULL DEFAULT decode(repeat('00', 32), 'hex'),
    recorded_at     timestamptz NOT NULL DEFAULT 'epoch',
    frontier        bytea[]     NOT NULL DEFAULT '{}',
    part_size       bigint      NOT NULL DEFAULT 8388608 CHECK (part_size > 0 AND part_size & (part_size - 1) = 0)
);
INSERT INTO archive_floor DEFAULT VALUES;

-- The partitions: positions after `after` up to `upto`. Root, hash and recorded_at are known once a part is full. A
-- detached part lies elsewhere, in a file; parts are detached from the oldest on.
CREATE TABLE archive_parts (
    upto            bigint      NOT NULL PRIMARY KEY,
    after           bigint      NOT NULL UNIQUE,
    name            text        COLLATE "C" NOT NULL,
    root            bytea,
    hash            bytea,
    recorded_at     timestamptz,
    detached_at     timestamptz,
    CHECK ((root IS NULL) = (hash IS NULL) AND (root IS NULL) = (recorded_at IS NULL)),
    CHECK (detached_at IS NULL OR root IS NOT NULL)
);

CREATE VIEW all_events AS
    SELECT * FROM archived_events
    UNION ALL
    SELECT * FROM events;

CREATE FUNCTION refuse_detached() RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'these events lie in a detached part of the archive' USING ERRCODE = 'ZD001';
END
$$;

-- What was asked of `events` before is asked of both. recorded_at never runs backwards, so halving finds the position.
CREATE OR REPLACE FUNCTION position_at(instant timestamptz) RETURNS bigint LANGUAGE plpgsql STABLE AS $$
DECLARE
    archive archive_floor := (SELECT f FROM archive_floor f);
    low     bigint;
    high    bigint;
    middle  bigint;
    moment  timestamptz;
BEGIN
    IF archive.position > 0 AND instant < archive.recorded_at THEN
        SELECT p.upto, p.recorded_at INTO low, moment
            FROM archive_parts p WHERE p.detached_at IS NOT NULL ORDER BY p.upto DESC LIMIT 1;
        IF instant < moment THEN
            PERFORM refuse_detached();
        END IF;
        low := coalesce(low, 0);
        high := archive.position - 1;
        WHILE low < high LOOP
            middle := low + (high - low + 1) / 2;
            IF (SELECT e.recorded_at FROM archived_events e WHERE e.position = middle) <= instant THEN
                low := middle;
            ELSE
                high := middle - 1;
            END IF;
        END LOOP;
        RETURN low;
    END IF;
    low := archive.position;
    high := (SELECT h.position FROM log_head h);
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

-- Into the archive: the next positions in line, whose streams go on where the ledger left them. The newest event stays.
CREATE FUNCTION take_into_archive() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = public, pg_temp AS $$
DECLARE
    archive archive_floor;
    highest bigint;
BEGIN
    SELECT f.* INTO STRICT archive FROM archive_floor f FOR UPDATE;
    SELECT max(t.position) INTO highest FROM taken t
        HAVING min(t.position) = archive.position + 1 AND max(t.position) = archive.position + count(*);
    IF highest IS NULL OR highest >= (SELECT h.position FROM log_head h) THEN
        RAISE EXCEPTION 'the archive takes the events next in line, and not the newest'
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF EXISTS (
        SELECT FROM (
            SELECT t.stream, min(t.version) AS first, max(t.version) AS last, count(*) AS events
            FROM taken t GROUP BY t.stream
        ) moved LEFT JOIN archived_streams known USING (stream)
        WHERE moved.events <> moved.last - moved.first + 1
            OR CASE WHEN known.version IS NULL THEN moved.first NOT IN (0, 1) ELSE moved.first <> known.version + 1 END
    ) THEN
        RAISE EXCEPTION 'a stream does not go on where its archived part ends' USING ERRCODE = 'unique_violation';
    END IF;
    INSERT INTO archived_streams (stream, version, first_position, last_position)
        SELECT t.stream, max(t.version), min(t.position), max(t.position) FROM taken t GROUP BY t.stream
        ON CONFLICT (stream) DO UPDATE SET version = excluded.version, last_position = excluded.last_position;
    UPDATE archive_floor SET (position, hash, recorded_at) =
        (SELECT t.position, t.hash, t.recorded_at FROM taken t WHERE t.position = highest);
    RETURN NULL;
END
$$;
CREATE TRIGGER next_in_line AFTER INSERT ON archived_events REFERENCING NEW TABLE AS taken
    FOR EACH STATEMENT EXECUTE FUNCTION take_into_archive();
ALTER TABLE archived_events ENABLE ALWAYS TRIGGER next_in_line;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON archived_events
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
ALTER TABLE archived_events ENABLE ALWAYS TRIGGER append_only;

-- Out of `events`: only the archivist, and only what stands in the archive, the same to the last byte.
CREATE FUNCTION refuse_change_of_events() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP <> 'DELETE' OR current_user <> 'daybook_archivist' THEN
        RAISE EXCEPTION 'the event log is append-only: % is refused', TG_OP USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN NULL;
END
$$;
DROP TRIGGER append_only ON events;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON events
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_of_events();
ALTER TABLE events ENABLE ALWAYS TRIGGER append_only;

CREATE FUNCTION refuse_loss() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = public, pg_temp AS $$
DECLARE
    lowest  bigint;
    highest bigint;
    many    bigint;
BEGIN
    SELECT min(g.position), max(g.position), count(*) INTO lowest, highest, many FROM leaving g;
    IF many <> (
        SELECT count(*) FROM leaving g JOIN archived_events a USING (position)
        WHERE a.position BETWEEN lowest AND highest AND ROW(g.*) IS NOT DISTINCT FROM ROW(a.*)
    ) THEN
        RAISE EXCEPTION 'the event log is append-only: only what is archived leaves the table'
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER archived_before AFTER DELETE ON events REFERENCING OLD TABLE AS leaving
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_loss();
ALTER TABLE events ENABLE ALWAYS TRIGGER archived_before;

-- The unique key of `events` no longer sees what was archived. The writer looks into the ledger; this is for one that
-- does not, such as a program from before the archive.
CREATE FUNCTION refuse_archived_versions() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = public, pg_temp AS $$
DECLARE
    ends    bigint := (SELECT f.position FROM archive_floor f);
BEGIN
    IF ends > 0 AND EXISTS (
        SELECT FROM added a LEFT JOIN archived_streams s USING (stream)
        WHERE a.position <= ends OR a.version <= s.version
    ) THEN
        RAISE EXCEPTION 'this version of a stream is archived already' USING ERRCODE = 'unique_violation';
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER not_archived AFTER INSERT ON events REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_archived_versions();
ALTER TABLE events ENABLE ALWAYS TRIGGER not_archived;

-- At the end of a move: nothing up to the floor is left behind, and the frontier is that of the floor's position.
CREATE FUNCTION floor_holds() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = public, pg_temp AS $$
DECLARE
    archive archive_floor := (SELECT f FROM archive_floor f);
BEGIN
    IF EXISTS (SELECT FROM events e WHERE e.position <= archive.position) THEN
        RAISE EXCEPTION 'an event would stand in the archive and before it' USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF cardinality(archive.frontier) <> bit_count(archive.position::bit(64)) THEN
        RAISE EXCEPTION 'the frontier is not that of the floor' USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN NULL;
END
$$;
CREATE CONSTRAINT TRIGGER each_event_once AFTER UPDATE ON archive_floor DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION floor_holds();
ALTER TABLE archive_floor ENABLE ALWAYS TRIGGER each_event_once;

-- The partition that takes the next position, made when it is missing. Made aside and then attached: making it in its
-- place would lock out whoever reads the archive. Returns the part's last position.
CREATE FUNCTION next_archive_part(tablespace text DEFAULT '') RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = public, pg_temp AS $$
DECLARE
    archive archive_floor;
    first   bigint;
    last    bigint;
    part    text;
BEGIN
    SELECT f.* INTO STRICT archive FROM archive_floor f FOR UPDATE;
    first := archive.position / archive.part_size * archive.part_size;
    last := first + archive.part_size;
    IF NOT EXISTS (SELECT FROM archive_parts p WHERE p.upto = last) THEN
        part := 'archived_events_' || last;
        PERFORM set_config('default_tablespace', tablespace, true);
        EXECUTE format('CREATE TABLE %I (LIKE archived_events INCLUDING STORAGE)', part);
        EXECUTE format('ALTER TABLE archived_events ATTACH PARTITION %I FOR VALUES FROM (%s) TO (%s)',
            part, first + 1, last + 1);
        EXECUTE format('CREATE TRIGGER append_only BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON %I'
            ' FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()', part);
        EXECUTE format('ALTER TABLE %I ENABLE ALWAYS TRIGGER append_only', part);
        INSERT INTO archive_parts (upto, after, name) VALUES (last, first, part);
    END IF;
    RETURN last;
END
$$;
REVOKE ALL ON FUNCTION next_archive_part FROM PUBLIC;
GRANT EXECUTE ON FUNCTION next_archive_part TO daybook_archivist;

GRANT SELECT ON all_events, archived_events, archived_streams, archive_floor, archive_parts
    TO daybook_app, daybook_reader, daybook_archivist, daybook_backup;
GRANT INSERT ON archived_events TO daybook_archivist;
GRANT DELETE ON events TO daybook_archivist;
GRANT UPDATE (frontier) ON archive_floor TO daybook_archivist;
GRANT UPDATE (root, hash, recorded_at) ON archive_parts TO daybook_archivist;
