"""Every way to change what is in Production without evidence, asked of the real server: none works."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import psycopg2
import pytest

from registry import audit
from registry.client import audit_log
from registry.client.registry import MODEL_FILE, Version
from registry.errors import RegistryRefusedError
from registry.names import ACTION_HEADER, ACTOR_HEADER, EVIDENCE, GATE, OVERRIDE, REASON_HEADER, REPORT, Stage
from tests.conftest import Stack
from tests.registry.support.registered import Registrar, verdict

PREFIXES = ("/api/2.0/mlflow", "/ajax-api/2.0/mlflow")
ALIASES = ("production", "Production", "PRODUCTION", "prod", "Champion", "live", "ｃｈａｍｐｉｏｎ")


@dataclass
class Stand:
    """A model with version 1 in Production by right, the alias `champion` on it, and version 2 unchecked."""

    registrar: Registrar
    champion: Version
    intruder: Version
    http: httpx.Client

    @property
    def name(self) -> str:
        return self.registrar.name

    def send(self, method: str, path: str, body: Any = None, **options: Any) -> httpx.Response:
        if body is not None:
            options["json"] = body
        return self.http.request(method, path, **options)

    def state(self) -> tuple[Any, ...]:
        """Who is in Production, by every way of asking; and what else must not change."""
        registry, client = self.registrar.registry, self.registrar.client
        model = client.get("registered-models/get", {"name": self.name})["registered_model"]
        champion = registry.version(self.name, 1)
        return (
            [(v.number, v.stage) for v in registry.versions(self.name)],
            [(a["alias"], a["version"]) for a in model.get("aliases", [])],
            sorted(tag["key"] for tag in model.get("tags", [])),
            champion.tags[EVIDENCE],
            champion.tags[GATE],
            sorted(registry.version(self.name, 2).tags),
        )

    def refusals(self) -> list[audit.AuditEntry]:
        return [row for row in audit_log.history(self.registrar.client, self.name) if row.action == "refused"]


@pytest.fixture(scope="module")
def stand(stack: Stack, module_registrar: Registrar) -> Iterator[Stand]:
    champion = module_registrar.in_production()
    intruder = module_registrar.version(verdict(module_registrar.name))
    alias = {"name": module_registrar.name, "alias": "champion", "version": "1"}
    module_registrar.client.post("registered-models/alias", alias)
    with httpx.Client(base_url=stack.tracking_url, timeout=30) as http:
        yield Stand(module_registrar, champion, intruder, http)


def refused(stand: Stand, answer: httpx.Response, says: str, code: str) -> None:
    """Check that the guard refused, in words, and wrote it down."""
    assert answer.status_code == 403, (answer.status_code, answer.text)
    assert answer.json()["error_code"] == "PERMISSION_DENIED"
    assert says in answer.json()["message"], answer.text
    assert stand.refusals()[-1].code == code
    assert stand.refusals()[-1].message in answer.json()["message"]


@pytest.fixture(autouse=True)
def _nothing_changes(request: pytest.FixtureRequest) -> Iterator[None]:
    """After every attempt of this module, all is as it was before."""
    if "stand" not in request.fixturenames:
        yield
        return
    stand = request.getfixturevalue("stand")
    before = stand.state()
    yield
    assert stand.state() == before


def transition(stand: Stand, **changed: Any) -> dict[str, Any]:
    body = {"name": stand.name, "version": "2", "stage": "Production", "archive_existing_versions": False}
    return {**body, **changed}


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("stage", ["Production", "production", "PRODUCTION", "Staging", "staging"])
@pytest.mark.parametrize("flag", [True, False])
def test_transition(stand: Stand, prefix: str, stage: str, flag: bool) -> None:
    body = transition(stand, stage=stage, archive_existing_versions=flag)
    answer = stand.send("POST", f"{prefix}/model-versions/transition-stage", body)
    refused(stand, answer, "has no evidence of the gate", "missing")


RAW: list[Callable[[Stand], str]] = [
    # camelCase, duplicated keys (the last counts), escaped letters, numbers for strings.
    lambda s: json.dumps(
        {"name": s.name, "version": "2", "stage": "Production", "archiveExistingVersions": True}
    ),
    lambda s: f'{{"name":"{s.name}","version":"1","version":"2","stage":"Archived","stage":"Production"}}',
    lambda s: f'{{"n\\u0061me":"{s.name}","version":"2","st\\u0061ge":"Pr\\u006fduction"}}',
    lambda s: f'{{"name":"{s.name}","version":"2","stage":"Production","archive_existing_versions":"true"}}',
]


@pytest.mark.parametrize("raw", RAW)
@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("kind", ["application/json", "application/json; charset=utf-8", "text/plain"])
def test_odd_bodies(stand: Stand, raw: Callable[[Stand], str], prefix: str, kind: str) -> None:
    path = f"{prefix}/model-versions/transition-stage"
    answer = stand.http.post(path, content=raw(stand), headers={"content-type": kind})
    # What MLflow itself cannot read is refused by it; what it can is refused by the guard.
    assert answer.status_code in (400, 403, 415), answer.text


@pytest.mark.parametrize("version", ["02", " 2", "2 ", "+2", "2.0", "٢", 2])
def test_odd_numbers(stand: Stand, version: Any) -> None:
    body = transition(stand, version=version)
    answer = stand.send("POST", f"{PREFIXES[0]}/model-versions/transition-stage", body)
    assert answer.status_code in (400, 403), answer.text


@pytest.mark.parametrize(
    "path",
    [
        "/api/2.0/mlflow/model-versions/transition%2Dstage",
        "/api/2.0/mlflow/model%2Dversions/%74ransition-stage",
        "/api/2.0/%6dlflow/model-versions/transition-stage",
        "/api/2%2E0/mlflow/model-versions/transition-stage",
        "/api/2.0//mlflow/model-versions/transition-stage",
        "//api/2.0/mlflow/model-versions//transition-stage",
        "/api/2.0/mlflow/./model-versions/transition-stage",
        "/api/2.0/mlflow/runs/../model-versions/transition-stage",
        "/api/2.0/mlflow/model-versions/transition-stage/",
        "/api/3.0/mlflow/model-versions/transition-stage",
        "/api/2.0/preview/mlflow/model-versions/transition-stage",
        "/ajax-api/2.0/preview/mlflow/model-versions/transition-stage",
        "/static-files/../api/2.0/mlflow/model-versions/transition-stage",
    ],
)
@pytest.mark.parametrize("method", ["POST", "PATCH", "PUT"])
def test_odd_paths(stand: Stand, path: str, method: str) -> None:
    answer = stand.send(method, path, transition(stand))
    assert answer.status_code in (307, 308, 403, 404, 405), (answer.status_code, answer.text[:200])


@pytest.mark.parametrize(
    "headers",
    [
        {ACTION_HEADER: "rollback", REASON_HEADER: "I say so"},
        {ACTION_HEADER: "override", REASON_HEADER: "I say so"},
        {ACTOR_HEADER: "admin"},
        {"X-HTTP-Method-Override": "DELETE"},
    ],
)
def test_headers_open_no_door(stand: Stand, headers: dict[str, str]) -> None:
    path = f"{PREFIXES[0]}/model-versions/transition-stage"
    answer = stand.send("POST", path, transition(stand), headers=headers)
    assert answer.status_code == 403, answer.text
    assert stand.refusals()[-1].proven is False


def test_what_is_refused_is_not_tried_again_by_clients(stand: Stand) -> None:
    """MLflow's client retries 5xx and 429; and the flag that goes with no such stage is a 400 here."""
    path = f"{PREFIXES[0]}/model-versions/transition-stage"
    answer = stand.send("POST", path, transition(stand, stage="Archived", archive_existing_versions=True))
    assert (answer.status_code, answer.json()["error_code"]) == (400, "INVALID_PARAMETER_VALUE")


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("alias", ALIASES)
def test_aliases_that_mean_production(stand: Stand, prefix: str, alias: str) -> None:
    body = {"name": stand.name, "alias": alias, "version": "2"}
    answer = stand.send("POST", f"{prefix}/registered-models/alias", body)
    refused(stand, answer, "means Production, and version 2 is in None", "alias")


