"""Ways by SQL: as the role that MLflow's server runs as, as Prefect's, and as a superuser, who is found out."""

import json
from collections.abc import Callable, Iterator
from typing import Any

from bench.attack import honest
from bench.attack.target import PREFECTS_ROLE, SERVERS_ROLE, SUPERUSER, Answer, Target
from bench.attack.ways import DETECTED, Attempt, Detector, Kind, Way
from registry.client import verification
from registry.names import EVIDENCE

# What each would change of what is served; {m} is the stand's model.
CHANGES = {
    "a stage": "UPDATE {s}model_versions SET current_stage = 'Production' WHERE name = '{m}' AND version = 3",
    "a stage away": "UPDATE {s}model_versions SET current_stage = 'None' WHERE name = '{m}'",
    "a source": "UPDATE {s}model_versions SET source = 'elsewhere' WHERE name = '{m}'",
    "a place": "UPDATE {s}model_versions SET storage_location = 'elsewhere' WHERE name = '{m}'",
    "a run": "UPDATE {s}model_versions SET run_id = 'another' WHERE name = '{m}'",
    "a number": "UPDATE {s}model_versions SET version = version + 10 WHERE name = '{m}'",
    "a version's name": "UPDATE {s}model_versions SET name = 'genre' WHERE name = '{m}'",
    "a version's age": "UPDATE {s}model_versions SET creation_time = 0 WHERE name = '{m}'",
    "a workspace": "UPDATE {s}model_versions SET workspace = 'w' WHERE name = '{m}'",
    "a version in a stage": "INSERT INTO {s}model_versions (name, version, current_stage) VALUES ('{m}', 90, 'Staging')",
    "a version deleted": "DELETE FROM {s}model_versions WHERE name = '{m}' AND version = 1",
    "a model renamed": "UPDATE {s}registered_models SET name = 'x' WHERE name = '{m}'",
    "a model deleted": "DELETE FROM {s}registered_models WHERE name = '{m}'",
    "evidence": "UPDATE {s}model_version_tags SET value = 'x' WHERE name = '{m}' AND key = 'greenroom.evidence'",
    "evidence moved": "UPDATE {s}model_version_tags SET version = 3 WHERE name = '{m}' AND version = 1",
    "evidence under another key": "UPDATE {s}model_version_tags SET key = 'x' WHERE name = '{m}'",
    "evidence deleted": "DELETE FROM {s}model_version_tags WHERE name = '{m}'",
    "the gate's word": "UPDATE {s}model_version_tags SET value = 'passed' WHERE name = '{m}' AND key = 'greenroom.gate'",
    "an override": "INSERT INTO {s}model_version_tags (name, version, key, value) VALUES ('{m}', 1, 'greenroom.override', 'x')",
    "hidden as a prompt": "INSERT INTO {s}registered_model_tags (name, key, value) VALUES ('{m}', 'mlflow.prompt.is_prompt', 'true')",
    "an alias": "INSERT INTO {s}registered_model_aliases (name, alias, version) VALUES ('{m}', 'live', 3)",
    "an alias moved": "UPDATE {s}registered_model_aliases SET version = 3 WHERE name = '{m}'",
    "an alias away": "DELETE FROM {s}registered_model_aliases WHERE name = '{m}'",
    "a run deleted": "DELETE FROM {s}runs WHERE run_uuid = '{run}'",
    "a run marked": "UPDATE {s}runs SET lifecycle_stage = 'deleted' WHERE run_uuid = '{run}'",
    "a run's artifacts": "UPDATE {s}runs SET artifact_uri = 'elsewhere' WHERE run_uuid = '{run}'",
    "a logged model's artifacts": "UPDATE {s}logged_models SET artifact_location = 'elsewhere' WHERE model_id = '{logged}'",
    "an experiment marked": "UPDATE {s}experiments SET lifecycle_stage = 'deleted' WHERE experiment_id = {experiment}",
    "the audit written": "INSERT INTO greenroom.audit SELECT id + 1, model, body, previous, hash FROM greenroom.audit ORDER BY id DESC LIMIT 1",
    "the audit changed": "UPDATE greenroom.audit SET body = '{{}}'",
    "the audit deleted": "DELETE FROM greenroom.audit",
    "the head": "UPDATE greenroom.head SET id = 0, hash = ''",
    "who acts": "INSERT INTO greenroom.acting VALUES (pg_current_xact_id(), '{{}}')",
}
Wrap = Callable[[str], tuple[str, ...]]
_PROMOTED = json.dumps({"action": "promoted", "version": 3, "actor": "olga", "proven": True, "envelope": "x"})
# In what a statement may be dressed up.
_DRESSES: dict[str, Wrap] = {
    "plain": lambda s: (s,),
    "with a context": lambda s: (f"SELECT set_config('greenroom.context', '{_PROMOTED}', true)", s),
    "other search path": lambda s: ("SET LOCAL search_path = pg_temp, public, greenroom", s),
    "in a DO block": lambda s: (f"DO $do$ BEGIN EXECUTE $q${s}$q$; END $do$",),
    "in a CTE": lambda s: (f"WITH x AS ({s} RETURNING 1) SELECT count(*) FROM x",),
    "prepared": lambda s: (f"PREPARE p AS {s}", "EXECUTE p", "DEALLOCATE p"),
    "as a replica": lambda s: ("SET LOCAL session_replication_role = replica", s),
    "after begin": lambda s: (f"SELECT greenroom.begin('{_PROMOTED}')", s),
}
_ON_THE_AUDIT = ("the audit written", "the audit changed", "the audit deleted", "the head", "who acts")


