"""The guard of MLflow's registry, for the local stack and for containers: the gate's key, the migration."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import click

from registry.evidence import keys
from registry.settings import KeySettings


def ensure_gate_key() -> list[str]:
    """Make the gate's key if there is none; return the ids of the trusted keys of the gate."""
    settings = KeySettings()
    if not keys.private_path("gate", settings).exists():
        keys.create("gate", settings)
    return [key.keyid for key in keys.trusted("gate", settings)]


def migrate(database_url: str, admin_url: str, environment: Mapping[str, str]) -> str:
    """Install or update the guard in MLflow's database; return the output of `greenroom migrate`.

    `database_url` is for the role of MLflow's server, `admin_url` for the tables' owner. Raises
    `click.ClickException` with the command's error, such as two versions of a model in Production.
    """
    # In a process of its own: it needs MLflow, which takes seconds to import and nothing else here does.
    done = subprocess.run(
        [sys.executable, "-m", "registry", "migrate"],
        env={
            **environment,
            "GREENROOM_DATABASE_URL": database_url,
            "GREENROOM_DATABASE_ADMIN_URL": admin_url,
        },
        cwd=Path(__file__).resolve().parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        output = (done.stderr or done.stdout).strip()[-1500:]
        raise click.ClickException(f"MLflow's database could not be made ready. {output}")
    return done.stdout.strip()