@pytest.mark.parametrize("prefix", PREFIXES)
def test_the_alias_of_production_is_not_taken_away(stand: Stand, prefix: str) -> None:
    answer = stand.send(
        "DELETE", f"{prefix}/registered-models/alias", {"name": stand.name, "alias": "champion"}
    )
    refused(stand, answer, "has a version there", "alias")


def test_the_audits_own_aliases_cannot_be_set(stand: Stand) -> None:
    body = {"name": stand.name, "alias": "greenroom-history-0", "version": "2"}
    answer = stand.send("POST", f"{PREFIXES[0]}/registered-models/alias", body)
    refused(stand, answer, "are reserved", "reserved")


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("key", [GATE, "Greenroom.Gate", "GREENROOM.EVIDENCE", "greenroom.Override"])
def test_reserved_tags_of_a_version(stand: Stand, prefix: str, key: str) -> None:
    body = {"name": stand.name, "version": "2", "key": key, "value": "passed"}
    refused(stand, stand.send("POST", f"{prefix}/model-versions/set-tag", body), "is reserved", "reserved")


@pytest.mark.parametrize("value", ["passed", "", "{}", "[]", '{"payload": ""}'])
@pytest.mark.parametrize("key", [EVIDENCE, OVERRIDE])
def test_reserved_tags_hold_evidence_alone(stand: Stand, key: str, value: str) -> None:
    body = {"name": stand.name, "version": "2", "key": key, "value": value}
    answer = stand.send("POST", f"{PREFIXES[0]}/model-versions/set-tag", body)
    refused(stand, answer, "is not a DSSE envelope", "unreadable")


