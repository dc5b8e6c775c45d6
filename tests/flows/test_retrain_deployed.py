"""The deployments of prefect.yaml on a real server: drift of a model schedules its training alone."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import ROOT, Stack

pytestmark = pytest.mark.slow
PREFECT = str(Path(sys.executable).parent / "prefect")
EMIT = """
from prefect.events import emit_event
from prefect.events.worker import EventsWorker
from flows.monitor import EVENT
emit_event(EVENT, resource={"prefect.resource.id": "greenroom.model.energy"}, payload={})
EventsWorker.instance().wait_until_empty()
"""


@pytest.fixture(scope="module")
def deployed(stack: Stack) -> dict[str, str]:
    """The environment of a stack that has the pool and the deployments, as a worker's container makes it."""
    environment = {
        **stack.environment,
        "PREFECT_API_URL": f"{stack.prefect_url}/api",
        "PREFECT_HOME": str(stack.home / "prefect"),
    }
    for command in (
        ("work-pool", "create", "greenroom", "--type", "process", "--overwrite"),
        ("--no-prompt", "deploy", "--all", "--prefect-file", str(ROOT / "prefect.yaml")),
    ):
        done = subprocess.run(
            [PREFECT, *command],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=580,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    return environment


def ask(stack: Stack, what: str, body: dict[str, Any]) -> Any:
    answer = httpx.post(f"{stack.prefect_url}/api/{what}/filter", json=body, timeout=60)
    assert answer.is_success, answer.text
    return answer.json()


def scheduled(stack: Stack, flow: str) -> list[Any]:
    body = {"flows": {"name": {"any_": [flow]}}, "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}}
    found: list[Any] = ask(stack, "flow_runs", body)
    return found


def test_drift_schedules_the_training_of_its_model_alone(stack: Stack, deployed: dict[str, str]) -> None:
    assert {one["parameters"]["model"] for one in ask(stack, "deployments", {})} >= {"genre", "energy"}
    assert scheduled(stack, "retrain") == []
    time.sleep(3)  # the server takes up new automations in the background
    subprocess.run([sys.executable, "-c", EMIT], env=deployed, timeout=300, check=True)
    found: list[Any] = []
    for _ in range(300):
        if found := scheduled(stack, "retrain"):
            break
        time.sleep(0.2)
    assert [run["parameters"] for run in found] == [{"model": "energy"}]


def test_monitoring_is_scheduled_every_hour(stack: Stack, deployed: dict[str, str]) -> None:
    body = {"deployments": {"name": {"any_": ["genre"]}}, "flows": {"name": {"any_": ["monitor"]}}}
    (found,) = ask(stack, "deployments", body)
    assert [one["schedule"]["cron"] for one in found["schedules"]] == ["7 * * * *"]
