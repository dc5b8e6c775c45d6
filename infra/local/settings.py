"""Settings of the local stack: its ports and its generated secrets."""

import secrets
import socket
from pathlib import Path
from typing import Annotated

from dotenv import dotenv_values
from pydantic import Field, SecretStr

from flows.settings import PREFECT_USER
from registry.files import write_atomically
from registry.settings import GreenroomSettings, home

Port = Annotated[int, Field(ge=1024, le=65535)]


class LocalSettings(GreenroomSettings):
    """Read from the environment, then from `stack.env` in the home, which the first start writes.

    Secrets have no default: the first start generates them, for this home alone.
    """

    serving_port: Port = Field(default=8000, description="the predictor.")
    mlflow_port: Port = Field(default=5000, description="MLflow.")
    prefect_port: Port = Field(default=4200, description="Prefect.")
    gate_port: Port = Field(default=5300, description="the gate.")
    s3_port: Port = Field(default=9000, description="the S3 server.")
    postgres_port: Port = Field(default=5432, description="PostgreSQL.")
    local_worker: bool = Field(default=True, description="whether the local stack runs a worker.")
    s3_bucket: str = Field(default="greenroom", description="the bucket of artifacts.")
    s3_access_key: SecretStr = Field(description="generated.")
    s3_secret_key: SecretStr = Field(description="generated.")
    postgres_password: SecretStr = Field(description="superuser; generated.")
    mlflow_db_password: SecretStr = Field(description="generated.")
    prefect_db_password: SecretStr = Field(description="generated.")
    prefect_password: SecretStr = Field(description="of Prefect's API; generated.")

    @property
    def s3_internal_ports(self) -> str:
        """SeaweedFS' master, volume and filer ports, separated by commas; the first start chooses them."""
        return dotenv_values(home() / "stack.env").get(_variable("s3_internal_ports")) or ""

    @property
    def mlflow_url(self) -> str:
        """Where MLflow's UI and API answer."""
        return f"http://127.0.0.1:{self.mlflow_port}"

    @property
    def prefect_url(self) -> str:
        """Where Prefect's UI answers; its API is below `/api`."""
        return f"http://127.0.0.1:{self.prefect_port}"

    @property
    def prefect_login(self) -> str:
        """The login of Prefect's API, as `user:password`."""
        return f"{PREFECT_USER}:{self.prefect_password.get_secret_value()}"

    @property
    def serving_url(self) -> str:
        """Where the predictor answers."""
        return f"http://127.0.0.1:{self.serving_port}"

    @property
    def s3_url(self) -> str:
        """Where the S3 server answers."""
        return f"http://127.0.0.1:{self.s3_port}"

    def database_url(self, driver: str, name: str, password: SecretStr, role: str = "") -> str:
        """Return a database's URL, for `role` or the role of the same name. It holds a password."""
        secret = password.get_secret_value()
        return f"{driver}://{role or name}:{secret}@127.0.0.1:{self.postgres_port}/{name}"


_SECRETS = [name for name, field in LocalSettings.model_fields.items() if field.is_required()]
_PORTS = ("serving_port", "mlflow_port", "prefect_port", "gate_port", "s3_port", "postgres_port")


def is_set_up() -> bool:
    """Whether a stack was ever started in this home."""
    return (home() / "stack.env").exists()


def load_or_create() -> LocalSettings:
    """Return the settings of this home's stack; the first call generates secrets.

    The settings in force are written back to `stack.env` (mode 0600), so that a later command finds the same
    ports without the environment variables that chose them.
    """
    file = home() / "stack.env"
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    known = {name: value or "" for name, value in dotenv_values(file, interpolate=False).items()}
    for name in _SECRETS:
        known.setdefault(_variable(name), secrets.token_hex(16))
    known.setdefault(_variable("s3_internal_ports"), ",".join(map(str, _free_ports(3))))
    _write(file, known)
    settings = LocalSettings()
    known |= {_variable(name): str(getattr(settings, name)) for name in _PORTS}
    known[_variable("local_worker")] = str(settings.local_worker).lower()
    known[_variable("predictors")] = settings.serving_url
    _write(file, known)
    return settings


def _variable(name: str) -> str:
    return f"GREENROOM_{name.upper()}"


def _write(file: Path, values: dict[str, str]) -> None:
    text = "".join(f"{key}={value}\n" for key, value in sorted(values.items()))
    if not file.exists() or file.read_text() != text:
        write_atomically(file, text.encode(), 0o600)


def _free_ports(count: int) -> list[int]:
    """Return free ports whose number plus 10000 is free too: SeaweedFS puts gRPC there."""
    ports: set[int] = set()
    while len(ports) < count:
        port = 20_000 + secrets.randbelow(12_000)
        if is_free(port) and is_free(port + 10_000):
            ports.add(port)
    return list(ports)


def is_free(port: int) -> bool:
    """Whether nothing listens on a loopback port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