def test_evidence_of_another_version(stand: Stand) -> None:
    value = stand.registrar.registry.version(stand.name, 1).tags[EVIDENCE]
    body = {"name": stand.name, "version": "2", "key": EVIDENCE, "value": value}
    answer = stand.send("POST", f"{PREFIXES[0]}/model-versions/set-tag", body)
    refused(stand, answer, f"is about {stand.name} version 1", "foreign")


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("key", [EVIDENCE, GATE, "Greenroom.evidence"])
def test_evidence_is_not_deleted(stand: Stand, prefix: str, key: str) -> None:
    body = {"name": stand.name, "version": "1", "key": key}
    answer = stand.send("DELETE", f"{prefix}/model-versions/delete-tag", body)
    refused(stand, answer, "cannot be deleted", "reserved")


def test_a_report_of_a_mismatch_must_be_true(stand: Stand) -> None:
    body = {"name": stand.name, "version": "1", "key": REPORT, "value": "bytes"}
    answer = stand.send("POST", f"{PREFIXES[0]}/model-versions/set-tag", body)
    refused(stand, answer, "holds the bytes that its evidence is about", "unfounded")


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("key", [EVIDENCE, GATE, "greenroom.GATE"])
def test_creation_with_reserved_tags(stand: Stand, prefix: str, key: str) -> None:
    """Also what a copy of a version does: a stock client sends its tags along."""
    tags = [{"key": key, "value": stand.registrar.registry.version(stand.name, 1).tags[EVIDENCE]}]
    source = stand.champion.source
    body = {"name": stand.name, "source": source, "model_id": source.removeprefix("models:/"), "tags": tags}
    answer = stand.send("POST", f"{prefix}/model-versions/create", body)
    refused(stand, answer, "Evidence does not follow a copy", "reserved")
    body = {"name": f"{stand.name}-x", "tags": tags}
    answer = stand.send("POST", f"{prefix}/registered-models/create", body)
    assert answer.status_code == 403, answer.text
    body = {"name": stand.name, "key": key, "value": "x"}
    assert stand.send("POST", f"{prefix}/registered-models/set-tag", body).status_code == 403


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("DELETE", "model-versions/delete", {"version": "1"}),
        ("DELETE", "registered-models/delete", {}),
        ("POST", "registered-models/rename", {"new_name": "another"}),
    ],
)
def test_production_is_not_deleted_or_renamed(
    stand: Stand, prefix: str, method: str, path: str, body: dict[str, str]
) -> None:
    answer = stand.send(method, f"{prefix}/{path}", {"name": stand.name, **body})
    refused(stand, answer, "is in Production", "in-production")


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "registered-models/set-tag", {"key": "mlflow.prompt.is_prompt", "value": "true"}),
        ("DELETE", "registered-models/delete-tag", {"key": "mlflow.prompt.is_prompt"}),
        (
            "POST",
            "model-versions/set-tag",
            {"version": "2", "key": "mlflow.prompt.is_prompt", "value": "true"},
        ),
    ],
)
def test_a_model_is_not_hidden_as_a_prompt(
    stand: Stand, method: str, path: str, body: dict[str, str]
) -> None:
    answer = stand.send(method, f"{PREFIXES[0]}/{path}", {"name": stand.name, **body})
    assert answer.status_code == 403, answer.text
    assert stand.refusals()[-1].code == "prompt"


