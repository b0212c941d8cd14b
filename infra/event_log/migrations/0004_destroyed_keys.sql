-- A destroyed key leaves an empty row, so that no process, however late, makes the person a new one: what is forgotten
-- stays forgotten (docs/decisions/0140-erasure.md). A key may be wrapped anew (0142-master-key-rotation.md), and its
-- row belongs to the same person for ever.
GRANT UPDATE (wrapped) ON data_keys TO daybook_app;
REVOKE DELETE ON data_keys FROM daybook_app;

CREATE FUNCTION refuse_revival() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'a destroyed key is never brought back' USING ERRCODE = 'insufficient_privilege';
END
$$;
CREATE TRIGGER stays_destroyed BEFORE UPDATE ON data_keys
    FOR EACH ROW WHEN (OLD.wrapped = '' AND NEW.wrapped <> '') EXECUTE FUNCTION refuse_revival();