def _filled(target: Target, text: str) -> str:
    places = target.places
    return text.format(
        s="", m=target.model, run=places["run1"], logged=places["model1"], experiment=places["experiment"]
    )


def _dressed(account: str, text: str, wrap: Wrap) -> Callable[[Target], Answer]:
    return lambda target: target.sql(account, *wrap(_filled(target, text)))


def _change_ways() -> Iterator[Way]:
    for what, text in CHANGES.items():
        for dress, wrap in _DRESSES.items():
            yield Way("SQL, rows", SERVERS_ROLE, f"{what}, {dress}", _dressed(SERVERS_ROLE, text, wrap))


# What would take the guards away, or go round them.
STRUCTURE = (
    "ALTER TABLE model_versions DISABLE TRIGGER ALL",
    "ALTER TABLE model_versions DISABLE TRIGGER greenroom_hold",
    "DROP TRIGGER greenroom_hold ON model_versions",
    "DROP TRIGGER greenroom_audit ON model_version_tags",
    "DROP INDEX greenroom_one_production",
    "ALTER TABLE model_versions DROP CONSTRAINT greenroom_known_stage",
    "TRUNCATE model_versions CASCADE",
    "TRUNCATE greenroom.audit",
    "DROP TABLE greenroom.audit",
    "DROP SCHEMA greenroom CASCADE",
    "ALTER SCHEMA greenroom OWNER TO mlflow",
    "ALTER TABLE model_versions OWNER TO mlflow",
    "ALTER TABLE model_versions RENAME TO mv",
    "ALTER TABLE model_versions RENAME COLUMN current_stage TO x",
    "ALTER TABLE model_versions ADD COLUMN x int",
    "CREATE TABLE public.x (a int)",
    "CREATE TABLE greenroom.x (a int)",
    "CREATE VIEW public.v AS SELECT 1",
    "CREATE FUNCTION public.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE FUNCTION greenroom.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE OR REPLACE FUNCTION greenroom.may_change(relation oid) RETURNS boolean LANGUAGE sql AS 'SELECT true'",
    "CREATE TRIGGER a BEFORE UPDATE ON model_versions FOR EACH ROW EXECUTE FUNCTION greenroom.hold_version()",
    "CREATE RULE r AS ON UPDATE TO model_versions DO INSTEAD NOTHING",
    "CREATE POLICY p ON model_versions",
    "ALTER FUNCTION greenroom.hold_version() OWNER TO mlflow",
    "ALTER FUNCTION greenroom.move(text, int, text, bigint, boolean, text[], jsonb) SET search_path = public",
    "DROP FUNCTION greenroom.hold_version() CASCADE",
    "GRANT ALL ON greenroom.audit TO mlflow",
    "GRANT EXECUTE ON FUNCTION greenroom.append(jsonb) TO mlflow",
    "GRANT postgres TO mlflow",
    "SET ROLE postgres",
    "SET SESSION AUTHORIZATION postgres",
    "ALTER ROLE mlflow SUPERUSER",
    "ALTER ROLE mlflow SET session_replication_role = replica",
    "ALTER ROLE postgres PASSWORD 'x'",
    "CREATE ROLE x SUPERUSER",
    "ALTER DATABASE mlflow SET session_replication_role = replica",
    "ALTER DATABASE mlflow OWNER TO mlflow",
    "ALTER SYSTEM SET session_replication_role = 'replica'",
    "ALTER DEFAULT PRIVILEGES FOR ROLE postgres GRANT ALL ON TABLES TO mlflow",
    "CREATE EXTENSION dblink",
    "CREATE EXTENSION plpython3u",
    "CREATE LANGUAGE plperlu",
    "CREATE EVENT TRIGGER e ON ddl_command_start EXECUTE FUNCTION greenroom.keep()",
    "CREATE SERVER s FOREIGN DATA WRAPPER postgres_fdw",
    "CREATE PUBLICATION p FOR TABLE model_versions",
    "CREATE SUBSCRIPTION s CONNECTION 'x' PUBLICATION p",
    "COPY model_versions FROM PROGRAM 'id'",
    "COPY (SELECT 1) TO PROGRAM 'id'",
    "COPY model_version_tags FROM '/etc/passwd'",
    "COPY (SELECT 1) TO '/tmp/greenroom-attack'",
    "SELECT pg_read_file('/etc/passwd')",
    "SELECT pg_read_binary_file('postgresql.conf')",
    "SELECT pg_ls_dir('/')",
    "SELECT lo_import('/etc/passwd')",
    "SELECT lo_export(1, '/tmp/greenroom-attack')",
    "SELECT * FROM pg_authid",
    "SELECT rolpassword FROM pg_authid",
    "SELECT * FROM pg_shadow",
    "SELECT pg_reload_conf()",
    "SELECT pg_switch_wal()",
    "SELECT pg_create_physical_replication_slot('x')",
    "SELECT set_config('session_replication_role', 'replica', false)",
    'SELECT greenroom.append(\'{"model": "x", "action": "promoted"}\')',
    "SELECT greenroom.begin('{}')",
    "SELECT greenroom.finish()",
    "SELECT greenroom.count_unknown('{}')",
    "SELECT greenroom.described('{}')",
    "SELECT greenroom.said('{}')",
    "SELECT greenroom.on_version()",
    "SELECT greenroom.keep()",
    "SELECT * FROM greenroom.acting",
    "LOCK TABLE greenroom.audit IN ACCESS EXCLUSIVE MODE",
    "COMMENT ON TABLE model_versions IS 'x'",
    "REINDEX TABLE model_versions",
    "CLUSTER model_versions",
    "SECURITY LABEL ON TABLE model_versions IS 'x'",
    "MERGE INTO model_versions v USING (SELECT 1) x ON true WHEN MATCHED THEN UPDATE SET current_stage = 'Staging'",
    "INSERT INTO model_version_tags (name, version, key, value) SELECT name, version, key, value FROM model_version_tags WHERE key = 'greenroom.evidence' ON CONFLICT (workspace, key, name, version) DO UPDATE SET value = 'x'",
    "UPDATE alembic_version SET version_num = 'x'",
)
# Tables and functions of its own, in front of the guards'.
_TEMPORARY = {
    "a table of tags": (
        "CREATE TEMP TABLE model_version_tags (workspace text, name text, version int, key text, value text)",
        "INSERT INTO pg_temp.model_version_tags VALUES ('default', '{m}', 3, 'greenroom.evidence', 'x')",
        "SELECT greenroom.move('{m}', 3, 'Production', 0, false, '{{}}', '{{\"action\": \"promoted\", \"envelope\": \"x\"}}')",
    ),
    "a table of classes": (
        "CREATE TEMP TABLE pg_class (oid oid, relowner oid)",
        "INSERT INTO pg_temp.pg_class SELECT 'public.model_versions'::regclass, 'mlflow'::regrole",
        "SET LOCAL search_path = pg_temp, pg_catalog, public",
        "UPDATE model_versions SET current_stage = 'Production' WHERE name = '{m}' AND version = 3",
    ),
    "a function of rights": (
        "CREATE FUNCTION pg_temp.pg_has_role(name, oid, text) RETURNS boolean LANGUAGE sql AS 'SELECT true'",
        "SET LOCAL search_path = pg_temp, pg_catalog, public",
        "UPDATE model_versions SET current_stage = 'Production' WHERE name = '{m}' AND version = 3",
    ),
    "a trigger of another table": (
        "CREATE TEMP TABLE t (LIKE public.model_versions)",
        "CREATE TRIGGER a AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION greenroom.on_version()",
        "INSERT INTO t (name, version, current_stage, workspace) VALUES ('{m}', 3, 'Production', 'default')",
    ),
    "a view that writes": (
        "CREATE TEMP VIEW v AS SELECT * FROM public.model_versions",
        "UPDATE v SET current_stage = 'Production' WHERE name = '{m}' AND version = 3",
    ),
    "a cursor": (
        "DECLARE c CURSOR FOR SELECT * FROM model_versions WHERE name = '{m}' AND version = 3 FOR UPDATE",
        "FETCH c",
        "UPDATE model_versions SET current_stage = 'Production' WHERE CURRENT OF c",
    ),
    "a copy from standard input": (
        "CREATE TEMP TABLE t AS SELECT * FROM model_versions WHERE name = '{m}' AND version = 3",
        "UPDATE t SET version = 91, current_stage = 'Staging'",
        "INSERT INTO model_versions SELECT * FROM t",
    ),
    "a deferred constraint": (
        "SET CONSTRAINTS ALL DEFERRED",
        "UPDATE registered_models SET name = '{m}-x' WHERE name = '{m}'",
    ),
    "an operator of its own": (
        "CREATE OPERATOR pg_temp.= (leftarg = text, rightarg = text, function = texteq)",
        "SET LOCAL search_path = pg_temp, public",
        "UPDATE model_versions SET current_stage = 'Production' WHERE name = '{m}' AND version = 3",
    ),
    "a cast of its own": ("CREATE CAST (text AS boolean) WITH INOUT AS IMPLICIT",),
    "a savepoint": (
        "SAVEPOINT s",
        'SELECT greenroom.record(\'{{"action": "refused", "model": "{m}"}}\')',
        "ROLLBACK TO s",
        "UPDATE model_versions SET current_stage = 'Production' WHERE name = '{m}' AND version = 3",
    ),
}


