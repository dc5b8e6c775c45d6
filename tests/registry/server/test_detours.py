"""Ways round the guard that somebody found once: each refused now, or found by `greenroom verify`."""

import json
from typing import Any

import httpx
import psycopg2
import pytest

from registry.client import audit_log, verification
from registry.client.registry import MODEL_FILE, Version
from registry.client.tracking_client import TrackingClient
from registry.errors import NotFoundError, RegistryRefusedError
from registry.names import ACTION_HEADER, EVIDENCE, GATE, REASON_HEADER, Stage
from tests.registry.support.registered import Registrar, verdict

PROMPT = {"key": "mlflow.prompt.is_prompt", "value": "true"}


def move(registrar: Registrar, number: int, stage: str, headers: dict[str, str] | None = None) -> None:
    body = {"name": registrar.name, "version": str(number), "stage": stage}
    registrar.client.post("model-versions/transition-stage", body, headers)


def found(registrar: Registrar) -> tuple[list[str], list[str]]:
    """What `greenroom verify` says of this model: problems (but for the made-up reports) and notes."""
    said = verification.verify(registrar.client, registrar.gate.settings, [registrar.name])
    mine = [p for p in said.problems if registrar.name in p and "gate's reports" not in p]
    return mine, [note for note in said.notes if registrar.name in note]


def test_whom_it_had_to_beat_is_not_taken_away_for_a_moment(registrar: Registrar) -> None:
    first, second = registrar.good(), registrar.good()  # both compared with nothing
    registrar.registry.promote(first, Stage.STAGING)
    registrar.registry.promote(first, Stage.PRODUCTION)
    move(registrar, 1, "Archived")
    with pytest.raises(RegistryRefusedError, match="What is in Production changed since"):
        move(registrar, second.number, "Production")


def test_nor_rolled_back_to(registrar: Registrar) -> None:
    registrar.in_production()
    second, third = registrar.good(), registrar.good()  # both compared with version 1
    move(registrar, second.number, "Production")
    move(registrar, 1, "Production", {ACTION_HEADER: "rollback", REASON_HEADER: "x"})
    with pytest.raises(RegistryRefusedError, match="What is in Production changed since"):
        move(registrar, third.number, "Production")


def test_a_prompt_holds_no_versions_of_models(registrar: Registrar) -> None:
    """A prompt's aliases are its own: a model must not hide behind one."""
    name = f"{registrar.name}-mood"
    client, source = registrar.client, registrar.in_production().source
    client.post("registered-models/create", {"name": name, "tags": [PROMPT]})
    body = {"name": name, "source": source, "model_id": source.removeprefix("models:/")}
    with pytest.raises(RegistryRefusedError, match="is a prompt, and holds no versions of models"):
        client.post("model-versions/create", body)
    with pytest.raises(RegistryRefusedError):  # MLflow's own rule
        client.post("model-versions/create", {**body, "tags": [PROMPT]})


@pytest.mark.parametrize("name", ["genre", None])
def test_a_models_name_is_not_a_prompts(registrar: Registrar, name: str | None) -> None:
    if name is None:
        registrar.in_production()
        move(registrar, 1, "Archived")
        delete(registrar)
    with pytest.raises(RegistryRefusedError, match=r"is the name of a model|already exists"):
        registrar.client.post("registered-models/create", {"name": name or registrar.name, "tags": [PROMPT]})


def delete(registrar: Registrar) -> None:
    """Delete the model, as MLflow's REST API does."""
    registrar.client._json(
        registrar.client._send(
            "DELETE", "/api/2.0/mlflow/registered-models/delete", json={"name": registrar.name}
        )
    )


