"""Prefect's worker, in a container or in the local stack: registers the deployments, then runs flows."""

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import NoReturn

import click
from pydantic import Field

from flows.settings import FlowSettings
from registry.settings import GreenroomSettings

POOL = "greenroom"
# A flow run sends a heartbeat every three minutes (PREFECT_FLOWS_HEARTBEAT_FREQUENCY).
_SILENCE = timedelta(minutes=9)
_START = timedelta(minutes=15)
_ENDED = ("Completed", "Failed", "Cancelled", "Crashed", "Paused", "Suspended")
_HERE = Path(__file__).resolve().parents[1] / "prefect.yaml"


class WorkerSettings(GreenroomSettings):
    """How many flows a worker runs at once, and the file of the deployments."""

    worker_limit: int = Field(
        default=2, ge=1, le=64, description="GREENROOM_WORKER_LIMIT: flows that a worker runs at once."
    )
    deployments: Path = Field(
        default=_HERE if _HERE.exists() else Path("/app/prefect.yaml"),
        description="GREENROOM_DEPLOYMENTS: file that declares the deployments.",
    )


def run(*, health: bool) -> NoReturn:
    """Register pool and deployments, then become `prefect worker`. Safe to run beside another worker.

    With `health` the worker answers health checks on PREFECT_WORKER_WEBSERVER_PORT.
    """
    settings = WorkerSettings()
    for name, value in {
        # Prefect's server has the flow's own lines; MLflow would repeat them.
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "GIT_PYTHON_REFRESH": "quiet",
    }.items():
        os.environ.setdefault(name, value)
    # The local stack's, which its home holds; flow runs inherit it.
    if login := FlowSettings().prefect_login:
        os.environ["PREFECT_API_AUTH_STRING"] = login
    register(settings)
    prefect = str(Path(sys.executable).parent / "prefect")
    command = [prefect, "worker", "start", "--pool", POOL, "--type", "process"]
    command += ["--limit", str(settings.worker_limit), *(["--with-healthcheck"] if health else [])]
    os.execv(prefect, command)  # noqa: S606 - without a shell


def register(settings: WorkerSettings) -> None:
    """Create or update the pool, the automations that end dead flow runs, and every deployment.

    Raises `click.ClickException` with Prefect's output.
    """
    # Imported here: Prefect takes seconds.
    from flows.orchestration.flow_run_locks import mark_dead_runs_crashed  # noqa: PLC0415

    create_pool()
    create_crash_automations()
    mark_dead_runs_crashed()
    prefect = str(Path(sys.executable).parent / "prefect")
    _run(prefect, "--no-prompt", "deploy", "--all", "--prefect-file", str(settings.deployments))


def create_pool() -> None:
    """Create or update the work pool, where each flow run is a process beside the worker."""
    from prefect.client.orchestration import get_client  # noqa: PLC0415 - Prefect takes seconds
    from prefect.client.schemas.actions import WorkPoolCreate  # noqa: PLC0415
    from prefect.workers.process import ProcessWorker  # noqa: PLC0415

    template = ProcessWorker.get_default_base_job_template()
    with get_client(sync_client=True) as client:
        client.create_work_pool(
            WorkPoolCreate(name=POOL, type=ProcessWorker.type, base_job_template=template), overwrite=True
        )


def create_crash_automations() -> None:
    """Let Prefect mark flow runs without heartbeats, and runs that never started, as Crashed."""
    from prefect.client.orchestration import get_client  # noqa: PLC0415 - Prefect takes seconds
    from prefect.client.schemas.objects import StateType  # noqa: PLC0415
    from prefect.events.actions import ChangeFlowRunState  # noqa: PLC0415
    from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture  # noqa: PLC0415
    from prefect.events.schemas.events import ResourceSpecification  # noqa: PLC0415

    def automation(
        event: str, name: str, silence: timedelta, expect: set[str], reason: str
    ) -> AutomationCore:
        return AutomationCore(
            name=name,
            description=reason,
            trigger=EventTrigger(
                after={event},
                expect={*expect, *(f"prefect.flow-run.{state}" for state in _ENDED)},
                match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
                for_each={"prefect.resource.id"},
                posture=Posture.Proactive,
                threshold=1,
                within=silence,
            ),
            actions=[ChangeFlowRunState(state=StateType.CRASHED, message=reason)],
        )

    heartbeat = "prefect.flow-run.heartbeat"
    automations = [
        automation(
            heartbeat,
            "Flow runs whose process died",
            _SILENCE,
            {heartbeat},
            "No heartbeat: its process died.",
        ),
        automation(
            "prefect.flow-run.Pending",
            "Flow runs that never started",
            _START,
            {"prefect.flow-run.Running"},
            "It was handed to a worker and never started.",
        ),
    ]
    with get_client(sync_client=True) as client:
        for wanted in automations:
            if existing := client.read_automations_by_name(wanted.name):
                client.update_automation(existing[0].id, wanted)
            else:
                client.create_automation(wanted)


def _run(*command: str) -> None:
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode:
        output = (process.stdout + process.stderr).strip()[-2000:]
        raise click.ClickException(f"`prefect {' '.join(command[1:])}` failed:\n{output}")


if __name__ == "__main__":
    run(health=False)
