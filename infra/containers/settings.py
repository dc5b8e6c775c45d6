"""Settings of a stack of containers. No secret has a default; each must be long, of plain characters."""

import re
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import quote

from pydantic import AfterValidator, Field, SecretStr, field_validator
from pydantic_settings import SettingsConfigDict

from infra.databases import Database
from infra.secrets import is_weak
from registry.settings import GreenroomSettings
from registry.storage.settings import StorageSettings

# Where docker-compose.yml has PostgreSQL, and the role that its image makes: it owns MLflow's tables, and may
# create roles and databases.
POSTGRES_HOST = "postgres"
POSTGRES_ROLE = "postgres"
_S3_USER = re.compile(r"([a-z]+)=([A-Za-z0-9_-]{3,128}):(.*)")
_PLAIN = re.compile(r"[A-Za-z0-9_-]{16,128}")


def strong(value: SecretStr) -> SecretStr:
    """Return a secret; `ValueError` for a weak one (infra/secrets.py), or other characters than URLs take."""
    text = value.get_secret_value()
    if not _PLAIN.fullmatch(text):
        raise ValueError("it must be 16 to 128 letters, digits, '_' or '-'")
    if is_weak(text):
        raise ValueError("it looks like an example; `make compose-env` makes random ones")
    return value


Secret = Annotated[SecretStr, AfterValidator(strong)]


class ContainerSettings(GreenroomSettings):
    """Base class: a refused value may be a password, and is not shown."""

    model_config = SettingsConfigDict(hide_input_in_errors=True)


class PostgresSettings(ContainerSettings):
    """PostgreSQL's port, and the passwords of MLflow's server there."""

    postgres_port: int = Field(default=5432, ge=1, le=65535, description="PostgreSQL's port.")
    mlflow_db_password: Secret = Field(description="of the role `mlflow`.")
    mlflow_auth_db_password: Secret = Field(description="of the role `mlflow_auth`, MLflow's accounts.")

    def url(self, name: str, password: SecretStr, role: str = "") -> str:
        """Return a database's URL, for `role` or the role of the same name. It holds a password."""
        secret = quote(password.get_secret_value(), safe="")
        # psycopg 3, SQLAlchemy's default, fails on MLflow's stage transitions (mlflow#24592).
        server = f"{POSTGRES_HOST}:{self.postgres_port}"
        return f"postgresql+psycopg2://{role or name}:{secret}@{server}/{name}"


class DatabaseSettings(PostgresSettings):
    """Passwords of the role that makes the databases, and of the roles that use them."""

    postgres_password: Secret = Field(description="of the role `postgres`.")
    prefect_db_password: Secret = Field(description="of the role `prefect`.")

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

    mlflow_admin_password: Secret = Field(description="of the account `admin`.")
    mlflow_secret_key: Secret = Field(description="key that MLflow's server signs its forms with.")
    mlflow_port: int = Field(default=5000, ge=1, le=65535, description="MLflow's port.")


class AccountSettings(ContainerSettings):
    """The accounts of MLflow's server that a stack of containers has from the start."""

    tracking_uri: str = Field(default="http://mlflow:5000", description="MLflow's server.")
    mlflow_admin_password: Secret = Field(description="of the account `admin`.")
    mlflow_admin_old_password: SecretStr = Field(
        default=SecretStr(""), description="`admin`'s password until now, to rotate it."
    )
    mlflow_worker_password: Secret = Field(description="of `worker`, who trains and gates.")
    mlflow_operator_password: Secret = Field(description="of `operator`, who promotes.")
    mlflow_predictor_password: Secret = Field(description="of `predictor`, who reads.")


@dataclass(frozen=True)
class S3Keys:
    """The two keys of a user of the S3 server; only the second is a secret."""

    access_key: str
    secret_key: SecretStr


class S3UserSettings(ContainerSettings):
    """The keys of the users of the S3 server, in one variable that docker-compose.yml puts together."""

    s3_users: SecretStr = Field(
        description="users of the S3 server, NAME=ACCESS_KEY:SECRET_KEY separated by commas."
    )

    @field_validator("s3_users")
    @classmethod
    def _strong(cls, value: SecretStr) -> SecretStr:
        if not _s3_users(value):
            raise ValueError("it must be NAME=ACCESS_KEY:SECRET_KEY, separated by commas")
        for name, keys in _s3_users(value).items():
            try:
                strong(keys.secret_key)
            except ValueError as error:
                raise ValueError(f"the secret key of {name}: {error}") from None
        return value

    @property
    def users(self) -> dict[str, S3Keys]:
        """The keys by the user's name."""
        return _s3_users(self.s3_users)


def _s3_users(value: SecretStr) -> dict[str, S3Keys]:
    found = (_S3_USER.fullmatch(entry) for entry in value.get_secret_value().split(","))
    users = {match[1]: S3Keys(match[2], SecretStr(match[3])) for match in found if match}
    return users if len(users) == value.get_secret_value().count(",") + 1 else {}


class PreflightSettings(DatabaseSettings, MlflowSettings, AccountSettings, StorageSettings, S3UserSettings):
    """Every secret of the stack, checked together before anything starts."""

    s3_access_key: Secret = Field(description="access key ID.")
    s3_secret_key: Secret = Field(description="secret access key.")
    prefect_password: Secret = Field(description="of `greenroom` at Prefect.")
    grafana_admin_password: Secret = Field(description="of `admin` at Grafana.")
