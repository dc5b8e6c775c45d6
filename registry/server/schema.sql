-- The audit and the guards inside PostgreSQL. Owned by the role that installs it, not by the one that MLflow
-- runs as; that one may read, and append through `record` alone. Safe to run again.
--   {app}     the role that MLflow's server logs in as
--   {schema}  the schema that holds MLflow's tables

CREATE SCHEMA IF NOT EXISTS greenroom;

CREATE TABLE IF NOT EXISTS greenroom.audit (
    id bigint PRIMARY KEY,
    model text NOT NULL,
    body text NOT NULL,      -- one JSON object: registry.audit.Row
    previous text NOT NULL,  -- the hash of the row before
    hash text NOT NULL       -- registry.audit.link_hash
);
CREATE INDEX IF NOT EXISTS audit_by_model ON greenroom.audit (model, id);

-- One row; its lock makes one transaction at a time append, so that numbers have no gaps.
CREATE TABLE IF NOT EXISTS greenroom.head (
    only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    id bigint NOT NULL,
    hash text NOT NULL
);
INSERT INTO greenroom.head (id, hash) VALUES (0, '') ON CONFLICT DO NOTHING;

CREATE TABLE IF NOT EXISTS greenroom.installed (
    only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    digest text NOT NULL
);

-- The fields of a row that a caller may fill, each of its type and no longer than it need be: a row that could
-- not be read again would be in the way for good.
CREATE OR REPLACE FUNCTION greenroom.said(entry jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT jsonb_strip_nulls(jsonb_build_object(
        'action', left(entry ->> 'action', 20),
        'model', left(entry ->> 'model', 256),
        'version', (entry ->> 'version')::int,
        'from', left(entry ->> 'from', 20),
        'to', left(entry ->> 'to', 20),
        'actor', left(entry ->> 'actor', 200),
        'proven', coalesce(entry ->> 'proven', 'false')::boolean,
        'address', left(entry ->> 'address', 100),
        'reason', left(entry ->> 'reason', 2000),
        'code', left(entry ->> 'code', 40),
        'message', left(entry ->> 'message', 2000),
        'digest', left(entry ->> 'digest', 100),
        'evidence', left(entry ->> 'evidence', 100),
        'envelope', CASE WHEN length(entry ->> 'envelope') <= 100000 THEN entry ->> 'envelope' END,
        'incumbent', (entry ->> 'incumbent')::int,
        'changed', CASE WHEN jsonb_typeof(entry -> 'changed') = 'object' AND length((entry -> 'changed')::text) <= 4000
                        THEN entry -> 'changed' END
    ))
$$;
REVOKE ALL ON FUNCTION greenroom.said(jsonb) FROM PUBLIC;

CREATE OR REPLACE FUNCTION greenroom.append(entry jsonb) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    last greenroom.head;
    following bigint;
    written text;
    link text;
BEGIN
    IF coalesce(entry ->> 'model', '') = '' OR coalesce(entry ->> 'action', '') = '' THEN
        RAISE EXCEPTION 'a row of the audit needs a model and an action';
    END IF;
    SELECT * INTO STRICT last FROM greenroom.head FOR UPDATE;
    following := last.id + 1;
    written := (jsonb_build_object('actor', session_user) || greenroom.said(entry) || jsonb_build_object(
        'id', following,
        'at', to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
        'role', session_user
    ))::text;
    link := encode(sha256(convert_to(
        following || E'\n' || last.hash || E'\n' || encode(sha256(convert_to(written, 'UTF8')), 'hex'), 'UTF8'
    )), 'hex');
    INSERT INTO greenroom.audit (id, model, body, previous, hash)
    VALUES (following, left(entry ->> 'model', 256), written, last.hash, link);
    UPDATE greenroom.head SET id = following, hash = link;
    RETURN following;
END $$;
REVOKE ALL ON FUNCTION greenroom.append(jsonb) FROM PUBLIC;

-- What the server may append by itself: things that change no stage. Changes are appended by triggers.
CREATE OR REPLACE FUNCTION greenroom.record(entry jsonb) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF coalesce(entry ->> 'action', '') NOT IN ('refused', 'mismatch', 'override') THEN
        RAISE EXCEPTION 'greenroom.record does not take the action %', entry ->> 'action';
    END IF;
    IF coalesce(entry ->> 'model', '') = '' THEN
        RAISE EXCEPTION 'greenroom.record needs a model';
    END IF;
    IF entry ->> 'action' <> 'override' THEN
        RETURN greenroom.append(entry - 'from' - 'to' - 'evidence' - 'envelope');
    END IF;
    -- An override of what is there already: nothing moves, so no trigger sees it.
    IF NOT EXISTS (
        SELECT 1 FROM {schema}.model_versions v
        WHERE v.name = entry ->> 'model' AND v.version = (entry ->> 'version')::int
          AND v.current_stage = entry ->> 'from' AND v.current_stage = entry ->> 'to'
    ) THEN
        RAISE EXCEPTION 'greenroom.record takes the override of a version in the stage that it is in';
    END IF;
    RETURN greenroom.append(entry);
END $$;
REVOKE ALL ON FUNCTION greenroom.record(jsonb) FROM PUBLIC;

-- The guard says in `greenroom.context`, for its transaction alone, who does what and on which evidence. A
-- change without it, or that is not what it says, was made behind the guard's back. The role that MLflow runs as
-- can say the same by itself: what then gives it away is the evidence (`greenroom verify`).
CREATE OR REPLACE FUNCTION greenroom.with_context(entry jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    context jsonb;
    action text;
    target text := entry ->> 'to';
    who jsonb;
BEGIN
    context := nullif(current_setting('greenroom.context', true), '')::jsonb;
    action := context ->> 'action';
    who := jsonb_build_object(
        'actor', context ->> 'actor', 'proven', context -> 'proven', 'address', context ->> 'address'
    );
    IF jsonb_typeof(context) IS DISTINCT FROM 'object' OR action IS NULL THEN
        context := NULL;  -- nobody says anything: below
    ELSIF context ? 'version' AND entry ? 'version' AND context ->> 'version' IS DISTINCT FROM entry ->> 'version' THEN
        -- The version that makes room for the one that the transaction is about.
        IF target = 'Archived' AND action IN ('promoted', 'staged', 'override', 'rollback') THEN
            RETURN who || entry || jsonb_build_object(
                'action', 'archived', 'reason', 'made room for version ' || (context ->> 'version')
            );
        END IF;
    ELSIF (context ? 'envelope' AND (
              (action IN ('promoted', 'rollback') AND target = 'Production')
              OR (action = 'staged' AND target = 'Staging')
              OR (action = 'override' AND target IN ('Staging', 'Production'))))
       OR (action = 'archived' AND target = 'Archived')
       OR (action = 'moved' AND target = 'None')
       OR (action = 'deleted' AND (target IS NULL OR target = 'Deleted_Internal'))
       OR (action = 'renamed' AND entry ->> 'from' IS NOT DISTINCT FROM target)
       OR (entry ->> 'kind' = 'alias')
       OR (entry ->> 'kind' = 'tag' AND action IN ('evidence', 'deleted', 'renamed')) THEN
        RETURN context || entry;
    END IF;
    RETURN entry || jsonb_build_object(
        'action', 'sql', 'actor', session_user, 'proven', false, 'address', host(inet_client_addr()),
        'message', CASE WHEN context IS NOT NULL THEN 'with a context that does not fit: ' || left(context::text, 500) END
    );
EXCEPTION WHEN others THEN
    RETURN entry || jsonb_build_object('action', 'sql', 'message', 'with a context that cannot be read');
END $$;
REVOKE ALL ON FUNCTION greenroom.with_context(jsonb) FROM PUBLIC;

-- The triggers' functions. Nobody may hang them on a table of their own and so write rows about nothing.
CREATE OR REPLACE FUNCTION greenroom.on_version() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    entry jsonb;
BEGIN
    IF TG_RELID <> '{schema}.model_versions'::regclass THEN
        RAISE EXCEPTION 'greenroom.on_version belongs to model_versions';
    END IF;
    IF TG_OP = 'INSERT' THEN
        IF coalesce(NEW.current_stage, 'None') = 'None' THEN
            RETURN NULL;
        END IF;
        entry := jsonb_build_object('model', NEW.name, 'version', NEW.version, 'to', NEW.current_stage);
    ELSIF TG_OP = 'DELETE' THEN
        entry := jsonb_build_object('model', OLD.name, 'version', OLD.version, 'from', OLD.current_stage);
    ELSE
        IF (OLD.workspace, OLD.name, OLD.version, OLD.current_stage, OLD.source, OLD.storage_location, OLD.run_id)
           IS NOT DISTINCT FROM
           (NEW.workspace, NEW.name, NEW.version, NEW.current_stage, NEW.source, NEW.storage_location, NEW.run_id)
        THEN
            RETURN NULL;
        END IF;
        entry := jsonb_build_object(
            'model', NEW.name, 'version', NEW.version, 'from', OLD.current_stage, 'to', NEW.current_stage
        );
        IF (OLD.workspace, OLD.name, OLD.version, OLD.source, OLD.storage_location, OLD.run_id)
           IS DISTINCT FROM
           (NEW.workspace, NEW.name, NEW.version, NEW.source, NEW.storage_location, NEW.run_id) THEN
            entry := entry || jsonb_build_object('changed', jsonb_build_object(
                'name', jsonb_build_array(OLD.name, NEW.name),
                'version', jsonb_build_array(OLD.version, NEW.version),
                'source', jsonb_build_array(OLD.source, NEW.source),
                'storage_location', jsonb_build_array(OLD.storage_location, NEW.storage_location),
                'run_id', jsonb_build_array(OLD.run_id, NEW.run_id)
            ));
        END IF;
        IF (OLD.name, OLD.version) IS DISTINCT FROM (NEW.name, NEW.version) THEN
            -- The history of the old name ends with this; the new name's begins with the row below.
            PERFORM greenroom.append(greenroom.with_context(
                entry || jsonb_build_object('model', OLD.name, 'version', OLD.version)
            ) - 'to' - 'envelope');
        END IF;
    END IF;
    PERFORM greenroom.append(greenroom.with_context(entry));
    RETURN NULL;
END $$;
REVOKE ALL ON FUNCTION greenroom.on_version() FROM PUBLIC;

CREATE OR REPLACE FUNCTION greenroom.on_alias() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    was jsonb := CASE WHEN TG_OP = 'INSERT' THEN '{{}}'::jsonb ELSE to_jsonb(OLD) END;
    now_is jsonb := CASE WHEN TG_OP = 'DELETE' THEN '{{}}'::jsonb ELSE to_jsonb(NEW) END;
    entry jsonb;
BEGIN
    IF TG_RELID <> '{schema}.registered_model_aliases'::regclass THEN
        RAISE EXCEPTION 'greenroom.on_alias belongs to registered_model_aliases';
    END IF;
    IF was = now_is THEN
        RETURN NULL;
    END IF;
    entry := greenroom.with_context(jsonb_build_object(
        'kind', 'alias',
        'model', coalesce(now_is ->> 'name', was ->> 'name'),
        'changed', jsonb_build_object(
            'alias', coalesce(now_is ->> 'alias', was ->> 'alias'),
            'version', jsonb_build_array(was -> 'version', now_is -> 'version')
        )
    )) - 'envelope' - 'version' - 'evidence';
    IF entry ->> 'action' <> 'sql' THEN
        entry := entry || '{{"action": "alias"}}'::jsonb;
    END IF;
    PERFORM greenroom.append(entry);
    RETURN NULL;
END $$;
REVOKE ALL ON FUNCTION greenroom.on_alias() FROM PUBLIC;

-- Reserved tags, and the one that makes MLflow hide a model from every search. What the guard does with them is
-- no news; what is done behind its back is.
CREATE OR REPLACE FUNCTION greenroom.on_tag() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    was jsonb := CASE WHEN TG_OP = 'INSERT' THEN '{{}}'::jsonb ELSE to_jsonb(OLD) END;
    now_is jsonb := CASE WHEN TG_OP = 'DELETE' THEN '{{}}'::jsonb ELSE to_jsonb(NEW) END;
    tag text := coalesce(now_is ->> 'key', was ->> 'key');
    entry jsonb;
BEGIN
    IF TG_RELID NOT IN ('{schema}.model_version_tags'::regclass, '{schema}.registered_model_tags'::regclass) THEN
        RAISE EXCEPTION 'greenroom.on_tag belongs to the tables of tags';
    END IF;
    IF was = now_is OR (
        tag NOT IN ('greenroom.evidence', 'greenroom.override', 'greenroom.gate', 'mlflow.prompt.is_prompt')
        AND coalesce(was ->> 'key', tag) NOT IN
            ('greenroom.evidence', 'greenroom.override', 'greenroom.gate', 'mlflow.prompt.is_prompt')
    ) THEN
        RETURN NULL;
    END IF;
    -- MLflow's own prompts: a model is marked before it has versions, and then so is each version.
    IF tag = 'mlflow.prompt.is_prompt' AND (CASE WHEN TG_TABLE_NAME = 'registered_model_tags' THEN NOT EXISTS (
        SELECT 1 FROM {schema}.model_versions v WHERE v.name = coalesce(now_is ->> 'name', was ->> 'name')
    ) ELSE EXISTS (
        SELECT 1 FROM {schema}.registered_model_tags t WHERE t.name = coalesce(now_is ->> 'name', was ->> 'name')
        AND t.key = tag AND lower(t.value) = 'true'
    ) END) THEN
        RETURN NULL;
    END IF;
    entry := greenroom.with_context(jsonb_strip_nulls(jsonb_build_object(
        'kind', 'tag',
        'model', coalesce(now_is ->> 'name', was ->> 'name'),
        'version', coalesce(now_is -> 'version', was -> 'version'),
        'changed', jsonb_build_object('tag', tag, 'value', jsonb_build_array(
            left(was ->> 'value', 100), left(now_is ->> 'value', 100)
        ))
    )));
    IF entry ->> 'action' = 'sql' THEN
        PERFORM greenroom.append(entry);
    END IF;
    RETURN NULL;
END $$;
REVOKE ALL ON FUNCTION greenroom.on_tag() FROM PUBLIC;

CREATE OR REPLACE TRIGGER greenroom_audit AFTER INSERT OR UPDATE OR DELETE ON {schema}.model_versions
    FOR EACH ROW EXECUTE FUNCTION greenroom.on_version();
CREATE OR REPLACE TRIGGER greenroom_audit AFTER INSERT OR UPDATE OR DELETE ON {schema}.registered_model_aliases
    FOR EACH ROW EXECUTE FUNCTION greenroom.on_alias();
CREATE OR REPLACE TRIGGER greenroom_audit AFTER INSERT OR UPDATE OR DELETE ON {schema}.model_version_tags
    FOR EACH ROW EXECUTE FUNCTION greenroom.on_tag();
CREATE OR REPLACE TRIGGER greenroom_audit AFTER INSERT OR UPDATE OR DELETE ON {schema}.registered_model_tags
    FOR EACH ROW EXECUTE FUNCTION greenroom.on_tag();

CREATE UNIQUE INDEX IF NOT EXISTS greenroom_one_production ON {schema}.model_versions (workspace, name)
    WHERE current_stage = 'Production';
ALTER TABLE {schema}.model_versions DROP CONSTRAINT IF EXISTS greenroom_known_stage;
ALTER TABLE {schema}.model_versions ADD CONSTRAINT greenroom_known_stage
    CHECK (current_stage IN ('None', 'Staging', 'Production', 'Archived', 'Deleted_Internal'));

-- The role that MLflow runs as works with rows; tables, triggers and the audit are not its to change.
GRANT USAGE ON SCHEMA {schema} TO {app};
REVOKE CREATE ON SCHEMA {schema} FROM {app}, PUBLIC;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {app};
REVOKE TRUNCATE, TRIGGER, REFERENCES ON ALL TABLES IN SCHEMA {schema} FROM {app};
GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA {schema} TO {app};
ALTER DEFAULT PRIVILEGES IN SCHEMA {schema} GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {app};
ALTER DEFAULT PRIVILEGES IN SCHEMA {schema} GRANT USAGE, SELECT ON SEQUENCES TO {app};
REVOKE ALL ON ALL TABLES IN SCHEMA greenroom FROM {app};
GRANT USAGE ON SCHEMA greenroom TO {app};
GRANT SELECT ON greenroom.audit, greenroom.head, greenroom.installed TO {app};
GRANT EXECUTE ON FUNCTION greenroom.record(jsonb) TO {app};
