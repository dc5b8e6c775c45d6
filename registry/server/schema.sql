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

CREATE OR REPLACE FUNCTION greenroom.append(entry jsonb) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    last greenroom.head;
    following bigint;
    written text;
    link text;
BEGIN
    SELECT * INTO STRICT last FROM greenroom.head FOR UPDATE;
    following := last.id + 1;
    written := (jsonb_strip_nulls(entry) || jsonb_build_object(
        'id', following,
        'at', to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
        'role', session_user
    ))::text;
    link := encode(sha256(convert_to(
        following || E'\n' || last.hash || E'\n' || encode(sha256(convert_to(written, 'UTF8')), 'hex'), 'UTF8'
    )), 'hex');
    INSERT INTO greenroom.audit (id, model, body, previous, hash)
    VALUES (following, coalesce(entry ->> 'model', ''), written, last.hash, link);
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
    RETURN greenroom.append(entry);
END $$;
REVOKE ALL ON FUNCTION greenroom.record(jsonb) FROM PUBLIC;

-- The guard says in `greenroom.context`, for its transaction alone, who does what and on which evidence. A
-- change without it was made behind the guard's back.
CREATE OR REPLACE FUNCTION greenroom.with_context(entry jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    context jsonb := nullif(current_setting('greenroom.context', true), '')::jsonb;
BEGIN
    IF context IS NULL THEN
        RETURN entry || jsonb_build_object(
            'action', 'sql', 'actor', session_user, 'proven', false, 'address', host(inet_client_addr())
        );
    END IF;
    IF context ? 'version' AND entry ? 'version' AND context ->> 'version' IS DISTINCT FROM entry ->> 'version' THEN
        -- The version that made room for the one that the transaction is about.
        RETURN entry || jsonb_build_object(
            'action', 'archived', 'actor', context ->> 'actor', 'proven', context -> 'proven',
            'address', context ->> 'address', 'reason', 'made room for version ' || (context ->> 'version')
        );
    END IF;
    RETURN context || entry;
END $$;
REVOKE ALL ON FUNCTION greenroom.with_context(jsonb) FROM PUBLIC;

CREATE OR REPLACE FUNCTION greenroom.on_version() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    entry jsonb;
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF coalesce(NEW.current_stage, 'None') = 'None' THEN
            RETURN NULL;
        END IF;
        entry := jsonb_build_object('model', NEW.name, 'version', NEW.version, 'to', NEW.current_stage);
    ELSIF TG_OP = 'DELETE' THEN
        entry := jsonb_build_object('model', OLD.name, 'version', OLD.version, 'from', OLD.current_stage);
    ELSE
        IF (OLD.workspace, OLD.name, OLD.version, OLD.current_stage, OLD.source, OLD.storage_location)
           IS NOT DISTINCT FROM
           (NEW.workspace, NEW.name, NEW.version, NEW.current_stage, NEW.source, NEW.storage_location) THEN
            RETURN NULL;
        END IF;
        entry := jsonb_build_object(
            'model', NEW.name, 'version', NEW.version, 'from', OLD.current_stage, 'to', NEW.current_stage
        );
        IF (OLD.workspace, OLD.name, OLD.version, OLD.source, OLD.storage_location)
           IS DISTINCT FROM
           (NEW.workspace, NEW.name, NEW.version, NEW.source, NEW.storage_location) THEN
            entry := entry || jsonb_build_object('changed', jsonb_build_object(
                'name', jsonb_build_array(OLD.name, NEW.name),
                'version', jsonb_build_array(OLD.version, NEW.version),
                'source', jsonb_build_array(OLD.source, NEW.source),
                'storage_location', jsonb_build_array(OLD.storage_location, NEW.storage_location)
            ));
        END IF;
    END IF;
    PERFORM greenroom.append(greenroom.with_context(entry));
    RETURN NULL;
END $$;

-- Aliases and reserved tags: what the guard does is said in its context, what SQL does is told apart from it.
CREATE OR REPLACE FUNCTION greenroom.on_alias() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    was jsonb := CASE WHEN TG_OP = 'INSERT' THEN '{{}}'::jsonb ELSE to_jsonb(OLD) END;
    now_is jsonb := CASE WHEN TG_OP = 'DELETE' THEN '{{}}'::jsonb ELSE to_jsonb(NEW) END;
BEGIN
    IF was = now_is THEN
        RETURN NULL;
    END IF;
    PERFORM greenroom.append((greenroom.with_context(jsonb_build_object(
        'model', coalesce(now_is ->> 'name', was ->> 'name'),
        'changed', jsonb_build_object(
            'alias', coalesce(now_is ->> 'alias', was ->> 'alias'),
            'version', jsonb_build_array(was -> 'version', now_is -> 'version')
        )
    )) - 'envelope') || CASE WHEN nullif(current_setting('greenroom.context', true), '') IS NULL
               THEN '{{}}'::jsonb ELSE '{{"action": "alias"}}'::jsonb END);
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION greenroom.on_tag() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    was jsonb := CASE WHEN TG_OP = 'INSERT' THEN '{{}}'::jsonb ELSE to_jsonb(OLD) END;
    now_is jsonb := CASE WHEN TG_OP = 'DELETE' THEN '{{}}'::jsonb ELSE to_jsonb(NEW) END;
    tag text := coalesce(now_is ->> 'key', was ->> 'key');
BEGIN
    IF was = now_is OR tag NOT IN ('greenroom.evidence', 'greenroom.override', 'greenroom.gate')
       OR nullif(current_setting('greenroom.context', true), '') IS NOT NULL THEN
        RETURN NULL;
    END IF;
    PERFORM greenroom.append(greenroom.with_context(jsonb_build_object(
        'model', coalesce(now_is ->> 'name', was ->> 'name'),
        'version', coalesce(now_is -> 'version', was -> 'version'),
        'changed', jsonb_build_object('tag', tag, 'value', jsonb_build_array(
            left(was ->> 'value', 100), left(now_is ->> 'value', 100)
        ))
    )));
    RETURN NULL;
END $$;

CREATE OR REPLACE TRIGGER greenroom_audit AFTER INSERT OR UPDATE OR DELETE ON {schema}.model_versions
    FOR EACH ROW EXECUTE FUNCTION greenroom.on_version();
CREATE OR REPLACE TRIGGER greenroom_audit AFTER INSERT OR UPDATE OR DELETE ON {schema}.registered_model_aliases
    FOR EACH ROW EXECUTE FUNCTION greenroom.on_alias();
CREATE OR REPLACE TRIGGER greenroom_audit AFTER INSERT OR UPDATE OR DELETE ON {schema}.model_version_tags
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
