-- The audit and the guards inside PostgreSQL. Owned by the role that installs it, not by the one that MLflow
-- runs as. That one changes what decides what is served (stages, reserved tags, aliases, names, sources) through
-- the functions below alone, each of which leaves its row. Safe to run again.
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

-- Who does what in a transaction, while one of the functions below changes something: nobody else can write here.
CREATE TABLE IF NOT EXISTS greenroom.acting (
    xid xid8 PRIMARY KEY,
    context jsonb NOT NULL
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
        'role', session_user,
        'scheme', 2  -- by which rule it is hashed: the first, which names none, leaves the model out
    ))::text;
    link := encode(sha256(convert_to(
        following || E'\n' || last.hash || E'\n' || encode(sha256(convert_to(written, 'UTF8')), 'hex')
        || E'\n' || left(entry ->> 'model', 256), 'UTF8'
    )), 'hex');
    INSERT INTO greenroom.audit (id, model, body, previous, hash)
    VALUES (following, left(entry ->> 'model', 256), written, last.hash, link);
    UPDATE greenroom.head SET id = following, hash = link;
    RETURN following;
END $$;
REVOKE ALL ON FUNCTION greenroom.append(jsonb) FROM PUBLIC;

-- Refusals about names that no model has or had: anybody can make those up, so they are counted by day, kind, account
-- and address, some groups a day, and have a row of the audit at 1, 10, 100, and so on.
CREATE TABLE IF NOT EXISTS greenroom.unknown_names (
    day date NOT NULL,
    code text NOT NULL,
    actor text NOT NULL,
    address text NOT NULL,
    count bigint NOT NULL,
    first_at timestamptz NOT NULL,
    last_at timestamptz NOT NULL,
    last_name text NOT NULL,
    PRIMARY KEY (day, code, actor, address)
);
CREATE OR REPLACE FUNCTION greenroom.count_unknown(entry jsonb) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    today date := (clock_timestamp() AT TIME ZONE 'UTC')::date;
    kind text := left(coalesce(entry ->> 'code', ''), 40);
    -- A name that nobody vouches for could be another one each time.
    who text := CASE WHEN coalesce(entry ->> 'proven', 'false')::boolean THEN left(entry ->> 'actor', 200)
                ELSE '(claimed)' END;
    place text := left(coalesce(entry ->> 'address', ''), 100);
    counted bigint;
BEGIN
    who := coalesce(who, '(claimed)');
    IF NOT EXISTS (SELECT 1 FROM greenroom.unknown_names u
                   WHERE u.day = today AND u.code = kind AND u.actor = who AND u.address = place)
       AND (SELECT count(*) FROM greenroom.unknown_names u WHERE u.day = today) >= 50 THEN
        kind := '(others)';
        who := '(others)';
        place := '(others)';
    END IF;
    INSERT INTO greenroom.unknown_names AS u
    VALUES (today, kind, who, place, 1, clock_timestamp(), clock_timestamp(), left(entry ->> 'model', 256))
    ON CONFLICT (day, code, actor, address) DO UPDATE
        SET count = u.count + 1, last_at = excluded.last_at, last_name = excluded.last_name
    RETURNING u.count INTO counted;
    IF counted::text !~ '^10*$' THEN
        RETURN NULL;
    END IF;
    DELETE FROM greenroom.unknown_names u WHERE u.day < today - 90;
    RETURN greenroom.append(jsonb_build_object(
        'action', 'refused', 'model', '(unknown names)', 'code', kind, 'actor', who,
        'proven', coalesce(entry -> 'proven', 'false'::jsonb), 'address', place,
        'message', counted || ' refused today about names that no model has, such as '
            || left(entry ->> 'model', 256) || ': ' || coalesce(entry ->> 'message', '')
    ));