def _structure_ways() -> Iterator[Way]:
    for text in STRUCTURE:
        # PostgreSQL warns of a GRANT of nothing, and calls it done.
        harmless = text == "GRANT ALL ON greenroom.audit TO mlflow"
        yield Way("SQL, structure", SERVERS_ROLE, text, _plain(SERVERS_ROLE, text), harmless=harmless)
        if any(word in text for word in _OF_THE_SERVER):
            yield Way("SQL, structure", PREFECTS_ROLE, text, _elsewhere(text))
    yield Way(
        "SQL, structure", PREFECTS_ROLE, "connects to MLflow's database", _plain(PREFECTS_ROLE, "SELECT 1")
    )
    for what, statements in _TEMPORARY.items():
        yield Way("SQL, structure", SERVERS_ROLE, what, _several(statements))


# What no database of one's own makes harmless.
_OF_THE_SERVER = (
    "ROLE",
    "pg_authid",
    "pg_shadow",
    "PROGRAM",
    "/",
    "SYSTEM",
    "DATABASE mlflow",
    "GRANT postgres",
    "pg_read",
    "AUTHORIZATION postgres",
    "plperlu",
    "plpython",
    "replication",
    "SUBSCRIPTION",
)


def _elsewhere(text: str) -> Callable[[Target], Answer]:
    return lambda target: target.sql(PREFECTS_ROLE, text, database="prefect")


