"""The guard of the local stack's registry: its keys, and its part of the database."""

import subprocess
import sys
from pathlib import Path

from infra.local.services import mlflow_database
from infra.local.settings import LocalSettings
from infra.local.supervisor import StackError, environment
from registry.evidence import keys
from registry.settings import KeySettings, home


def prepare(settings: LocalSettings) -> None:
    """Make the gate's key if there is none, and install or update the guard in MLflow's database.

    Raises `StackError` with what `greenroom migrate` said, such as two versions of one model in Production.
    """
    key_settings = KeySettings()
    if not keys.private_path("gate", key_settings).exists():
        keys.create("gate", key_settings)
    # In a process of its own: it needs MLflow, which takes seconds to import and nothing else here does.
    done = subprocess.run(
        [str(Path(sys.executable).parent / "greenroom"), "migrate"],
        env=environment(
            {
                "GREENROOM_HOME": str(home()),
                "GREENROOM_DATABASE_URL": mlflow_database(settings),
                "GREENROOM_DATABASE_ADMIN_URL": settings.database_url(
                    "postgresql+psycopg2", "mlflow", settings.postgres_password, role="postgres"
                ),
            }
        ),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise StackError(
            f"MLflow's database could not be made ready. {(done.stderr or done.stdout).strip()[-1500:]}"
        )