END $$;
REVOKE ALL ON FUNCTION greenroom.count_unknown(jsonb) FROM PUBLIC;

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
    IF entry ->> 'action' <> 'override'
       AND NOT EXISTS (SELECT 1 FROM {schema}.registered_models m WHERE m.name = entry ->> 'model')
       AND NOT EXISTS (SELECT 1 FROM greenroom.audit a WHERE a.model = left(entry ->> 'model', 256)) THEN
        RETURN greenroom.count_unknown(entry);
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

-- What a change's row says of who and why: what the function that makes it was told. A change that none of the
-- functions makes is the owner's or a superuser's own SQL.
DROP FUNCTION IF EXISTS greenroom.with_context(jsonb);
CREATE OR REPLACE FUNCTION greenroom.described(entry jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    context jsonb;
    action text;
    target text := entry ->> 'to';
    who jsonb;
BEGIN
    SELECT a.context INTO context FROM greenroom.acting a WHERE a.xid = pg_current_xact_id();
    action := context ->> 'action';
    who := jsonb_build_object(
        'actor', context ->> 'actor', 'proven', context -> 'proven', 'address', context ->> 'address'
    );
    IF context IS NULL THEN
        NULL;  -- below
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
        'action', 'sql', 'actor', session_user, 'proven', false, 'address', host(inet_client_addr())
    );