def _plain(account: str, text: str) -> Callable[[Target], Answer]:
    return lambda target: target.sql(account, text)


def _several(statements: tuple[str, ...]) -> Callable[[Target], Answer]:
    return lambda target: target.sql(SERVERS_ROLE, *(_filled(target, text) for text in statements))


# The functions that the server's role may call: what they refuse.
_CONTEXTS: dict[str, Callable[[Target], Any]] = {
    **{
        f"{action} to {to}": (lambda t, a=action: {"action": a, "envelope": t.places["evidence1"]})  # type: ignore[misc]
        for action, to in (
            ("archived", "Production"),
            ("moved", "Staging"),
            ("staged", "Production"),
            ("deleted", "Archived"),
            ("promoted", "Deleted_Internal"),
            ("found", "Production"),
            ("sql", "Production"),
            (None, "Production"),
            ("promoted", "production"),
            ("promoted", ""),
            ("rollback", "Staging"),
            ("evidence", "Production"),
        )
    },
    "promoted to Production": lambda _: {"action": "promoted", "envelope": "x"},
    "staged to Staging": lambda _: {"action": "staged"},
    "override to Production": lambda t: {"action": "override", "envelope": t.places["evidence1"]},
    "rollback to Production": lambda t: {"action": "rollback", "envelope": t.places["evidence4"]},
}
_CALLS = (
    "SELECT greenroom.remove_version('{m}', 1, 0, '{{}}')",
    "SELECT greenroom.remove_model('{m}', '{{}}')",
    "SELECT greenroom.rename_model('{m}', 'x', 0, '{{}}')",
    "SELECT greenroom.put_evidence('{m}', 3, 'greenroom.gate', 'x', 'passed', '{{}}')",
    "SELECT greenroom.put_evidence('{m}', 3, 'greenroom.evidence', '', 'passed', '{{}}')",
    "SELECT greenroom.put_evidence('{m}', 3, 'greenroom.evidence', 'x', 'maybe', '{{}}')",
    "SELECT greenroom.put_evidence('{m}', 99, 'greenroom.evidence', 'x', 'passed', '{{}}')",
    'SELECT greenroom.record(\'{{"action": "promoted", "model": "{m}", "to": "Production"}}\')',
    'SELECT greenroom.record(\'{{"action": "rollback", "model": "{m}"}}\')',
    'SELECT greenroom.record(\'{{"action": "sql", "model": "{m}"}}\')',
    'SELECT greenroom.record(\'{{"action": "refused"}}\')',
    'SELECT greenroom.record(\'{{"action": "override", "model": "{m}", "version": 3, "from": "Production", "to": "Production"}}\')',
    'SELECT greenroom.record(\'{{"action": "override", "model": "{m}", "version": 1, "from": "None", "to": "Production"}}\')',
    "SELECT greenroom.move('{m}', 99, 'Production', 0, false, '{{}}', '{{}}')",
    "SELECT greenroom.move(NULL, NULL, NULL, NULL, NULL, NULL, NULL)",
    "SELECT greenroom.move('{m}', 3, 'Production', 0, false, '{{champion}}', '[]')",
)