def test_a_model_hidden_by_sql_is_found(registrar: Registrar, sql: Any) -> None:
    registrar.in_production()
    sql.execute(
        "INSERT INTO registered_model_tags (name, key, value) VALUES (%s, %s, 'true')",
        (registrar.name, PROMPT["key"]),
    )
    problems, notes = found(registrar)
    assert any("is marked as a prompt" in problem for problem in problems), problems
    assert any("changed by SQL" in note for note in notes), notes
    sql.execute("DELETE FROM registered_model_tags WHERE name = %s", (registrar.name,))
    assert found(registrar)[0] == []
    sql.execute(
        "INSERT INTO model_version_tags (name, version, key, value) VALUES (%s, 1, %s, 'true')",
        (registrar.name, PROMPT["key"]),
    )
    assert len(audit_log.history(registrar.client, registrar.name)) > len(notes)
    assert registrar.registry.versions(registrar.name) == []  # hidden, and looked at all the same
    assert any(row.action == "sql" for row in audit_log.history(registrar.client, registrar.name)[-1:])


def forge(sql: Any, context: dict[str, Any], *statements: tuple[str, tuple[Any, ...]]) -> None:
    """Change something by SQL, saying what a guard of before would have said."""
    sql.execute("BEGIN")
    try:
        sql.execute("SELECT set_config('greenroom.context', %s, true)", (json.dumps(context),))
        for statement, values in statements:
            sql.execute(statement, values)
        sql.execute("COMMIT")
    except psycopg2.Error:
        sql.execute("ROLLBACK")
        raise


SET = "UPDATE model_versions SET current_stage = %s WHERE name = %s AND version = %s"


MOVE = "SELECT greenroom.move(%s, %s, %s, 0, false, '{}', %s)"


def test_what_the_server_calls_takes_no_evidence_that_does_not_hold(
    registrar: Registrar, sql: Any, server_sql: Any
) -> None:
    """Version 2 has genuine evidence, which the server has just refused: it was compared with nobody.

    Whoever has the password of the server's role may call the server's functions, and is found out.
    """
    registrar.good()
    second = registrar.good()
    registrar.gate.to_production(registrar.registry.version(registrar.name, 1))
    with pytest.raises(RegistryRefusedError):
        move(registrar, second.number, "Production")
    name = registrar.name
    context = {"action": "promoted", "actor": "alice", "proven": True}
    evidence = registrar.registry.evidence(second, registrar.gate.settings)
    whole = {
        **context,
        "envelope": second.tags[EVIDENCE],
        "evidence": evidence.digest,
        "digest": evidence.files_digest,
    }
    server_sql.execute(MOVE, (name, 2, "Production", json.dumps(whole)))
    problems, _ = found(registrar)
    assert any("on evidence that does not hold" in problem for problem in problems), problems
    for envelope in (None, "", "x", registrar.registry.version(name, 1).tags[EVIDENCE]):
        with pytest.raises(psycopg2.errors.InsufficientPrivilege, match="evidence that stands on it"):
            server_sql.execute(
                MOVE, (name, 2, "Staging", json.dumps({"action": "staged", "envelope": envelope}))
            )
    back = {**whole, "action": "rollback"}
    server_sql.execute(MOVE, (name, 2, "Archived", json.dumps({"action": "archived"})))
    with pytest.raises(psycopg2.errors.InsufficientPrivilege, match="to Production once"):
        server_sql.execute(MOVE, (name, 2, "Production", json.dumps(whole)))
    third = registrar.good()
    back_to_third = json.dumps({**back, "envelope": third.tags[EVIDENCE]})
    with pytest.raises(psycopg2.errors.InsufficientPrivilege, match="what was in Production before"):
        server_sql.execute(MOVE, (name, third.number, "Production", back_to_third))
    # A setting of the session says nothing, not even a superuser's.
    forge(
        sql,
        whole,
        (SET, ("Production", name, 1)),
    )
    last = audit_log.history(registrar.client, name)[-1]
    assert (last.action, last.actor) == ("sql", "postgres")
    assert any("was set to Production by SQL" in problem for problem in found(registrar)[0])


@pytest.mark.parametrize(
    ("action", "target"),
    [
        ("archived", "Production"),
        ("moved", "Staging"),
        ("staged", "Production"),
        ("deleted", "Archived"),
        ("promoted", "Deleted_Internal"),
        ("found", "Production"),
        ("sql", "Production"),
        (None, "Production"),
        ("promoted", None),
    ],
)
def test_no_action_leads_where_it_does_not_belong(
    registrar: Registrar, server_sql: Any, action: str | None, target: str | None
) -> None:
    version = registrar.good()
    context = json.dumps({"action": action, "envelope": version.tags[EVIDENCE]})
    with pytest.raises(psycopg2.errors.InsufficientPrivilege, match="is no way to"):
        server_sql.execute(MOVE, (registrar.name, version.number, target, context))
    assert registrar.registry.version(registrar.name, version.number).stage is Stage.NONE