END $$;
REVOKE ALL ON FUNCTION greenroom.described(jsonb) FROM PUBLIC;

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
        IF coalesce(NEW.current_stage, 'None') = 'None' AND NEW.workspace = 'default' THEN
            RETURN NULL;
        END IF;
        entry := jsonb_build_object('model', NEW.name, 'version', NEW.version, 'to', NEW.current_stage);
        IF NEW.workspace <> 'default' THEN
            entry := (entry - 'to') || jsonb_build_object('changed', jsonb_build_object('workspace', NEW.workspace));
        END IF;
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
            PERFORM greenroom.append(greenroom.described(
                entry || jsonb_build_object('model', OLD.name, 'version', OLD.version)
            ) - 'to' - 'envelope');
        END IF;
    END IF;
    PERFORM greenroom.append(greenroom.described(entry));
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
    entry := greenroom.described(jsonb_build_object(
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
    entry := greenroom.described(jsonb_strip_nulls(jsonb_build_object(
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

-- The barriers. They run as whoever makes a change: the functions below run as the owner, and pass.
CREATE OR REPLACE FUNCTION greenroom.may_change(relation oid) RETURNS boolean
LANGUAGE sql STABLE SECURITY INVOKER SET search_path = pg_catalog, pg_temp AS $$
    SELECT pg_has_role(current_user, c.relowner, 'MEMBER') FROM pg_class c WHERE c.oid = relation
$$;

CREATE OR REPLACE FUNCTION greenroom.hold_version() RETURNS trigger
LANGUAGE plpgsql SECURITY INVOKER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    free text[] := ARRAY['description', 'last_updated_time', 'user_id', 'status', 'status_message', 'run_link'];
BEGIN
    IF greenroom.may_change(TG_RELID) THEN
        RETURN coalesce(NEW, OLD);
    ELSIF TG_OP = 'INSERT' AND coalesce(NEW.current_stage, 'None') = 'None' AND NEW.workspace = 'default' THEN
        RETURN NEW;
    ELSIF TG_OP = 'UPDATE' AND to_jsonb(OLD) - free = to_jsonb(NEW) - free THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'stage, name, number, source, run and place of a version change through Greenroom''s functions alone'
        USING ERRCODE = 'insufficient_privilege';
END $$;

CREATE OR REPLACE FUNCTION greenroom.hold_model() RETURNS trigger
LANGUAGE plpgsql SECURITY INVOKER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF greenroom.may_change(TG_RELID) THEN
        RETURN coalesce(NEW, OLD);
    ELSIF TG_OP = 'INSERT' AND NEW.workspace = 'default' THEN
        RETURN NEW;
    ELSIF TG_OP = 'UPDATE' AND (OLD.workspace, OLD.name) = (NEW.workspace, NEW.name) THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'a model is renamed and deleted through Greenroom''s functions alone'
        USING ERRCODE = 'insufficient_privilege';
END $$;

CREATE OR REPLACE FUNCTION greenroom.hold_alias() RETURNS trigger
LANGUAGE plpgsql SECURITY INVOKER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF greenroom.may_change(TG_RELID) THEN
        RETURN coalesce(NEW, OLD);
    END IF;
    RAISE EXCEPTION 'aliases change through Greenroom''s functions alone' USING ERRCODE = 'insufficient_privilege';
END $$;

CREATE OR REPLACE FUNCTION greenroom.hold_tag() RETURNS trigger
LANGUAGE plpgsql SECURITY INVOKER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    was jsonb := CASE WHEN TG_OP = 'INSERT' THEN '{{}}'::jsonb ELSE to_jsonb(OLD) END;
    now_is jsonb := CASE WHEN TG_OP = 'DELETE' THEN '{{}}'::jsonb ELSE to_jsonb(NEW) END;
    of_model text := coalesce(now_is ->> 'name', was ->> 'name');
    whose text[] := ARRAY['workspace', 'name', 'version', 'key'];
    keys text[] := ARRAY[was ->> 'key', now_is ->> 'key'];
BEGIN
    IF greenroom.may_change(TG_RELID) THEN
        RETURN coalesce(NEW, OLD);
    END IF;
    IF keys && ARRAY['greenroom.evidence', 'greenroom.override', 'greenroom.gate', 'greenroom.report'] THEN
        RAISE EXCEPTION 'reserved tags change through Greenroom''s functions alone' USING ERRCODE = 'insufficient_privilege';
    ELSIF 'mlflow.prompt.is_prompt' = ANY (keys) AND (CASE WHEN TG_TABLE_NAME = 'registered_model_tags' THEN EXISTS (
        SELECT 1 FROM {schema}.model_versions v WHERE v.name = of_model
    ) ELSE NOT EXISTS (
        SELECT 1 FROM {schema}.registered_model_tags t
        WHERE t.name = of_model AND t.key = 'mlflow.prompt.is_prompt' AND lower(t.value) = 'true'
    ) END) THEN
        RAISE EXCEPTION 'a model with versions becomes no prompt, and a prompt with versions no model'
            USING ERRCODE = 'insufficient_privilege';
    ELSIF TG_OP = 'UPDATE' AND was - 'value' IS DISTINCT FROM now_is - 'value' THEN
        RAISE EXCEPTION 'a tag stays with its version' USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN coalesce(NEW, OLD);
END $$;

-- What the runs, logged models and experiments are that a version stands on which is in a stage, or was in
-- Production, so that a rollback could go to it.
CREATE OR REPLACE VIEW greenroom.kept AS
SELECT v.name, v.version, v.current_stage, v.storage_location, v.source,
       coalesce(v.run_id, m.source_run_id) AS run_id, m.source_run_id, m.model_id, m.artifact_location,
       m.experiment_id AS model_experiment_id, r.experiment_id AS run_experiment_id, r.artifact_uri,
       s.experiment_id AS source_experiment_id
FROM {schema}.model_versions v
LEFT JOIN {schema}.logged_models m
    ON m.model_id = substring(v.source FROM '^models:/(m-[^/]+)$') OR m.artifact_location = v.storage_location
LEFT JOIN {schema}.runs r ON r.run_uuid = coalesce(v.run_id, m.source_run_id)
LEFT JOIN {schema}.runs s ON s.run_uuid = m.source_run_id
WHERE v.current_stage IN ('Staging', 'Production') OR v.current_stage = 'Archived' AND EXISTS (
    SELECT 1 FROM greenroom.audit a WHERE a.model = v.name
    AND a.body::jsonb ->> 'to' = 'Production' AND a.body::jsonb -> 'version' = to_jsonb(v.version)
    AND a.body::jsonb ->> 'action' IN ('promoted', 'override', 'rollback', 'found')
);

-- Whoever deletes, `mlflow gc` and its owner too: first the version goes, then what it stands on.
CREATE OR REPLACE FUNCTION greenroom.keep() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    k record;
    what text;
    -- Of several versions, the message names the one that matters most.
    stages CONSTANT text[] := ARRAY['Production', 'Staging', 'Archived'];
BEGIN
    IF TG_TABLE_NAME = 'runs' THEN
        what := 'The run ' || OLD.run_uuid;
        SELECT * INTO k FROM greenroom.kept WHERE OLD.run_uuid IN (run_id, source_run_id)
        ORDER BY array_position(stages, current_stage::text), version DESC LIMIT 1;
    ELSIF TG_TABLE_NAME = 'logged_models' THEN
        what := 'The logged model ' || OLD.model_id;
        SELECT * INTO k FROM greenroom.kept WHERE model_id = OLD.model_id
        ORDER BY array_position(stages, current_stage::text), version DESC LIMIT 1;
    ELSE
        what := 'The experiment ' || OLD.experiment_id;
        SELECT * INTO k FROM greenroom.kept
        WHERE OLD.experiment_id IN (model_experiment_id, run_experiment_id, source_experiment_id)
        ORDER BY array_position(stages, current_stage::text), version DESC LIMIT 1;
    END IF;
    IF FOUND THEN
        RAISE EXCEPTION '% belongs to % version %, which is in %. %', what, k.name, k.version, k.current_stage,
            CASE k.current_stage WHEN 'Archived' THEN 'A rollback could go to it: delete that version first.'
            ELSE 'Archive and delete that version first.' END
            USING ERRCODE = 'GR403', DETAIL = 'kept', HINT = k.name;
    END IF;
    RETURN coalesce(NEW, OLD);
END $$;
REVOKE ALL ON FUNCTION greenroom.keep() FROM PUBLIC;

-- The functions that change what decides what is served. MLflow's role may call them, and nothing else gets past
-- the barriers. What they are told of who and why is the caller's word; that there is a row is not.
CREATE OR REPLACE FUNCTION greenroom.begin(context jsonb) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO greenroom.acting VALUES (pg_current_xact_id(), greenroom.said(context))
    ON CONFLICT (xid) DO UPDATE SET context = excluded.context
$$;
REVOKE ALL ON FUNCTION greenroom.begin(jsonb) FROM PUBLIC;
CREATE OR REPLACE FUNCTION greenroom.finish() RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    DELETE FROM greenroom.acting WHERE xid = pg_current_xact_id()
$$;
REVOKE ALL ON FUNCTION greenroom.finish() FROM PUBLIC;

-- Moves a version to a stage. Up only on an envelope that stands on it as a tag. `follow` are the aliases that
-- mean Production; `together` archives the others in Staging.
CREATE OR REPLACE FUNCTION greenroom.move(
    model text, number int, target text, at bigint, together boolean, follow text[], context jsonb
) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    was text;
    action text := context ->> 'action';
    lost text;
BEGIN
    SELECT v.current_stage INTO was FROM {schema}.model_versions v
    WHERE v.workspace = 'default' AND v.name = model AND v.version = number FOR UPDATE;
    IF was IS NULL OR was = 'Deleted_Internal' THEN
        RAISE EXCEPTION '% has no version %', model, number USING ERRCODE = 'no_data_found';
    END IF;
    IF NOT coalesce(CASE target
        WHEN 'Production' THEN action IN ('promoted', 'rollback', 'override')
        WHEN 'Staging' THEN action IN ('staged', 'override')
        WHEN 'Archived' THEN action = 'archived'
        WHEN 'None' THEN action = 'moved'
    END, false) THEN
        RAISE EXCEPTION '% is no way to %', coalesce(action, 'nothing'), coalesce(target, 'nowhere')
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF target IN ('Staging', 'Production') AND NOT EXISTS (
        SELECT 1 FROM {schema}.model_version_tags t
        WHERE t.workspace = 'default' AND t.name = model AND t.version = number AND t.value = context ->> 'envelope'
          AND t.key = ANY (CASE action WHEN 'override' THEN ARRAY['greenroom.override']
                           WHEN 'rollback' THEN ARRAY['greenroom.evidence', 'greenroom.override']
                           ELSE ARRAY['greenroom.evidence'] END)
    ) THEN
        RAISE EXCEPTION 'a version moves up on evidence that stands on it' USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF target = 'Production' AND (action = 'rollback') <> EXISTS (
        SELECT 1 FROM greenroom.audit a WHERE a.model = move.model AND a.body::jsonb ->> 'to' = 'Production'
        AND a.body::jsonb ->> 'action' IN ('promoted', 'override', 'rollback', 'found')
        AND CASE action WHEN 'rollback' THEN a.body::jsonb -> 'version' = to_jsonb(number)
            ELSE a.body::jsonb ->> 'envelope' = context ->> 'envelope' END
    ) THEN
        RAISE EXCEPTION '%', CASE action WHEN 'rollback' THEN 'a rollback goes to what was in Production before'
            ELSE 'evidence takes a version to Production once' END USING ERRCODE = 'insufficient_privilege';
    END IF;
    PERFORM greenroom.begin(context || jsonb_build_object('version', number));
    UPDATE {schema}.model_versions v SET current_stage = 'Archived', last_updated_time = at
    WHERE v.workspace = 'default' AND v.name = model AND v.version <> number AND v.current_stage = target
      AND (target = 'Production' OR target = 'Staging' AND together);
    UPDATE {schema}.model_versions v SET current_stage = target, last_updated_time = at
    WHERE v.workspace = 'default' AND v.name = model AND v.version = number;
    IF target = 'Production' THEN
        UPDATE {schema}.registered_model_aliases a SET version = number
        WHERE a.workspace = 'default' AND a.name = model AND a.alias = ANY (follow);
    ELSIF was = 'Production' THEN
        DELETE FROM {schema}.registered_model_aliases a
        WHERE a.workspace = 'default' AND a.name = model AND a.alias = ANY (follow);
    END IF;
    UPDATE {schema}.registered_models m SET last_updated_time = at WHERE m.workspace = 'default' AND m.name = model;
    IF action IN ('promoted', 'staged') THEN
        SELECT CASE WHEN r.lifecycle_stage = 'deleted' THEN 'the run ' || r.run_uuid
                    WHEN m.lifecycle_stage = 'deleted' THEN 'the logged model ' || m.model_id
                    ELSE 'the experiment ' || e.experiment_id END
        INTO lost FROM greenroom.kept k
        LEFT JOIN {schema}.runs r ON r.run_uuid = k.run_id
        LEFT JOIN {schema}.logged_models m ON m.model_id = k.model_id
        LEFT JOIN {schema}.experiments e ON e.experiment_id = coalesce(m.experiment_id, r.experiment_id)
        WHERE k.name = model AND k.version = number AND 'deleted' IN
            (r.lifecycle_stage, m.lifecycle_stage, e.lifecycle_stage)
        LIMIT 1;
        IF FOUND THEN
            RAISE EXCEPTION '% version % stands on something that was deleted: %. Restore it first, or `mlflow gc` '
                'would remove it for good.', model, number, lost
                USING ERRCODE = 'GR403', DETAIL = 'lost', HINT = model;
        END IF;
    END IF;
    PERFORM greenroom.finish();
END $$;

-- Deletes a version as MLflow does: its number stays taken, and what it said of its origin goes.
CREATE OR REPLACE FUNCTION greenroom.remove_version(model text, number int, at bigint, context jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
    IF EXISTS (SELECT 1 FROM {schema}.model_versions v WHERE v.workspace = 'default' AND v.name = model
               AND v.version = number AND v.current_stage = 'Production') THEN
        RAISE EXCEPTION '% version % is in Production', model, number USING ERRCODE = 'insufficient_privilege';
    END IF;
    PERFORM greenroom.begin(context || jsonb_build_object('action', 'deleted', 'version', number) - 'envelope');
    DELETE FROM {schema}.registered_model_aliases a
    WHERE a.workspace = 'default' AND a.name = model AND a.version = number;
    UPDATE {schema}.model_versions v SET current_stage = 'Deleted_Internal', last_updated_time = at,
        description = NULL, user_id = NULL, source = 'REDACTED-SOURCE-PATH', run_id = 'REDACTED-RUN-ID',
        run_link = 'REDACTED-RUN-LINK', status_message = NULL
    WHERE v.workspace = 'default' AND v.name = model AND v.version = number;
    UPDATE {schema}.registered_models m SET last_updated_time = at WHERE m.workspace = 'default' AND m.name = model;
    PERFORM greenroom.finish();
END $$;

CREATE OR REPLACE FUNCTION greenroom.remove_model(model text, context jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
    IF EXISTS (SELECT 1 FROM {schema}.model_versions v WHERE v.workspace = 'default' AND v.name = model
               AND v.current_stage = 'Production') THEN
        RAISE EXCEPTION '% has a version in Production', model USING ERRCODE = 'insufficient_privilege';
    END IF;
    PERFORM greenroom.begin(context || '{{"action": "deleted"}}'::jsonb - 'envelope' - 'version');
    DELETE FROM {schema}.registered_model_aliases a WHERE a.workspace = 'default' AND a.name = model;
    DELETE FROM {schema}.model_version_tags t WHERE t.workspace = 'default' AND t.name = model;
    DELETE FROM {schema}.model_versions v WHERE v.workspace = 'default' AND v.name = model;
    DELETE FROM {schema}.registered_model_tags t WHERE t.workspace = 'default' AND t.name = model;
    DELETE FROM {schema}.registered_models m WHERE m.workspace = 'default' AND m.name = model;
    PERFORM greenroom.finish();
END $$;

CREATE OR REPLACE FUNCTION greenroom.rename_model(model text, new_name text, at bigint, context jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
    IF EXISTS (SELECT 1 FROM {schema}.model_versions v WHERE v.workspace = 'default' AND v.name = model
               AND v.current_stage = 'Production') THEN
        RAISE EXCEPTION '% has a version in Production', model USING ERRCODE = 'insufficient_privilege';
    END IF;
    PERFORM greenroom.begin(context || '{{"action": "renamed"}}'::jsonb - 'envelope' - 'version');
    -- Versions, tags and aliases follow by their foreign keys.
    UPDATE {schema}.registered_models m SET name = new_name, last_updated_time = at
    WHERE m.workspace = 'default' AND m.name = model;
    UPDATE {schema}.model_versions v SET last_updated_time = at WHERE v.workspace = 'default' AND v.name = new_name;
    PERFORM greenroom.finish();
END $$;

-- Points an alias at a version, or removes it when there is none.
CREATE OR REPLACE FUNCTION greenroom.point_alias(model text, name_of_alias text, number int, context jsonb)
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
    PERFORM greenroom.begin(context || '{{"action": "alias"}}'::jsonb - 'envelope' - 'version');
    IF number IS NULL THEN
        DELETE FROM {schema}.registered_model_aliases a
        WHERE a.workspace = 'default' AND a.name = model AND a.alias = name_of_alias;
    ELSE
        INSERT INTO {schema}.registered_model_aliases (workspace, name, alias, version)
        VALUES ('default', model, name_of_alias, number)
        ON CONFLICT (workspace, name, alias) DO UPDATE SET version = excluded.version;
    END IF;
    PERFORM greenroom.finish();
END $$;

-- Puts evidence (or an override) on a version. On one that is in a stage, or in the place of other evidence, it
-- leaves a row: what stands there is what a predictor believes.
CREATE OR REPLACE FUNCTION greenroom.put_evidence(model text, number int, key text, envelope text, gate text, context jsonb)
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    stage text;
    before text;
    tag record;
BEGIN
    IF coalesce(key, '') NOT IN ('greenroom.evidence', 'greenroom.override')
       OR coalesce(envelope, '') = '' OR gate NOT IN ('passed', 'refused') THEN
        RAISE EXCEPTION 'that is no evidence' USING ERRCODE = 'insufficient_privilege';
    END IF;
    SELECT v.current_stage INTO stage FROM {schema}.model_versions v
    WHERE v.workspace = 'default' AND v.name = model AND v.version = number FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION '% has no version %', model, number USING ERRCODE = 'no_data_found';
    END IF;
    SELECT t.value INTO before FROM {schema}.model_version_tags t
    WHERE t.workspace = 'default' AND t.name = model AND t.version = number AND t.key = put_evidence.key;
    PERFORM greenroom.begin(context || jsonb_build_object('action', 'evidence', 'version', number));
    FOR tag IN SELECT key AS k, envelope AS v UNION ALL SELECT 'greenroom.gate', gate WHERE gate IS NOT NULL LOOP
        INSERT INTO {schema}.model_version_tags (workspace, name, version, key, value)
        VALUES ('default', model, number, tag.k, tag.v)
        ON CONFLICT (workspace, key, name, version) DO UPDATE SET value = excluded.value;
    END LOOP;
    IF before <> envelope OR stage IN ('Staging', 'Production') THEN
        PERFORM greenroom.append((context - 'from' - 'to') || jsonb_build_object(
            'action', 'evidence', 'model', model, 'version', number, 'envelope', envelope,
            'reason', 'put on a version in ' || stage
        ));
    END IF;
    PERFORM greenroom.finish();
END $$;

CREATE OR REPLACE TRIGGER greenroom_audit AFTER INSERT OR UPDATE OR DELETE ON {schema}.model_versions
    FOR EACH ROW EXECUTE FUNCTION greenroom.on_version();
CREATE OR REPLACE TRIGGER greenroom_audit AFTER INSERT OR UPDATE OR DELETE ON {schema}.registered_model_aliases
    FOR EACH ROW EXECUTE FUNCTION greenroom.on_alias();
CREATE OR REPLACE TRIGGER greenroom_audit AFTER INSERT OR UPDATE OR DELETE ON {schema}.model_version_tags
    FOR EACH ROW EXECUTE FUNCTION greenroom.on_tag();
CREATE OR REPLACE TRIGGER greenroom_audit AFTER INSERT OR UPDATE OR DELETE ON {schema}.registered_model_tags
    FOR EACH ROW EXECUTE FUNCTION greenroom.on_tag();

CREATE OR REPLACE TRIGGER greenroom_hold BEFORE INSERT OR UPDATE OR DELETE ON {schema}.model_versions
    FOR EACH ROW EXECUTE FUNCTION greenroom.hold_version();
CREATE OR REPLACE TRIGGER greenroom_hold BEFORE INSERT OR UPDATE OR DELETE ON {schema}.registered_models
    FOR EACH ROW EXECUTE FUNCTION greenroom.hold_model();
CREATE OR REPLACE TRIGGER greenroom_hold BEFORE INSERT OR UPDATE OR DELETE ON {schema}.registered_model_aliases
    FOR EACH ROW EXECUTE FUNCTION greenroom.hold_alias();
CREATE OR REPLACE TRIGGER greenroom_hold BEFORE INSERT OR UPDATE OR DELETE ON {schema}.model_version_tags
    FOR EACH ROW EXECUTE FUNCTION greenroom.hold_tag();
CREATE OR REPLACE TRIGGER greenroom_hold BEFORE INSERT OR UPDATE OR DELETE ON {schema}.registered_model_tags
    FOR EACH ROW EXECUTE FUNCTION greenroom.hold_tag();

-- A trigger's WHEN keeps the everyday update of a run from asking anything.
CREATE OR REPLACE TRIGGER greenroom_keep BEFORE UPDATE ON {schema}.runs FOR EACH ROW
    WHEN (NEW.lifecycle_stage = 'deleted' AND OLD.lifecycle_stage IS DISTINCT FROM 'deleted'
          OR (OLD.run_uuid, OLD.artifact_uri, OLD.experiment_id)
             IS DISTINCT FROM (NEW.run_uuid, NEW.artifact_uri, NEW.experiment_id))
    EXECUTE FUNCTION greenroom.keep();
CREATE OR REPLACE TRIGGER greenroom_keep_row BEFORE DELETE ON {schema}.runs
    FOR EACH ROW EXECUTE FUNCTION greenroom.keep();
CREATE OR REPLACE TRIGGER greenroom_keep BEFORE UPDATE ON {schema}.logged_models FOR EACH ROW
    WHEN (NEW.lifecycle_stage = 'deleted' AND OLD.lifecycle_stage IS DISTINCT FROM 'deleted'
          OR (OLD.model_id, OLD.artifact_location, OLD.experiment_id, OLD.source_run_id)
             IS DISTINCT FROM (NEW.model_id, NEW.artifact_location, NEW.experiment_id, NEW.source_run_id))
    EXECUTE FUNCTION greenroom.keep();
CREATE OR REPLACE TRIGGER greenroom_keep_row BEFORE DELETE ON {schema}.logged_models
    FOR EACH ROW EXECUTE FUNCTION greenroom.keep();
CREATE OR REPLACE TRIGGER greenroom_keep BEFORE UPDATE ON {schema}.experiments FOR EACH ROW
    WHEN (NEW.lifecycle_stage = 'deleted' AND OLD.lifecycle_stage IS DISTINCT FROM 'deleted'
          OR (OLD.experiment_id, OLD.artifact_location) IS DISTINCT FROM (NEW.experiment_id, NEW.artifact_location))
    EXECUTE FUNCTION greenroom.keep();
CREATE OR REPLACE TRIGGER greenroom_keep_row BEFORE DELETE ON {schema}.experiments
    FOR EACH ROW EXECUTE FUNCTION greenroom.keep();

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
REVOKE INSERT, UPDATE, DELETE ON {schema}.alembic_version FROM {app};
GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA {schema} TO {app};
ALTER DEFAULT PRIVILEGES IN SCHEMA {schema} GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {app};
ALTER DEFAULT PRIVILEGES IN SCHEMA {schema} GRANT USAGE, SELECT ON SEQUENCES TO {app};
REVOKE ALL ON ALL TABLES IN SCHEMA greenroom FROM {app};
GRANT USAGE ON SCHEMA greenroom TO {app};
GRANT SELECT ON greenroom.audit, greenroom.head, greenroom.installed, greenroom.kept, greenroom.unknown_names
    TO {app};
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY[
        'move(text, int, text, bigint, boolean, text[], jsonb)', 'remove_version(text, int, bigint, jsonb)',
        'remove_model(text, jsonb)', 'rename_model(text, text, bigint, jsonb)',
        'point_alias(text, text, int, jsonb)', 'put_evidence(text, int, text, text, text, jsonb)', 'record(jsonb)'
    ] LOOP
        EXECUTE 'REVOKE ALL ON FUNCTION greenroom.' || name || ' FROM PUBLIC';
        EXECUTE 'GRANT EXECUTE ON FUNCTION greenroom.' || name || ' TO ' || quote_ident({app_name});
    END LOOP;
END $$;