def _call_ways() -> Iterator[Way]:
    for what, context in _CONTEXTS.items():
        yield Way("SQL, functions", SERVERS_ROLE, f"move: {what}", _moving(what, context))
    for text in _CALLS:
        yield Way("SQL, functions", SERVERS_ROLE, text, _several((text,)))
    for what, (calling, by) in _FORGED.items():
        yield Way("SQL, functions", SERVERS_ROLE, what, calling, DETECTED, by)


def _moving(what: str, context: Callable[[Target], Any]) -> Callable[[Target], Answer]:
    to = what.partition(" to ")[2]

    def act(target: Target) -> Answer:
        said = json.dumps(context(target)).replace("'", "''")
        return target.sql(
            SERVERS_ROLE, f"SELECT greenroom.move('{target.model}', 3, '{to}', 0, false, '{{}}', '{said}')"
        )

    return act


def _forged_evidence(stage: str, *, move: bool = True) -> Callable[[Target], Attempt]:
    """Put an envelope that nobody signed on a version, and move it, by the server's own functions."""

    def act(target: Target) -> Attempt:
        version = honest.prey(target, None, attested=False)
        name, actions = version.model, {"Staging": "staged", "Production": "promoted"}
        said = json.dumps({"action": actions[stage], "actor": "olga", "proven": True, "envelope": "x"})
        put = f"SELECT greenroom.put_evidence('{name}', 1, '{EVIDENCE}', 'x', 'passed', '{said}')"
        moved = f"SELECT greenroom.move('{name}', 1, '{stage}', 0, false, '{{}}', '{said}')"
        return Attempt((target.sql(SERVERS_ROLE, put, *([moved] if move else [])),), name)

    return act