def test_a_version_is_not_registered_as_a_prompt(stand: Stand) -> None:
    tags = [{"key": "mlflow.prompt.is_prompt", "value": "true"}, {"key": "mlflow.prompt.text", "value": "hi"}]
    body = {"name": stand.name, "source": "prompt-template", "tags": tags}
    answer = stand.send("POST", f"{PREFIXES[0]}/model-versions/create", body)
    assert answer.status_code == 403, answer.text


def test_prompts_are_let_alone(stand: Stand) -> None:
    """MLflow's own prompts, and their aliases, are none of our business."""
    name = f"{stand.name}-prompt"
    mark = [{"key": "mlflow.prompt.is_prompt", "value": "true"}]
    client = stand.registrar.client
    client.post("registered-models/create", {"name": name, "tags": mark})
    tags = [*mark, {"key": "mlflow.prompt.text", "value": "Say {{word}}"}]
    client.post("model-versions/create", {"name": name, "source": "prompt-template", "tags": tags})
    client.post("registered-models/alias", {"name": name, "alias": "production", "version": "1"})
    found = client.get("registered-models/alias", {"name": name, "alias": "production"})
    assert found["model_version"]["version"] in ("1", 1)


def test_bytes_exchanged_before_a_promotion(registrar: Registrar) -> None:
    version = registrar.good()
    registrar.client.put_artifact(registrar.artifact_uri(version), MODEL_FILE, b"other bytes")
    for stage in (Stage.STAGING, Stage.PRODUCTION):
        body = {"name": registrar.name, "version": str(version.number), "stage": stage.value}
        with pytest.raises(RegistryRefusedError, match=r"does not hold the bytes.*model\.onnx \(differs\)"):
            registrar.client.post("model-versions/transition-stage", body)
    rows = audit_log.history(registrar.client, registrar.name)
    assert [(row.action, row.code) for row in rows] == [("refused", "bytes")] * 2


@pytest.mark.parametrize("path", ["code/evil.py", "MLmodel", "model.onnx/child"])
def test_any_file_counts(registrar: Registrar, path: str) -> None:
    """A file more, or another MLmodel, makes `mlflow.pyfunc.load_model` do other things.

    A name can be a file and a folder at once.
    """
    version = registrar.good()
    registrar.client.put_artifact(registrar.artifact_uri(version), path, b"import os")
    with pytest.raises(RegistryRefusedError, match="does not hold the bytes"):
        registrar.registry.promote(version, Stage.STAGING)


def test_path_tricks_of_the_artifact_store(stack: Stack, registrar: Registrar) -> None:
    """Whatever the path that wrote them, the bytes are read where the version has them."""
    version = registrar.good()
    root = registrar.artifact_uri(version).removeprefix("mlflow-artifacts:/")
    first, _, rest = root.partition("/")
    base = f"{stack.tracking_url}/api/2.0/mlflow-artifacts/artifacts"
    for trick in (f"{first}//{rest}", f"{first}/./{rest}", f"{first}%2F{rest}"):
        httpx.put(f"{base}/{trick}/{MODEL_FILE}", content=b"other bytes", timeout=30)
    held = registrar.registry.files(version)
    if held == dict(registrar.registry.evidence(version, registrar.gate.settings).files):
        registrar.registry.promote(version, Stage.STAGING)  # nothing was exchanged, so nothing is refused
    else:
        with pytest.raises(RegistryRefusedError, match="does not hold the bytes"):
            registrar.registry.promote(version, Stage.STAGING)