def test_a_recorded_override_covers_nothing(registrar: Registrar, sql: Any) -> None:
    version = registrar.gate.attest(registrar.version(verdict(registrar.name)))
    sql.execute(SET, ("Production", registrar.name, 1))
    entry = {
        "action": "override",
        "model": registrar.name,
        "version": 1,
        "from": "Production",
        "to": "Production",
        "envelope": version.tags[EVIDENCE],
        "evidence": "sha256:0",
    }
    sql.execute("SELECT greenroom.record(%s)", (json.dumps(entry),))
    problems, _ = found(registrar)
    assert any("on evidence of the kind gate" in problem for problem in problems), problems
    with pytest.raises(psycopg2.errors.RaiseException, match="in the stage that it is in"):
        sql.execute("SELECT greenroom.record(%s)", (json.dumps({**entry, "version": 7}),))


def test_an_alias_set_by_sql_is_found(registrar: Registrar, sql: Any) -> None:
    registrar.in_production()
    registrar.version()
    sql.execute(
        "INSERT INTO registered_model_aliases (name, alias, version) VALUES (%s, 'Champion', 2)",
        (registrar.name,),
    )
    problems, notes = found(registrar)
    assert any("'Champion'" in p and "points at version 2" in p for p in problems), problems
    assert notes


BY_THE_SERVERS_ROLE = {
    "stage": "UPDATE model_versions SET current_stage = 'Staging' WHERE name = '{name}'",
    "source": "UPDATE model_versions SET source = 'elsewhere' WHERE name = '{name}'",
    "storage location": "UPDATE model_versions SET storage_location = 'elsewhere' WHERE name = '{name}'",
    "run": "UPDATE model_versions SET run_id = 'another' WHERE name = '{name}'",
    "number": "UPDATE model_versions SET version = 9 WHERE name = '{name}'",
    "name": "UPDATE model_versions SET name = 'genre' WHERE name = '{name}'",
    "age": "UPDATE model_versions SET creation_time = 0 WHERE name = '{name}'",
    "workspace": "UPDATE model_versions SET workspace = 'w' WHERE name = '{name}'",
    "a version in a stage": "INSERT INTO model_versions (name, version, current_stage) "
    "VALUES ('{name}', 9, 'Staging')",
    "a version elsewhere": "INSERT INTO model_versions (workspace, name, version, current_stage) "
    "VALUES ('w', '{name}', 9, 'None')",
    "a model elsewhere": "INSERT INTO registered_models (workspace, name) VALUES ('w', '{name}')",
    "version gone": "DELETE FROM model_versions WHERE name = '{name}'",
    "model renamed": "UPDATE registered_models SET name = 'x' WHERE name = '{name}'",
    "model gone": "DELETE FROM registered_models WHERE name = '{name}'",
    "evidence": "UPDATE model_version_tags SET value = 'x' WHERE name = '{name}' "
    "AND key = 'greenroom.evidence'",
    "evidence elsewhere": "UPDATE model_version_tags SET version = 2 WHERE name = '{name}'",
    "evidence under another key": "UPDATE model_version_tags SET key = 'x' WHERE name = '{name}'",
    "evidence gone": "DELETE FROM model_version_tags WHERE name = '{name}' AND key = 'greenroom.evidence'",
    "the gate's word": "UPDATE model_version_tags SET value = 'passed' WHERE name = '{name}' "
    "AND key = 'greenroom.gate'",
    "an override": "INSERT INTO model_version_tags (name, version, key, value) "
    "VALUES ('{name}', 1, 'greenroom.override', 'x')",
    "hidden as a prompt": "INSERT INTO registered_model_tags (name, key, value) "
    "VALUES ('{name}', 'mlflow.prompt.is_prompt', 'true')",
    "a hidden version": "INSERT INTO model_version_tags (name, version, key, value) "
    "VALUES ('{name}', 1, 'mlflow.prompt.is_prompt', 'true')",
    "an alias": "INSERT INTO registered_model_aliases (name, alias, version) VALUES ('{name}', 'x', 1)",
    "an alias that means Production": "INSERT INTO registered_model_aliases (name, alias, version) "
    "VALUES ('{name}', 'champion', 1)",
    "the transaction's word": "INSERT INTO greenroom.acting VALUES (pg_current_xact_id(), '{{}}')",
    "begin": "SELECT greenroom.begin('{{}}')",
    "finish": "SELECT greenroom.finish()",
}
CONTEXTS = (
    None,
    {"action": "alias"},
    {"action": "evidence"},
    {"action": "deleted"},
    {"action": "renamed"},
    {"action": "archived", "version": 1},
    {"action": "promoted", "version": 1, "envelope": "x"},
)