def _evidence_of_another(target: Target) -> Attempt:
    version = honest.prey(target, None, attested=False)
    envelope = target.places["evidence1"].replace("'", "''")
    said = json.dumps(
        {"action": "promoted", "actor": "olga", "envelope": target.places["evidence1"]}
    ).replace("'", "''")
    return Attempt(
        (
            target.sql(
                SERVERS_ROLE,
                f"SELECT greenroom.put_evidence('{version.model}', 1, '{EVIDENCE}', '{envelope}', 'passed', '{said}')",
                f"SELECT greenroom.move('{version.model}', 1, 'Production', 0, false, '{{}}', '{said}')",
            ),
        ),
        version.model,
    )


def _over_production(target: Target) -> Attempt:
    version = honest.prey(target)
    put = f"SELECT greenroom.put_evidence('{version.model}', 1, '{EVIDENCE}', 'x', 'passed', '{{}}')"
    return Attempt((target.sql(SERVERS_ROLE, put),), version.model)


def _alias_by_function(target: Target) -> Attempt:
    version = honest.prey(target)
    honest.register(
        target,
        version.model,
        str(target.client.get("runs/get", {"run_id": version.run_id})["run"]["info"]["experiment_id"]),
    )
    call = f"SELECT greenroom.point_alias('{version.model}', 'champion', 2, '{{}}')"
    return Attempt((target.sql(SERVERS_ROLE, call),), version.model)


_FORGED: dict[str, tuple[Callable[[Target], Attempt], Detector]] = {
    "an envelope that nobody signed, to Production": (_forged_evidence("Production"), "verify"),
    "an envelope that nobody signed, to Production, loaded": (_forged_evidence("Production"), "predictor"),
    "an envelope that nobody signed, to Staging": (_forged_evidence("Staging"), "verify"),
    "an envelope that nobody signed, moved by the server": (
        _forged_evidence("Staging", move=False),
        "transition",
    ),
    "evidence of another, to Production": (_evidence_of_another, "verify"),
    "evidence of another, to Production, loaded": (_evidence_of_another, "predictor"),
    "other evidence on what is in Production": (_over_production, "verify"),
    "other evidence on what is in Production, its row": (_over_production, "audit"),
    "an alias that means Production": (_alias_by_function, "verify"),
}

