"""Prefect's worker, as the one process of its container: registers the deployments, then runs flows."""

import os
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import click
from pydantic import Field

from registry.settings import GreenroomSettings

_POOL = "greenroom"


class WorkerSettings(GreenroomSettings):
    """How much a worker does at once, and where the deployments stand."""

    worker_limit: int = Field(
        default=2, ge=1, le=64, description="GREENROOM_WORKER_LIMIT: flows that a worker runs at once."
    )
    deployments: Path = Field(
        default=Path("/app/prefect.yaml"),
        description="GREENROOM_DEPLOYMENTS: file that declares the deployments.",
    )


def run() -> NoReturn:
    """Register pool and deployments, then become `prefect worker`. Safe to run beside another worker."""
    settings = WorkerSettings()
    prefect = str(Path(sys.executable).parent / "prefect")
    os.environ.update(
        {
            # The flow's own lines are logged to Prefect's server; MLflow's would only repeat them.
            "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
            "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
            "GIT_PYTHON_REFRESH": "quiet",
        }
    )
    _prefect(prefect, "work-pool", "create", _POOL, "--type", "process", "--overwrite")
    _prefect(prefect, "--no-prompt", "deploy", "--all", "--prefect-file", str(settings.deployments))
    command = [prefect, "worker", "start", "--pool", _POOL, "--type", "process", "--with-healthcheck"]
    os.execv(prefect, [*command, "--limit", str(settings.worker_limit)])  # noqa: S606 - no shell is wanted


def _prefect(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stdout + done.stderr).strip()[-2000:]
        raise click.ClickException(f"`prefect {' '.join(command[1:])}` failed:\n{said}")