@pytest.mark.parametrize("what", BY_THE_SERVERS_ROLE)
def test_the_servers_role_changes_nothing_that_is_served(
    module_registrar: Registrar, module_version: Version, server_sql: Any, what: str
) -> None:
    """Whatever it says in a setting of its session: what counts is which function makes the change."""
    name = module_registrar.name
    before = audit_log.history(module_registrar.client, name)
    statement = BY_THE_SERVERS_ROLE[what].format(name=name).replace("%", "%%")
    for context in CONTEXTS:
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            forge(server_sql, context or {}, (statement, ()))
    assert audit_log.history(module_registrar.client, name) == before
    assert module_registrar.registry.version(name, module_version.number) == module_version


@pytest.fixture(scope="module")
def module_version(module_registrar: Registrar) -> Version:
    return module_registrar.good()


@pytest.mark.parametrize("context", ["{}", '{"action": "alias"}', "nonsense", "[]", "7"])
def test_tags_changed_under_any_context_leave_a_row(registrar: Registrar, sql: Any, context: str) -> None:
    registrar.in_production()
    before = len(audit_log.history(registrar.client, registrar.name))
    sql.execute("BEGIN")
    sql.execute("SELECT set_config('greenroom.context', %s, true)", (context,))
    sql.execute(
        "UPDATE model_version_tags SET value = 'refused' WHERE name = %s AND key = %s", (registrar.name, GATE)
    )
    sql.execute("COMMIT")
    rows = audit_log.history(registrar.client, registrar.name)[before:]
    assert [(row.action, row.role) for row in rows] == [("sql", "postgres")]


def test_evidence_that_is_renewed_in_a_stage_leaves_a_row(registrar: Registrar) -> None:
    version = registrar.in_production()
    before = len(audit_log.history(registrar.client, registrar.name))
    envelope = registrar.gate.envelope(registrar.registry.version(registrar.name, version.number))
    registrar.registry.tag(version, EVIDENCE, envelope)
    (row,) = audit_log.history(registrar.client, registrar.name)[before:]
    assert (row.action, row.version, row.envelope) == ("evidence", version.number, envelope)
    assert row.digest
    assert found(registrar)[0] == []


def test_evidence_in_the_place_of_other_evidence_leaves_a_row(registrar: Registrar, server_sql: Any) -> None:
    version = registrar.good()
    put = "SELECT greenroom.put_evidence(%s, %s, %s, %s, %s, %s)"
    values = (registrar.name, version.number, EVIDENCE, "x", "passed", json.dumps({"actor": "alice"}))
    server_sql.execute(put, values)
    (row,) = audit_log.history(registrar.client, registrar.name)
    assert (row.action, row.version, row.envelope, row.role) == ("evidence", version.number, "x", "mlflow")
    for key, envelope, gate in ((GATE, "x", "passed"), (EVIDENCE, "", "passed"), (EVIDENCE, "y", "maybe")):
        with pytest.raises(psycopg2.errors.InsufficientPrivilege, match="no evidence"):
            server_sql.execute(put, (registrar.name, version.number, key, envelope, gate, "{}"))


