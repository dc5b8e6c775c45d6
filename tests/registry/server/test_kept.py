"""What a version stands on stays while it is in a stage, or a rollback could go to it; and copies."""

import os
import subprocess
from typing import Any

import httpx
import psycopg2
import pytest

from registry.client import audit_log
from registry.client.registry import Version
from registry.errors import RegistryRefusedError
from registry.names import EVIDENCE, GATE, Stage
from tests.conftest import Stack
from tests.registry.support.registered import Registrar, verdict
from tests.warm_commands import warm_python

pytestmark = pytest.mark.slow


def send(registrar: Registrar, method: str, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
    return httpx.request(method, registrar.client.url + path, json=body, timeout=60, trust_env=False)


def model_id(version: Version) -> str:
    return version.source.removeprefix("models:/")


def experiment_id(registrar: Registrar, version: Version) -> str:
    return str(registrar.registry.run(version)["info"]["experiment_id"])


def deletions(registrar: Registrar, version: Version, prefix: str = "api") -> dict[str, httpx.Response]:
    """Try to delete everything that a version stands on; returns the answers."""
    base = f"/{prefix}/2.0/mlflow"
    experiment = experiment_id(registrar, version)
    return {
        "run": send(registrar, "POST", f"{base}/runs/delete", {"run_id": version.run_id}),
        "logged model": send(registrar, "DELETE", f"{base}/logged-models/{model_id(version)}"),
        "experiment": send(registrar, "POST", f"{base}/experiments/delete", {"experiment_id": experiment}),
    }


def refused(answer: httpx.Response, version: Version, what: str = "") -> None:
    assert answer.status_code == 403, answer.text
    assert answer.json()["error_code"] == "PERMISSION_DENIED"
    message = answer.json()["message"]
    assert message.startswith("Greenroom refused: ")
    assert f"belongs to {version.model} version {version.number}, which is in" in message, what
    assert "SELECT" not in message
    assert "psycopg" not in message


@pytest.mark.parametrize("prefix", ["api", "ajax-api"])
def test_what_production_stands_on_stays(registrar: Registrar, prefix: str) -> None:
    version = registrar.in_production()
    for what, answer in deletions(registrar, version, prefix).items():
        refused(answer, version, what)
    run = registrar.registry.run(version)["info"]
    assert run["lifecycle_stage"] == "active"
    assert registrar.registry.version(version.model, version.number).stage is Stage.PRODUCTION


def test_what_staging_stands_on_stays(registrar: Registrar) -> None:
    version = registrar.registry.promote(registrar.good(), Stage.STAGING)
    for what, answer in deletions(registrar, version).items():
        refused(answer, version, what)


def test_what_a_rollback_could_go_to_stays(registrar: Registrar) -> None:
    first = registrar.in_production()
    second = registrar.in_production()
    assert registrar.registry.version(first.model, first.number).stage is Stage.ARCHIVED
    for what, answer in deletions(registrar, first).items():
        # Both stand on the experiment: the one in Production is named.
        refused(answer, second if what == "experiment" else first, what)


def test_what_no_stage_needs_may_go(registrar: Registrar) -> None:
    """Also what a version needed once that was never in Production, or that was deleted since."""
    idle = registrar.version()
    staged = registrar.registry.promote(registrar.good(), Stage.STAGING)
    registrar.registry.promote(staged, Stage.ARCHIVED)
    for version in (idle, staged):
        run = send(registrar, "POST", "/api/2.0/mlflow/runs/delete", {"run_id": version.run_id})
        logged = send(registrar, "DELETE", f"/api/2.0/mlflow/logged-models/{model_id(version)}")
        assert (run.status_code, logged.status_code) == (200, 200), run.text + logged.text
    first = registrar.in_production()
    registrar.in_production()
    body = {"name": first.model, "version": str(first.number)}
    assert send(registrar, "DELETE", "/api/2.0/mlflow/model-versions/delete", body).is_success
    assert send(registrar, "POST", "/api/2.0/mlflow/runs/delete", {"run_id": first.run_id}).is_success


def test_a_run_can_still_be_written_to(registrar: Registrar) -> None:
    version = registrar.in_production()
    body = {"run_id": version.run_id, "status": "FINISHED", "end_time": 2}
    assert send(registrar, "POST", "/api/2.0/mlflow/runs/update", body).is_success
    tag = {"run_id": version.run_id, "key": "note", "value": "x"}
    assert send(registrar, "POST", "/api/2.0/mlflow/runs/set-tag", tag).is_success


STATEMENTS = (
    "DELETE FROM runs WHERE run_uuid = %(run)s",
    "UPDATE runs SET lifecycle_stage = 'deleted' WHERE run_uuid = %(run)s",
    "UPDATE runs SET artifact_uri = 'elsewhere' WHERE run_uuid = %(run)s",
    "UPDATE runs SET run_uuid = 'elsewhere' WHERE run_uuid = %(run)s",
    "DELETE FROM logged_models WHERE model_id = %(model)s",
    "UPDATE logged_models SET lifecycle_stage = 'deleted' WHERE model_id = %(model)s",
    "UPDATE logged_models SET artifact_location = 'elsewhere' WHERE model_id = %(model)s",
    "DELETE FROM experiments WHERE experiment_id = %(experiment)s",
    "UPDATE experiments SET lifecycle_stage = 'deleted' WHERE experiment_id = %(experiment)s",
)


def test_no_role_deletes_it_by_sql(registrar: Registrar, sql: Any, server_sql: Any) -> None:
    version = registrar.in_production()
    values = {
        "run": version.run_id,
        "model": model_id(version),
        "experiment": int(experiment_id(registrar, version)),
    }
    for cursor in (sql, server_sql):
        for statement in STATEMENTS:
            with pytest.raises(psycopg2.Error, match="belongs to") as refusal:
                cursor.execute(statement, values)
            assert refusal.value.pgcode == "GR403", statement


def test_mlflow_gc_takes_neither_row_nor_bytes(registrar: Registrar, sql: Any, stack: Stack) -> None:
    """Even of a run that was marked as deleted before the guard was there."""
    version = registrar.in_production()
    lines = (stack.home / "stack.env").read_text().splitlines()
    password = dict(line.split("=", 1) for line in lines)["GREENROOM_MLFLOW_DB_PASSWORD"]
    database = f"postgresql+psycopg2://mlflow:{password}@127.0.0.1:{stack.ports['POSTGRES']}/mlflow"
    before = registrar.registry.report_digest(version), registrar.registry.files(version)
    sql.execute("ALTER TABLE runs DISABLE TRIGGER greenroom_keep")
    sql.execute(
        "UPDATE runs SET lifecycle_stage = 'deleted', deleted_time = 1 WHERE run_uuid = %s", (version.run_id,)
    )
    sql.execute("ALTER TABLE runs ENABLE TRIGGER greenroom_keep")
    done = subprocess.run(
        [
            str(warm_python()),
            "-m",
            "mlflow",
            "gc",
            "--backend-store-uri",
            database,
            "--run-ids",
            version.run_id,
        ],
        env={**os.environ, "MLFLOW_TRACKING_URI": stack.tracking_url, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert "belongs to" in done.stdout + done.stderr, done.stdout + done.stderr
    sql.execute("SELECT count(*) FROM runs WHERE run_uuid = %s", (version.run_id,))
    assert sql.fetchone() == (1,)
    assert (registrar.registry.report_digest(version), registrar.registry.files(version)) == before


def test_what_was_deleted_takes_no_version_up(registrar: Registrar) -> None:
    version = registrar.good()
    assert send(registrar, "POST", "/api/2.0/mlflow/runs/delete", {"run_id": version.run_id}).is_success
    with pytest.raises(
        RegistryRefusedError, match=f"stands on something that was deleted: the run {version.run_id}"
    ):
        registrar.registry.promote(version, Stage.STAGING)
    assert audit_log.history(registrar.client, registrar.name)[-1].code == "lost"
    assert send(registrar, "POST", "/api/2.0/mlflow/runs/restore", {"run_id": version.run_id}).is_success
    assert registrar.registry.promote(version, Stage.STAGING).stage is Stage.STAGING


# Artifacts


def test_its_artifacts_are_not_deleted_by_any_writing_of_their_path(registrar: Registrar) -> None:
    version = registrar.in_production()
    before = registrar.registry.files(version)
    root = registrar.artifact_uri(version).removeprefix("mlflow-artifacts:/").strip("/")
    experiment, *rest = root.split("/")
    paths = [
        root,
        f"{root}/MLmodel",
        f"{root}/",
        experiment,
        f"{experiment}//{'/'.join(rest)}",
        f"{experiment}/./{'/'.join(rest)}",
        f"{experiment}/{'%2F'.join(rest)}",
        f"{experiment}/%252e/{'/'.join(rest)}",
        f"{experiment}/{version.run_id}/artifacts",
        f"{experiment}/{version.run_id}/artifacts/gate/verdict.json",
    ]
    for prefix in ("api", "ajax-api"):
        for path in paths:
            answer = send(registrar, "DELETE", f"/{prefix}/2.0/mlflow-artifacts/artifacts/{path}")
            assert answer.status_code in (400, 403, 404), f"{path}: {answer.status_code} {answer.text}"
    refused(send(registrar, "DELETE", f"/api/2.0/mlflow-artifacts/artifacts/{root}"), version)
    assert audit_log.history(registrar.client, registrar.name)[-1].code == "kept"
    assert registrar.registry.files(version) == before
    assert registrar.registry.verdict(version)


def test_other_artifacts_are_deleted_as_ever(registrar: Registrar) -> None:
    registrar.in_production()
    other = registrar.version(verdict(registrar.name))
    root = registrar.artifact_uri(other).removeprefix("mlflow-artifacts:/").strip("/")
    answer = send(registrar, "DELETE", f"/api/2.0/mlflow-artifacts/artifacts/{root}/MLmodel")
    assert answer.is_success, answer.text
    assert "MLmodel" not in registrar.registry.files(other)


# Copies


def copied(registrar: Registrar, version: Version, name: str) -> httpx.Response:
    """Copy a version as MLflow's client does, with every tag of it."""
    send(registrar, "POST", "/api/2.0/mlflow/registered-models/create", {"name": name})
    body = {
        "name": name,
        "source": f"models:/{version.model}/{version.number}",
        "run_id": version.run_id,
        "tags": [{"key": key, "value": value} for key, value in version.tags.items()],
    }
    return send(registrar, "POST", "/api/2.0/mlflow/model-versions/create", body)


def test_a_copy_comes_without_the_evidence_of_the_other(registrar: Registrar) -> None:
    registrar.registry.tag(registrar.version(), "colour", "red")
    version = registrar.gate.attest(registrar.registry.version(registrar.name, 1))
    assert {EVIDENCE, GATE} <= version.tags.keys()
    answer = copied(registrar, version, f"{registrar.name}-copy")
    assert answer.status_code == 200, answer.text
    copy = registrar.registry.version(f"{registrar.name}-copy", 1)
    assert copy.tags == {"colour": "red"}
    assert registrar.registry.files(copy) == registrar.registry.files(version)
    with pytest.raises(RegistryRefusedError, match="has no evidence of the gate"):
        registrar.registry.promote(copy, Stage.STAGING)
    with pytest.raises(RegistryRefusedError, match="The evidence on"):
        registrar.registry.tag(copy, EVIDENCE, version.tags[EVIDENCE])


def test_what_a_copy_in_a_stage_stands_on_stays(registrar: Registrar) -> None:
    version = registrar.version()
    assert copied(registrar, version, f"{registrar.name}-copy").is_success
    copy = registrar.gate.attest(registrar.registry.version(f"{registrar.name}-copy", 1))
    staged = registrar.registry.promote(copy, Stage.STAGING)
    for what, answer in deletions(registrar, version).items():
        refused(answer, staged, what)


def test_reserved_tags_come_with_nothing_but_a_copy(registrar: Registrar) -> None:
    logged = registrar.logged_model()["model_id"]
    body = {
        "name": registrar.name,
        "source": f"models:/{logged}",
        "model_id": logged,
        "tags": [{"key": GATE, "value": "passed"}],
    }
    answer = send(registrar, "POST", "/api/2.0/mlflow/model-versions/create", body)
    assert answer.status_code == 403, answer.text
    assert "Evidence does not follow a copy" in answer.json()["message"]