# A superuser cannot be kept from anything; {p} is a model made for the way, version 1 in a stage.
_SUPERUSERS: dict[str, tuple[str, Detector]] = {
    "a stage": ("UPDATE model_versions SET current_stage = 'Staging' WHERE name = '{p}'", "verify"),
    "a stage, its row": ("UPDATE model_versions SET current_stage = 'Staging' WHERE name = '{p}'", "audit"),
    "a stage under a context": (
        "SELECT set_config('greenroom.context', '{{\"action\": \"staged\"}}', true); UPDATE model_versions SET current_stage = 'Staging' WHERE name = '{p}'",
        "verify",
    ),
    "a stage without triggers": (
        "SET LOCAL session_replication_role = replica; UPDATE model_versions SET current_stage = 'Staging' WHERE name = '{p}'",
        "verify",
    ),
    "another version's evidence": (
        "UPDATE model_version_tags SET value = (SELECT value FROM model_version_tags WHERE key = 'greenroom.evidence' AND name <> '{p}' LIMIT 1) WHERE name = '{p}' AND key = 'greenroom.evidence'",
        "verify",
    ),
    "other evidence, loaded": (
        "UPDATE model_version_tags SET value = 'x' WHERE name = '{p}' AND key = 'greenroom.evidence'",
        "predictor",
    ),
    "evidence away": (
        "DELETE FROM model_version_tags WHERE name = '{p}' AND key = 'greenroom.evidence'",
        "verify",
    ),
    "evidence away without triggers": (
        "SET LOCAL session_replication_role = replica; DELETE FROM model_version_tags WHERE name = '{p}'",
        "verify",
    ),
    "a source": ("UPDATE model_versions SET source = 'models:/m-0' WHERE name = '{p}'", "verify"),
    "a source, loaded": ("UPDATE model_versions SET source = 'models:/m-0' WHERE name = '{p}'", "predictor"),
    "an alias": (
        "INSERT INTO registered_model_aliases (name, alias, version) VALUES ('{p}', 'champion', 7)",
        "verify",
    ),
    "an alias without triggers": (
        "SET LOCAL session_replication_role = replica; INSERT INTO registered_model_aliases (name, alias, version) VALUES ('{p}', 'Champion', 7)",
        "verify",
    ),
    "hidden as a prompt": (
        "INSERT INTO registered_model_tags (name, key, value) VALUES ('{p}', 'mlflow.prompt.is_prompt', 'true')",
        "verify",
    ),
    "version gone": ("DELETE FROM model_versions WHERE name = '{p}'", "audit"),
    "version gone without triggers": (
        "SET LOCAL session_replication_role = replica; DELETE FROM model_version_tags WHERE name = '{p}'; DELETE FROM model_versions WHERE name = '{p}'",
        "verify",
    ),
    "renamed without triggers": (
        "SET LOCAL session_replication_role = replica; UPDATE model_versions SET name = '{p}-x' WHERE name = '{p}'",
        "verify",
    ),
}
# On the audit's own rows, which are put back.
_ROWS = {
    "a row's text": "UPDATE greenroom.audit SET body = replace(body, 'promoted', 'staged') WHERE model = '{p}' AND body LIKE '%promoted%'",
    "a row's model": "UPDATE greenroom.audit SET model = 'x' WHERE model = '{p}'",
    "a row's hash": "UPDATE greenroom.audit SET hash = md5(hash) WHERE model = '{p}'",
    "a row's number": "UPDATE greenroom.audit SET id = -id WHERE model = '{p}'",
    "rows deleted": "DELETE FROM greenroom.audit WHERE model = '{p}'",
    "a row said anew": "UPDATE greenroom.audit SET body = replace(body, '\"proven\": false', '\"proven\": true') WHERE model = '{p}'",
}


def _superuser_ways() -> Iterator[Way]:
    for what, (text, by) in _SUPERUSERS.items():
        yield Way("SQL, superuser", SUPERUSER, what, _on_prey(text), DETECTED, by)
    for what, text in _ROWS.items():
        yield Way("SQL, superuser", SUPERUSER, f"the audit: {what}", _on_rows(text), DETECTED, "verify")


def _on_prey(text: str) -> Callable[[Target], Attempt]:
    def act(target: Target) -> Attempt:
        version = honest.prey(target)
        return Attempt((target.sql(SUPERUSER, text.format(p=version.model)),), version.model)

    return act


def _on_rows(text: str) -> Callable[[Target], Attempt]:
    """Change rows of the audit, ask `verify`, and put them back: the chain is everybody's."""

    def act(target: Target) -> Attempt:
        version = honest.prey(target)
        target.rows("CREATE TABLE greenroom.before_attack AS SELECT * FROM greenroom.audit")
        try:
            done = target.sql(SUPERUSER, text.format(p=version.model))
            report = verification.verify(target.client, target.keys, [version.model], full=True)
        finally:
            target.rows("DELETE FROM greenroom.audit")
            target.rows("INSERT INTO greenroom.audit SELECT * FROM greenroom.before_attack")
            target.rows("DROP TABLE greenroom.before_attack")
        return Attempt((done,), version.model, told=tuple(report.problems))

    return act


KINDS = (
    Kind("SQL, rows", "statements that change what is served, in 8 dresses", _change_ways),
    Kind(
        "SQL, structure",
        "tables, triggers, functions, roles, files; temporary things in front",
        _structure_ways,
    ),
    Kind("SQL, functions", "the functions that the server's role may call, with forged words", _call_ways),
    Kind("SQL, superuser", "what a superuser does, and who finds it", _superuser_ways),
)
