"""A training that is killed, wherever, and run again: one version, whole, and nothing that is half done."""

import fcntl
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import click
import httpx
import pytest
from mlflow import MlflowClient

from registry.client.registry import Registry
from registry.client.tracking_client import TrackingClient
from registry.settings import RegistrySettings
from tests.conftest import ROOT, Stack
from tests.evidence import key_settings
from tests.flows.support.tumour_rows import tumours
from tests.warm_commands import warm_python

SUPPORT = ROOT / "tests" / "flows" / "support"
# In the order in which a training comes by them; each is a training that goes on where the one before died.
CHAIN = (
    *("half a model", "a name without versions", "registered"),
    *("before the evidence", "evidence", "staged", "promoted", "end"),
)
# `make kill-train KILLS=20`: so many random kills of a training with all checks, a whole one after each.
KILLS = int(os.environ.get("KILL_TRAIN", "0"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("models")
    for name in ("groups.py", "tumours.py"):
        shutil.copy(SUPPORT / name, found)
    tumours().to_parquet(found / "tumours.parquet")
    return found


def killing(stack: Stack, folder: Path, *arguments: str) -> list[dict[str, Any]]:
    """Run tests/flows/support/kill_points.py, and return what it says of each training."""
    done = subprocess.run(
        [str(warm_python()), str(SUPPORT / "kill_points.py"), *arguments],
        env={**stack.environment, "GREENROOM_CATALOG_PATH": str(folder), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=7000,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    for one in found:
        click.echo(one)
        ended = one["point"] == "end"
        # A random moment may be after the end, where there was less left to do than in a whole training.
        assert one["code"] in ((0,) if ended else (-9,) if one["point"] in CHAIN else (0, -9)), done.stderr
        # Each version is of a training that got to its end; but for the newest, which is to be gone on with.
        assert one["versions"] - one["completed"] in ((0,) if ended else (0, 1)), found
    return found


def require_one_state(stack: Stack, model: str, versions: int) -> None:
    """Whatever happened before: so many versions, the last in Production with good evidence, nothing half."""
    mlflow = MlflowClient(stack.tracking_url)
    found = mlflow.search_model_versions(f"name = '{model}'")
    assert sorted(int(version.version) for version in found) == list(range(1, versions + 1))
    stages = {int(version.version): version.current_stage for version in found}
    assert stages == dict.fromkeys(range(1, versions), "Archived") | {versions: "Production"}
    with TrackingClient(RegistrySettings(tracking_uri=stack.tracking_url)) as tracking:
        registry = Registry(tracking)
        for version in registry.versions(model):
            evidence = registry.evidence(version, key_settings(stack))
            assert evidence.files == registry.files(version)
            assert evidence.report_digest == registry.report_digest(version, evidence.report_files)
            assert registry.verdict(version).passed
    experiment = mlflow.get_experiment_by_name(model)
    assert experiment is not None
    runs = {run.info.run_id: run for run in mlflow.search_runs([experiment.experiment_id])}
    assert {run.info.status for run in runs.values()} <= {"FINISHED", "KILLED"}
    trainings = {one for one, run in runs.items() if run.data.tags["greenroom.role"] == "training"}
    finished = {one for one in trainings if runs[one].info.status == "FINISHED"}
    assert finished == {version.run_id for version in found}
    pending = [
        model
        for model in mlflow.search_logged_models([experiment.experiment_id])
        if model.status == "PENDING"
    ]
    assert pending == []
    # One that was killed before its first line is not of this home's knowing: its heartbeats will tell.
    for kind in ("flow_runs", "task_runs"):
        assert left_open(stack, kind, model) == []


def left_open(stack: Stack, kind: str, model: str) -> list[str]:
    """The flow runs of a model's training, or their task runs, that Prefect takes for alive."""
    asked = {"flow_runs": {"name": {"any_": [f"train-{model}"]}}}
    answer = httpx.post(
        f"{stack.prefect_url}/api/{kind}/filter", json=asked, auth=stack.prefect_login, timeout=60
    )
    assert answer.is_success, answer.text
    assert answer.json(), "there were some"
    return [
        f"{one['name']} {one['state_type']}"
        for one in answer.json()
        if one["state_type"] in ("RUNNING", "PENDING")
        and (kind == "task_runs" or (stack.home / "flow-runs" / one["id"]).exists())
    ]


def test_killed_at_every_delicate_point_and_run_again(stack: Stack, folder: Path) -> None:
    killing(stack, folder, "groups", *CHAIN)
    require_one_state(stack, "groups", 1)
    found = json.loads(stack.greenroom("verify", "groups", "--json").stdout)
    assert [problem for problem in found["problems"] if "groups" in problem] == []
    assert "groups version 1 in Production" in found["checked"]
    shown = stack.greenroom("gate", "groups", "1", GREENROOM_CATALOG_PATH=str(folder))
    assert shown.returncode == 0, shown.stdout + shown.stderr
    history = stack.greenroom("history", "groups", "--json", GREENROOM_CATALOG_PATH=str(folder))
    moves = [row["action"] for row in json.loads(history.stdout) if row["action"] in ("staged", "promoted")]
    assert moves == ["staged", "promoted"], "each move happened once"


def test_killed_at_random_points_and_run_again(stack: Stack, folder: Path) -> None:
    done = killing(stack, folder, "groups", "rounds", "1", "2", "5")
    require_one_state(stack, "groups", done[-1]["versions"])


def running_in_prefect(stack: Stack) -> str:
    """Return the id of a flow run that Prefect takes for running."""

    def made(what: str, body: dict[str, Any]) -> str:
        answer = httpx.post(
            f"{stack.prefect_url}/api/{what}/", json=body, auth=stack.prefect_login, timeout=60
        )
        assert answer.is_success, answer.text
        return str(answer.json()["id"])

    flow = made("flows", {"name": "made up"})
    return made("flow_runs", {"flow_id": flow, "name": "made up", "state": {"type": "RUNNING"}})


def test_what_is_alive_is_left_alone(stack: Stack, folder: Path) -> None:
    """Two runs that are not finished: the process of one holds its lock, nobody holds the other's."""
    mlflow, locks = MlflowClient(stack.tracking_url), stack.home / "flow-runs"
    experiment = mlflow.get_experiment_by_name("groups")
    assert experiment is not None
    flow_runs = {name: running_in_prefect(stack) for name in ("alive", "dead")}
    tags = {"greenroom.role": "training", "greenroom.model": "groups", "greenroom.training": "another"}
    runs = {
        name: mlflow.create_run(experiment.experiment_id, tags={**tags, "greenroom.flow_run": flow_run})
        for name, flow_run in flow_runs.items()
    }
    (locks / flow_runs["dead"]).touch()
    try:
        with (locks / flow_runs["alive"]).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            killing(stack, folder, "groups", "end")
        found = {name: mlflow.get_run(run.info.run_id).info.status for name, run in runs.items()}
        assert found == {"alive": "RUNNING", "dead": "KILLED"}
        assert (locks / flow_runs["alive"]).exists()
        assert not (locks / flow_runs["dead"]).exists()
        with httpx.Client(base_url=stack.prefect_url, auth=stack.prefect_login, timeout=60) as prefect:
            states = {
                name: prefect.get(f"/api/flow_runs/{one}").json()["state_type"]
                for name, one in flow_runs.items()
            }
        assert states == {"alive": "RUNNING", "dead": "CRASHED"}
    finally:
        mlflow.set_terminated(runs["alive"].info.run_id, "KILLED")


@pytest.mark.timeout(7200)
@pytest.mark.skipif(not KILLS, reason="takes minutes: make kill-train KILLS=20")
def test_killed_at_many_random_points_with_all_checks(stack: Stack, folder: Path) -> None:
    done = killing(stack, folder, "tumour", "rounds", str(KILLS), "1", os.environ.get("KILL_SEED", "7"))
    assert len(done) == 1 + 2 * KILLS
    require_one_state(stack, "tumour", done[-1]["versions"])
