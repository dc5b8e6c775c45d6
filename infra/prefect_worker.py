"""Prefect's worker, in a container or in the local stack: registers the deployments, then runs flows."""

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import NoReturn

import click
from pydantic import Field

from registry.settings import GreenroomSettings

POOL = "greenroom"
# A flow run says every three minutes that it lives (PREFECT_FLOWS_HEARTBEAT_FREQUENCY).
_SILENCE = timedelta(minutes=9)
_START = timedelta(minutes=15)
_ENDED = ("Completed", "Failed", "Cancelled", "Crashed", "Paused", "Suspended")
_HERE = Path(__file__).resolve().parents[1] / "prefect.yaml"


class WorkerSettings(GreenroomSettings):
    """How much a worker does at once, and where the deployments stand."""

    worker_limit: int = Field(
        default=2, ge=1, le=64, description="GREENROOM_WORKER_LIMIT: flows that a worker runs at once."
    )
    deployments: Path = Field(
        default=_HERE if _HERE.exists() else Path("/app/prefect.yaml"),
        description="GREENROOM_DEPLOYMENTS: file that declares the deployments.",
    )


def run(*, health: bool) -> NoReturn:
    """Register pool and deployments, then become `prefect worker`. Safe to run beside another worker.

    With `health` the worker answers on PREFECT_WORKER_WEBSERVER_PORT whether it polls.
    """
    settings = WorkerSettings()
    for name, value in {
        # The flow's own lines are logged to Prefect's server; MLflow's would only repeat them.
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "GIT_PYTHON_REFRESH": "quiet",
    }.items():
        os.environ.setdefault(name, value)
    register(settings)
    prefect = str(Path(sys.executable).parent / "prefect")
    command = [prefect, "worker", "start", "--pool", POOL, "--type", "process"]
    command += ["--limit", str(settings.worker_limit), *(["--with-healthcheck"] if health else [])]
    os.execv(prefect, command)  # noqa: S606 - no shell is wanted


def register(settings: WorkerSettings) -> None:
    """Make the pool, the automations that end dead flow runs, and every deployment; or bring them up to date.

    Raises `click.ClickException` with what Prefect said.
    """
    # Imported here: Prefect takes seconds.
    from flows.orchestration.flow_run_locks import bury  # noqa: PLC0415

    make_pool()
    end_the_dead()
    bury()
    prefect = str(Path(sys.executable).parent / "prefect")
    _say(prefect, "--no-prompt", "deploy", "--all", "--prefect-file", str(settings.deployments))


def make_pool() -> None:
    """Make the work pool, if it is not there: each flow run is a process beside the worker."""
    from prefect.client.orchestration import get_client  # noqa: PLC0415 - Prefect takes seconds
    from prefect.client.schemas.actions import WorkPoolCreate  # noqa: PLC0415
    from prefect.workers.process import ProcessWorker  # noqa: PLC0415

    template = ProcessWorker.get_default_base_job_template()
    with get_client(sync_client=True) as client:
        client.create_work_pool(
            WorkPoolCreate(name=POOL, type=ProcessWorker.type, base_job_template=template), overwrite=True
        )


def end_the_dead() -> None:
    """Have Prefect end, as Crashed, flow runs that stopped saying that they live, or never began to.

    Nobody else would: who was killed tells nobody.
    """
    # Imported here: Prefect takes seconds.
    from prefect.client.orchestration import get_client  # noqa: PLC0415
    from prefect.client.schemas.objects import StateType  # noqa: PLC0415
    from prefect.events.actions import ChangeFlowRunState  # noqa: PLC0415
    from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture  # noqa: PLC0415
    from prefect.events.schemas.events import ResourceSpecification  # noqa: PLC0415

    def after(event: str, name: str, silence: timedelta, expect: set[str], why: str) -> AutomationCore:
        return AutomationCore(
            name=name,
            description=why,
            trigger=EventTrigger(
                after={event},
                expect={*expect, *(f"prefect.flow-run.{state}" for state in _ENDED)},
                match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
                for_each={"prefect.resource.id"},
                posture=Posture.Proactive,
                threshold=1,
                within=silence,
            ),
            actions=[ChangeFlowRunState(state=StateType.CRASHED, message=why)],
        )

    beat = "prefect.flow-run.heartbeat"
    wanted = [
        after(beat, "Flow runs whose process died", _SILENCE, {beat}, "No heartbeat: its process died."),
        after(
            "prefect.flow-run.Pending",
            "Flow runs that never started",
            _START,
            {"prefect.flow-run.Running"},
            "It was handed to a worker and never started.",
        ),
    ]
    with get_client(sync_client=True) as client:
        for automation in wanted:
            known = client.read_automations_by_name(automation.name)
            if known:
                client.update_automation(known[0].id, automation)
            else:
                client.create_automation(automation)


def _say(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stdout + done.stderr).strip()[-2000:]
        raise click.ClickException(f"`prefect {' '.join(command[1:])}` failed:\n{said}")


if __name__ == "__main__":
    run(health=False)
