-- Who may do what, beside daybook_app, which appends (docs/operations/postgres.md):
--   daybook_reader     looks: relay, workers, replays. Not at data keys.
--   daybook_archivist  moves old events into the archive, and nothing else.
--   daybook_backup     reads everything there is to save.
-- Passwords are none of a migration's business: the server's owner gives them, or a certificate stands for one.
DO $$
DECLARE
    role text;
BEGIN
    FOREACH role IN ARRAY ARRAY['daybook_reader', 'daybook_archivist', 'daybook_backup'] LOOP
        BEGIN
            IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN
                EXECUTE format('CREATE ROLE %I LOGIN', role);
            END IF;
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL; -- another database of the same server was being migrated at the same moment
        END;
    END LOOP;
END
$$;

GRANT SELECT ON schema_migrations, events, log_head TO daybook_reader, daybook_archivist;
GRANT SELECT ON schema_migrations, events, log_head, commands, data_keys, tracking, snapshots TO daybook_backup;
