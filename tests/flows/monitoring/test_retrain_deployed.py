"""The local stack's worker and the deployments of prefect.yaml: drift of a model trains it, to the end."""

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import httpx
import psutil
import psycopg2
import pytest
import yaml
from mlflow import MlflowClient

from tests.conftest import ROOT, Stack
from tests.flows.support.tumour_rows import tumours
from tests.stack_processes import kill, processes_of
from tests.waiting import until

pytestmark = pytest.mark.slow
MODEL = "drifting"


@pytest.fixture(scope="module")
def working(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The shared stack with a worker, and a model whose gate takes no time among the deployments."""
    folder = tmp_path_factory.mktemp("models")
    # A name of its own: another file counts the versions of `groups`.
    text = (
        (ROOT / "tests" / "flows" / "support" / "groups.py")
        .read_text()
        .replace('name="groups"', f'name="{MODEL}"')
    )
    (folder / "drifting.py").write_text(text)
    tumours().to_parquet(folder / "tumours.parquet")
    declared = yaml.safe_load((ROOT / "prefect.yaml").read_text("utf-8"))
    energy = next(
        one
        for one in declared["deployments"]
        if one["entrypoint"] == "flows.monitoring.retrain.retrain" and one["name"] == "energy"
    )
    declaration = yaml.safe_dump(energy).replace("energy", MODEL)
    pool = {"name": "greenroom", "job_variables": {"env": {"GREENROOM_CATALOG_PATH": str(folder)}}}
    ours = {**yaml.safe_load(declaration), "work_pool": pool}
    declared["deployments"].append(ours)
    (folder / "prefect.yaml").write_text(yaml.safe_dump(declared, sort_keys=False))
    variables = {"GREENROOM_LOCAL_WORKER": "true", "GREENROOM_DEPLOYMENTS": str(folder / "prefect.yaml")}
    done = stack.greenroom("up", "--no-train", **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    yield variables
    if "worker" in processes_of(stack):
        stack.greenroom("up", "--no-train")


def ask(stack: Stack, what: str, body: dict[str, Any]) -> list[Any]:
    answer = httpx.post(
        f"{stack.prefect_url}/api/{what}/filter", json=body, auth=stack.prefect_login, timeout=60
    )
    assert answer.is_success, answer.text
    found: list[Any] = answer.json()
    return found


def retrainings(stack: Stack) -> list[Any]:
    """The flow runs of `retrain`, the oldest first."""
    return ask(stack, "flow_runs", {"flows": {"name": {"any_": ["retrain"]}}, "sort": "START_TIME_ASC"})


def came_to(stack: Stack, state: str) -> None:
    """Wait until a retraining is in that state."""
    until(lambda: [one for one in retrainings(stack) if one["state_type"] == state], seconds=180)


def drift(stack: Stack, model: str) -> None:
    """The event that monitoring emits (test_flow.py shows it)."""
    event = {
        "id": str(uuid4()),
        "occurred": datetime.now(UTC).isoformat(),
        "event": "greenroom.drift",
        "resource": {"prefect.resource.id": f"greenroom.model.{model}"},
        "payload": {},
    }
    answer = httpx.post(f"{stack.prefect_url}/api/events", json=[event], auth=stack.prefect_login, timeout=60)
    assert answer.is_success, answer.text


def test_worker_is_a_service_of_the_stack(stack: Stack, working: dict[str, str]) -> None:
    done = stack.greenroom("status", **working)
    assert done.returncode == 0, done.stdout
    assert "Worker" in done.stdout
    assert (stack.home / "logs" / "worker.log").exists()
    for process in processes_of(stack)["worker"]:
        listening = [c.laddr.ip for c in process.net_connections() if c.status == psutil.CONN_LISTEN]
        assert set(listening) <= {"127.0.0.1", "::1"}, "Prefect lets a flow run's process talk to its worker"
    again = stack.greenroom("up", "--no-train", **working)
    assert (again.returncode, "restarting" in again.stdout) == (0, False), again.stdout


def test_monitoring_is_scheduled_every_hour(stack: Stack, working: dict[str, str]) -> None:
    body = {"deployments": {"name": {"any_": ["genre"]}}, "flows": {"name": {"any_": ["monitor"]}}}
    (found,) = ask(stack, "deployments", body)
    assert [one["schedule"]["cron"] for one in found["schedules"]] == ["7 * * * *"]


def test_drift_trains_its_model_to_the_end_also_when_the_worker_is_killed(
    stack: Stack, working: dict[str, str]
) -> None:
    mlflow = MlflowClient(stack.tracking_url)
    before = len(mlflow.search_model_versions(f"name = '{MODEL}'"))
    assert retrainings(stack) == []
    time.sleep(3)  # the server takes up new automations in the background
    drift(stack, MODEL)
    came_to(stack, "RUNNING")
    time.sleep(2)
    kill(stack, "worker", whole=True)
    shown = stack.greenroom("status", **working)
    assert shown.returncode == 1
    assert "Worker: not up" in shown.stdout

    done = stack.greenroom("up", "--no-train", **working)
    assert done.returncode == 0, done.stdout + done.stderr
    (killed,) = retrainings(stack)
    assert (killed["state_type"], killed["parameters"]) == ("CRASHED", {"model": MODEL})
    drift(stack, MODEL)
    came_to(stack, "COMPLETED")
    assert [one["parameters"] for one in retrainings(stack)] == [{"model": MODEL}] * 2, "no other model's"
    found = mlflow.search_model_versions(f"name = '{MODEL}'")
    assert len(found) == before + 1
    newest = max(found, key=lambda version: int(version.version))
    assert newest.current_stage == "Staging"
    history = json.loads(stack.greenroom("history", MODEL, "--json").stdout)
    assert [row["reason"] for row in history if row["action"] == "staged"] == ["Trained because of drift"]


def test_no_secret_is_in_prefects_database(stack: Stack, working: dict[str, str]) -> None:
    lines = [line.partition("=") for line in (stack.home / "stack.env").read_text().splitlines()]
    known = {name: value for name, _, value in lines}
    secrets = [value for name, value in known.items() if name.endswith(("_KEY", "_PASSWORD", "_TOKEN"))]
    assert len(secrets) == 6
    with (
        psycopg2.connect(
            host="127.0.0.1",
            port=stack.ports["POSTGRES"],
            user="prefect",
            password=known["GREENROOM_PREFECT_DB_PASSWORD"],
            dbname="prefect",
        ) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        tables = [row[0] for row in cursor.fetchall()]
        assert "deployment" in tables
        for table in tables:
            for secret in secrets:
                cursor.execute(f'SELECT count(*) FROM "{table}" AS t WHERE t::text LIKE %s', (f"%{secret}%",))  # noqa: S608
                assert cursor.fetchone() == (0,), table


def test_without_its_worker_nothing_runs_on(stack: Stack, working: dict[str, str]) -> None:
    """What a worker started ends with it."""
    drift(stack, MODEL)
    came_to(stack, "RUNNING")
    assert len(processes_of(stack)["worker"]) > 1
    done = stack.greenroom("up", "--no-train")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Worker stopped" in done.stdout
    assert "worker" not in processes_of(stack)
