"""Settings of a stack of containers. No secret has a default; each is asked to be long and plain."""

import re
from typing import Annotated
from urllib.parse import quote

from pydantic import AfterValidator, Field, SecretStr
from pydantic_settings import SettingsConfigDict

from infra.databases import Database
from infra.secrets import is_weak
from registry.settings import GreenroomSettings
from registry.storage.settings import StorageSettings

_PLAIN = re.compile(r"[A-Za-z0-9_-]{16,128}")


def strong(value: SecretStr) -> SecretStr:
    """Return a secret that is fit to protect something; `ValueError` for any other.

    Letters, digits, `_` and `-` alone, since most secrets also stand in URLs and shells, and not weak
    (infra/secrets.py).
    """
    text = value.get_secret_value()
    if not _PLAIN.fullmatch(text):
        raise ValueError("it must be 16 to 128 letters, digits, '_' or '-'")
    if is_weak(text):
        raise ValueError("it looks like an example; `make compose-env` makes random ones")
    return value


Secret = Annotated[SecretStr, AfterValidator(strong)]


class ContainerSettings(GreenroomSettings):
    """Base: an input that is refused may be a password, and is not shown."""

    model_config = SettingsConfigDict(hide_input_in_errors=True)


class PostgresSettings(ContainerSettings):
    """Where PostgreSQL is, and what MLflow's server logs in with."""

    postgres_host: str = Field(default="postgres", description="GREENROOM_POSTGRES_HOST: PostgreSQL's host.")
    postgres_port: int = Field(
        default=5432, ge=1, le=65535, description="GREENROOM_POSTGRES_PORT: PostgreSQL's port."
    )
    mlflow_db_password: Secret = Field(description="GREENROOM_MLFLOW_DB_PASSWORD: of the role `mlflow`.")
    mlflow_auth_db_password: Secret = Field(
        description="GREENROOM_MLFLOW_AUTH_DB_PASSWORD: of the role `mlflow_auth`, MLflow's accounts."
    )

    def url(self, name: str, password: SecretStr, role: str = "") -> str:
        """Return the URL of a database, as the role of the same name or another. Never log it."""
        secret = quote(password.get_secret_value(), safe="")
        # psycopg 3, SQLAlchemy's default, fails on MLflow's stage transitions (mlflow#24592).
        at = f"{self.postgres_host}:{self.postgres_port}"
        return f"postgresql+psycopg2://{role or name}:{secret}@{at}/{name}"


class DatabaseSettings(PostgresSettings):
    """What makes the databases: a role that may, and the passwords of those that will use them."""

    postgres_user: str = Field(
        default="postgres",
        description="GREENROOM_POSTGRES_USER: role that owns MLflow's tables and may create "
        "roles and databases.",
    )
    postgres_password: Secret = Field(description="GREENROOM_POSTGRES_PASSWORD: that role's password.")
    prefect_db_password: Secret = Field(description="GREENROOM_PREFECT_DB_PASSWORD: of the role `prefect`.")

    @property
    def databases(self) -> list[Database]:
        """The databases that the stack needs."""
        return [
            Database("mlflow", self.mlflow_db_password, owned=False),
            Database("mlflow_auth", self.mlflow_auth_db_password),
            Database("prefect", self.prefect_db_password),
        ]


class MlflowSettings(PostgresSettings):
    """What MLflow's server needs beside its own variables."""

    mlflow_admin_password: Secret = Field(
        description="GREENROOM_MLFLOW_ADMIN_PASSWORD: of the account `admin`, when it is made."
    )
    mlflow_secret_key: Secret = Field(
        description="GREENROOM_MLFLOW_SECRET_KEY: what MLflow's server signs its forms with."
    )
    mlflow_port: int = Field(default=5000, ge=1, le=65535, description="GREENROOM_MLFLOW_PORT: port.")
    mlflow_workers: int = Field(
        default=2, ge=1, le=32, description="GREENROOM_MLFLOW_WORKERS: processes of MLflow's server."
    )


class AccountSettings(ContainerSettings):
    """The accounts of MLflow's server that a stack of containers has from the start."""

    tracking_uri: str = Field(
        default="http://mlflow:5000", description="GREENROOM_TRACKING_URI: MLflow's server."
    )
    mlflow_admin_password: Secret = Field(description="GREENROOM_MLFLOW_ADMIN_PASSWORD: of `admin`.")
    mlflow_admin_old_password: SecretStr = Field(
        default=SecretStr(""),
        description="GREENROOM_MLFLOW_ADMIN_OLD_PASSWORD: `admin`'s password until now, to rotate it.",
    )
    mlflow_worker_password: Secret = Field(
        description="GREENROOM_MLFLOW_WORKER_PASSWORD: of `worker`, who trains and gates."
    )
    mlflow_operator_password: Secret = Field(
        description="GREENROOM_MLFLOW_OPERATOR_PASSWORD: of `operator`, who promotes."
    )
    mlflow_predictor_password: Secret = Field(
        description="GREENROOM_MLFLOW_PREDICTOR_PASSWORD: of `predictor`, who reads."
    )


class PreflightSettings(DatabaseSettings, MlflowSettings, AccountSettings, StorageSettings):
    """Every secret of the stack, looked at together before anything starts."""

    s3_access_key: Secret = Field(description="GREENROOM_S3_ACCESS_KEY: access key ID.")
    s3_secret_key: Secret = Field(description="GREENROOM_S3_SECRET_KEY: secret access key.")
    prefect_password: Secret = Field(description="GREENROOM_PREFECT_PASSWORD: of `greenroom` at Prefect.")
    grafana_admin_password: Secret = Field(description="GREENROOM_GRAFANA_ADMIN_PASSWORD: of `admin`.")
