-- By which key files the log is written (docs/decisions/0159-keys-that-belong-to-a-log.md): a fingerprint of each, from
-- which nobody learns the key. The newest of a name counts. Whoever opens the log may compare.
CREATE TABLE key_marks (
    name      text        COLLATE "C" NOT NULL,
    mark      text        COLLATE "C" NOT NULL,
    noted_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (name, noted_at)
);
GRANT SELECT ON key_marks TO PUBLIC;
GRANT INSERT ON key_marks TO daybook_app;