def test_a_locked_table_is_told_to_a_reader_too(registrar: Registrar, server_sql: Any) -> None:
    server_sql.execute("BEGIN")
    server_sql.execute("LOCK TABLE model_versions")
    try:
        url = f"{registrar.client.url}/api/2.0/mlflow/model-versions/search"
        answer = httpx.get(url, timeout=60, trust_env=False)
        assert answer.status_code == 503, answer.text
        assert "pg_stat_activity" in answer.json()["message"]
    finally:
        server_sql.execute("ROLLBACK")


def test_an_open_transaction_blocks_no_promotion_for_ever(registrar: Registrar, server_sql: Any) -> None:
    version = registrar.good()
    server_sql.execute("BEGIN")
    server_sql.execute(
        "SELECT greenroom.record(%s)", (json.dumps({"action": "refused", "model": registrar.name}),)
    )
    try:
        body = {"name": registrar.name, "version": str(version.number), "stage": "Staging"}
        url = f"{registrar.client.url}/api/2.0/mlflow/model-versions/transition-stage"
        answer = httpx.post(url, json=body, timeout=60, trust_env=False)
        assert answer.status_code == 503, answer.text
        assert "pg_stat_activity" in answer.json()["message"]
        assert "SELECT" not in answer.text
    finally:
        server_sql.execute("ROLLBACK")
    move(registrar, version.number, "Staging")


@pytest.mark.parametrize(
    "entry",
    [
        {"action": "mismatch"},
        {"action": "mismatch", "actor": None, "proven": None, "version": None, "changed": [1]},
        {"action": "refused", "message": "x" * 1_000_000, "reason": {"a": 1}, "envelope": "x" * 200_000},
    ],
)
def test_no_row_is_in_the_way_for_good(registrar: Registrar, sql: Any, entry: dict[str, Any]) -> None:
    sql.execute("SELECT greenroom.record(%s)", (json.dumps({**entry, "model": registrar.name}),))
    registrar.in_production()
    rows = audit_log.history(registrar.client, registrar.name)
    assert [row.action for row in rows] == [entry["action"], "staged", "promoted"]
    assert rows[0].actor == "postgres"
    assert len(rows[0].message or "") <= 2_000
    assert found(registrar)[0] == []


@pytest.mark.parametrize(
    "entry", [{"action": "refused"}, {"action": "refused", "model": ""}, {"action": "refused", "model": None}]
)
def test_a_row_needs_a_model(sql: Any, entry: dict[str, Any]) -> None:
    with pytest.raises(psycopg2.errors.RaiseException, match="needs a model"):
        sql.execute("SELECT greenroom.record(%s)", (json.dumps(entry),))


def test_a_name_with_a_quote_stops_no_verification(registrar: Registrar) -> None:
    registrar.client.post("registered-models/create", {"name": f"o'{registrar.name}"})
    registrar.client.post("registered-models/create", {"name": f"o'{registrar.name}\"s"})
    registrar.in_production()
    names = [registrar.name, f"o'{registrar.name}", f"o'{registrar.name}\"s"]
    said = verification.verify(registrar.client, registrar.gate.settings, names)
    assert f"{registrar.name} version 1 in Production" in said.checked
    assert any("both kinds of quotes" in problem for problem in said.problems)


def test_a_head_that_is_gone_is_missed_even_if_there_is_nothing_else(registrar: Registrar) -> None:
    said = verification.verify(registrar.client, registrar.gate.settings, ["nobody"], expected_head="f" * 64)
    assert any("its end was cut off" in problem for problem in said.problems)
    assert any("no model 'nobody'" in problem for problem in said.problems)


@pytest.mark.parametrize("name", ["x" * 20_000, "nul\0", "half \ud800"])
def test_a_refusal_is_not_lost_for_its_size(registrar: Registrar, name: str) -> None:
    """What MLflow takes for a name, the audit takes; and nobody is shown SQL."""
    body = json.dumps({"name": name, "tags": [{"key": GATE, "value": "passed"}]})
    answer = httpx.post(
        f"{registrar.client.url}/api/2.0/mlflow/registered-models/create",
        content=body,
        headers={"content-type": "application/json"},
        timeout=30,
    )
    assert answer.status_code in (400, 403), answer.text
    assert "INSERT" not in answer.text
    assert "SELECT" not in answer.text


