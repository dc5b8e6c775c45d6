"""MLflow's client in this process: its server, and the commit to tag runs with."""

import os
import subprocess
from pathlib import Path

import mlflow

from flows.settings import FlowSettings
from registry.settings import RegistrySettings


def connect() -> None:
    """Point MLflow at the tracking server that the settings name."""
    settings = RegistrySettings()
    if settings.tracking_username:
        # MLflow's client reads a login only from the environment.
        os.environ["MLFLOW_TRACKING_USERNAME"] = settings.tracking_username
        os.environ["MLFLOW_TRACKING_PASSWORD"] = settings.tracking_password.get_secret_value()
    mlflow.set_tracking_uri(settings.tracking_url)
    mlflow.set_registry_uri(settings.tracking_url)


def git_commit() -> str | None:
    """Return the commit of this checkout, with `-dirty` if files differ from it; None outside of git.

    GREENROOM_COMMIT takes its place in an image, which has no checkout.
    """
    if commit := FlowSettings().commit:
        return commit
    root = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]  # whichever git the user has
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
        changed = git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{commit}-dirty" if changed else commit