def test_bytes_exchanged_in_production_are_reported_and_recorded(registrar: Registrar) -> None:
    version = registrar.in_production()
    registrar.client.put_artifact(registrar.artifact_uri(version), MODEL_FILE, b"other bytes")
    registrar.registry.report_mismatch(version)
    registrar.registry.report_mismatch(version)  # said once is enough
    rows = audit_log.history(registrar.client, registrar.name)
    assert [row.action for row in rows] == ["staged", "promoted", "mismatch"]
    assert "model.onnx (differs)" in (rows[-1].message or "")


def test_sql_is_recorded(registrar: Registrar, sql: Any) -> None:
    version = registrar.version()
    sql.execute("UPDATE model_versions SET current_stage = 'Production' WHERE name = %s", (registrar.name,))
    row = audit_log.history(registrar.client, registrar.name)[-1]
    moved = (row.action, row.version, row.from_stage, row.to_stage)
    assert moved == ("sql", version.number, "None", "Production")
    assert (row.actor, row.proven, row.role) == ("postgres", False, "postgres")
    assert row.address == "127.0.0.1"


def test_sql_makes_no_second_production(registrar: Registrar, sql: Any) -> None:
    registrar.in_production()
    registrar.version()
    command = "UPDATE model_versions SET current_stage = %s WHERE name = %s"
    with pytest.raises(psycopg2.errors.UniqueViolation, match="greenroom_one_production"):
        sql.execute(command, ("Production", registrar.name))
    with pytest.raises(psycopg2.errors.CheckViolation, match="greenroom_known_stage"):
        sql.execute(command, ("production", registrar.name))


@pytest.mark.parametrize("prefix", PREFIXES)
def test_with_evidence_every_one_of_them_works(stack: Stack, registrar: Registrar, prefix: str) -> None:
    registrar.in_production()
    version = registrar.good()
    client, name, number = registrar.client, registrar.name, str(version.number)
    client.post("registered-models/alias", {"name": name, "alias": "champion", "version": "1"})
    with httpx.Client(base_url=stack.tracking_url, timeout=30) as http:
        body = {"name": name, "version": number, "stage": "production", "archive_existing_versions": False}
        answer = http.post(f"{prefix}/model-versions/transition-stage", json=body)
        assert answer.status_code == 200, answer.text
        moved = answer.json()["model_version"]
        assert (moved["current_stage"], moved["aliases"]) == ("Production", ["champion"])
        assert registrar.registry.version(name, 1).stage is Stage.ARCHIVED
        # The alias followed; others are free; what is archived may go.
        body = {"name": name, "alias": "Live", "version": number}
        assert http.post(f"{prefix}/registered-models/alias", json=body).status_code == 200
        body = {"name": name, "alias": "candidate", "version": "1"}
        assert http.post(f"{prefix}/registered-models/alias", json=body).status_code == 200
        gone = http.request("DELETE", f"{prefix}/model-versions/delete", json={"name": name, "version": "1"})
        assert gone.status_code == 200, gone.text
        body = {"name": name, "version": number, "stage": "Archived", "archive_existing_versions": False}
        assert http.post(f"{prefix}/model-versions/transition-stage", json=body).status_code == 200
        model = client.get("registered-models/get", {"name": name})["registered_model"]
        assert model.get("aliases", []) == []  # nothing is in Production, so nothing is called champion
        body = {"name": name, "new_name": f"{name}-renamed"}
        assert http.post(f"{prefix}/registered-models/rename", json=body).status_code == 200
        gone = http.request("DELETE", f"{prefix}/registered-models/delete", json={"name": f"{name}-renamed"})
        assert gone.status_code == 200, gone.text
    actions = [row.action for row in audit_log.history(client, name)]
    assert actions.count("promoted") == 2
    assert "refused" not in actions