def test_a_huge_key_fills_no_audit(registrar: Registrar) -> None:
    version = registrar.version()
    with pytest.raises(RegistryRefusedError):
        registrar.registry.tag(version, GATE + " " * 100_000, "x")
    assert sum(len(r.model_dump_json()) for r in audit_log.history(registrar.client, registrar.name)) < 5_000


@pytest.mark.parametrize("source", ["dbfs:/x", "local:/etc", "nosuch://x"])
def test_a_source_that_cannot_be_read_is_refused_like_any_other(registrar: Registrar, source: str) -> None:
    try:
        registrar.client.post("model-versions/create", {"name": registrar.name, "source": source})
    except RegistryRefusedError:
        return  # MLflow refuses it before
    with pytest.raises(RegistryRefusedError, match="has no evidence of the gate"):
        move(registrar, 1, "Production")
    assert audit_log.history(registrar.client, registrar.name)[-1].code == "missing"


def test_a_version_without_files_is_refused_in_words(registrar: Registrar) -> None:
    version = registrar.version()
    registrar.gate.attest(version, files={MODEL_FILE: "0" * 64})
    for path in ("MLmodel", MODEL_FILE):
        root = registrar.artifact_uri(version).removeprefix("mlflow-artifacts:/")
        registrar.client._send("DELETE", f"/api/2.0/mlflow-artifacts/artifacts/{root}/{path}")
    with pytest.raises(RegistryRefusedError, match=r"model\.onnx \(is gone\)"):
        move(registrar, version.number, "Production")


def test_a_version_made_anew_under_an_old_number_is_no_target_of_a_rollback(registrar: Registrar) -> None:
    first = registrar.in_production()
    envelope = first.tags.get(EVIDENCE) or registrar.registry.version(registrar.name, 1).tags[EVIDENCE]
    move(registrar, 1, "Archived")
    new_name = f"{registrar.name}-away"
    registrar.client.post("registered-models/rename", {"name": registrar.name, "new_name": new_name})
    assert audit_log.history(registrar.client, registrar.name)[-1].action == "renamed"
    registrar.client.post("registered-models/create", {"name": registrar.name})
    body = {"name": registrar.name, "source": first.source, "model_id": first.source.removeprefix("models:/")}
    registrar.client.post("model-versions/create", body)
    again = registrar.registry.version(registrar.name, 1)
    registrar.registry.tag(again, EVIDENCE, envelope)
    with pytest.raises(RegistryRefusedError, match="was never in Production by right"):
        move(registrar, 1, "Production", {ACTION_HEADER: "rollback", REASON_HEADER: "x"})
    with pytest.raises(RegistryRefusedError, match=r"counts once|changed since"):
        move(registrar, 1, "Production")


def test_a_model_made_anew_is_no_problem(registrar: Registrar) -> None:
    registrar.in_production()
    move(registrar, 1, "Archived")
    delete(registrar)
    with pytest.raises(NotFoundError):
        registrar.registry.version(registrar.name, 1)
    registrar.client.post("registered-models/create", {"name": registrar.name})
    registrar.version()
    assert found(registrar)[0] == []


def test_the_same_override_again_is_no_news(registrar: Registrar) -> None:
    version = registrar.version(verdict(registrar.name))
    options = {"reason": "fire", "operator": "olga", "settings": registrar.gate.settings}
    registrar.registry.override(version, Stage.STAGING, **options)
    rows = len(audit_log.history(registrar.client, registrar.name))
    for _ in range(3):
        move(registrar, version.number, "Staging")
    assert len(audit_log.history(registrar.client, registrar.name)) == rows


def test_evidence_in_another_writing_is_not_taken(registrar: Registrar) -> None:
    version = registrar.good()
    rewritten = json.dumps(json.loads(version.tags[EVIDENCE]), indent=1)
    with pytest.raises(RegistryRefusedError, match="has newer evidence already"):
        registrar.registry.tag(version, EVIDENCE, rewritten)


def test_the_chain_is_the_same_whoever_asks(registrar: Registrar, client: TrackingClient) -> None:
    registrar.in_production()
    assert audit_log.chain(client, registrar.name) == audit_log.chain(client, "nobody-has-this-name")
