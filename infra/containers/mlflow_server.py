"""MLflow's tracking server with the guard and a login, as the one process of its container."""

import os
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

from infra.containers.settings import MlflowSettings
from infra.mlflow_auth import basic_auth_ini

# Processes of the server; each takes about 300 MB.
_WORKERS = 2


def run() -> NoReturn:
    """Become `mlflow server`. It gets secrets by its environment and a file for its owner alone."""
    settings = MlflowSettings()
    os.environ.update(
        {
            "MLFLOW_BACKEND_STORE_URI": settings.url("mlflow", settings.mlflow_db_password),
            "MLFLOW_AUTH_CONFIG_PATH": str(_accounts_file(settings)),
            "MLFLOW_AUTH_ADMIN_PASSWORD": settings.mlflow_admin_password.get_secret_value(),
            "MLFLOW_FLASK_SERVER_SECRET_KEY": settings.mlflow_secret_key.get_secret_value(),
        }
    )
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth"),
        *("--host", "0.0.0.0", "--port", str(settings.mlflow_port)),  # noqa: S104 - inside a container
        *("--workers", str(_WORKERS), "--serve-artifacts"),
        *("--registry-store-uri", "greenroom://"),
    ]
    os.execv(sys.executable, command)  # noqa: S606 - no shell is wanted


def _accounts_file(settings: MlflowSettings) -> Path:
    descriptor, name = tempfile.mkstemp(prefix="greenroom-auth-", suffix=".ini")
    with os.fdopen(descriptor, "w") as file:
        file.write(basic_auth_ini(settings.url("mlflow_auth", settings.mlflow_auth_db_password)))
    return Path(name)
