"""Settings that every room shares: where state lives and where the tracking server answers."""

import os
from pathlib import Path
from typing import Any

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict

_CHECKOUT = Path(__file__).resolve().parent.parent
# Settings that are constants now.
_CONSTANTS = {
    "GREENROOM_CACHE_BYTES": "validated rows are not kept any more; delete `cache/` in the home",
    "GREENROOM_STEP_TIMEOUT": "a step that reads or writes has 900 seconds",
    "GREENROOM_COMPUTE_TIMEOUT": "a step that computes has 7,200 seconds",
    "GREENROOM_MONITOR_MAX_ROWS": "the newest 20,000 predictions are read",
    "GREENROOM_MONITOR_MIN_ROWS": "2,000 predictions are needed",
    "GREENROOM_MONITOR_MIN_FEEDBACK": "a score needs 200 rows with feedback",
    "GREENROOM_MONITOR_AGAIN_HOURS": "an alarm is repeated after 24 hours",
    "GREENROOM_NOTIFY_TIMEOUT": "every address has 10 seconds",
    "GREENROOM_SCORE_PARTITION_ROWS": "a partition has 250,000 rows, or those of one row group",
    "GREENROOM_EVIDENCE_MAX_AGE": "evidence is good for 30 days (registry/evidence/rules.py)",
    "GREENROOM_OVERRIDE_MAX_AGE": "an override is good for 15 minutes (registry/evidence/rules.py)",
    "GREENROOM_TRACKING_TIMEOUT": "the tracking server has 30 seconds (registry/client/tracking_client.py)",
    "GREENROOM_CHECKS_TIMEOUT": "the checks of a model have 300 seconds (checks/job.py)",
    "GREENROOM_TRAIN_MAX_ROWS": "a training keeps at most 5,000,000 rows (checks/data/sources.py)",
    "GREENROOM_MONITOR_HOURS": "the window has 24 hours; `greenroom monitor --window` takes another",
    "GREENROOM_MONITOR_FEATURE_DRIFT": "a score of 0.16 means drift (flows/monitoring/settings.py)",
    "GREENROOM_MONITOR_PREDICTION_DRIFT": "a score of 0.2 means drift (flows/monitoring/settings.py)",
    "GREENROOM_SMOKE_TIMEOUT": "a predictor has 60 seconds to answer (infra/ci/deploy.py)",
    "GREENROOM_POSTGRES_HOST": "the containers' PostgreSQL is at `postgres` (infra/containers/settings.py)",
    "GREENROOM_POSTGRES_USER": "its role is `postgres` (infra/containers/settings.py)",
    "GREENROOM_SERVING_MAX_BODY_BYTES": "a body has at most 64 KiB (serving/limits.py)",
    "GREENROOM_SERVING_MAX_CONCURRENCY": "64 predictions are under way at once (serving/limits.py)",
    "GREENROOM_SERVING_MAX_QUEUE": "256 requests may wait (serving/limits.py)",
    "GREENROOM_SERVING_MAX_CONNECTIONS": "1,000 connections may be open (serving/limits.py)",
    "GREENROOM_SERVING_MAX_MODEL_BYTES": "a model file has at most 100 MiB (serving/limits.py)",
    "GREENROOM_SERVING_METRICS": "there is always /metrics",
    "GREENROOM_SERVING_EXPLAIN": "there is always /api/explain",
    "GREENROOM_SERVING_LOG_LEVEL": "the level is info (serving/middleware/access_log.py)",
    "GREENROOM_SERVING_SPOOL": "files wait in `serving-spool` in the home; move older ones there",
    "GREENROOM_PRODUCTION_ALIASES": "production, prod, champion and live mean Production",
    "GREENROOM_MLFLOW_WORKERS": "MLflow's server has 2 processes (infra/containers/mlflow_server.py)",
    "GREENROOM_SERVING_SPOOL_TIMEOUT": "a stop waits 10 seconds for the bucket (serving/limits.py)",
    "GREENROOM_SERVING_UPLOAD_FOLDER": "uploads lie in `serving-uploads` in the home while they are checked",
    "GREENROOM_SERVING_ADMIN_TOKEN": "a predictor follows the registry by itself",
}
# Settings that were renamed or removed, and what to do about each: one that is set without effect is a trap.
_RETIRED = {
    **{name: f"{name} is no setting any more: {fact}. Unset it." for name, fact in _CONSTANTS.items()},
    "GREENROOM_SEARCH_SECONDS": "GREENROOM_SEARCH_SECONDS is GREENROOM_SEARCH_TRIALS now, a number of "
    "trials: set that, or nothing.",
    "GREENROOM_SERVING_ACCESS_LOG": "GREENROOM_SERVING_ACCESS_LOG is GREENROOM_SERVING_LOG_FORMAT=quiet now: "
    "set that, or nothing.",
    "GREENROOM_SERVING_METRICS_NEED_KEY": "GREENROOM_SERVING_METRICS_NEED_KEY is no setting any more: "
    "/metrics needs an API key where keys are set or the host is not loopback; unset it.",
}
_FIXED = (
    *("HEAD_TIMEOUT", "BODY_TIMEOUT", "READ_TIMEOUT", "QUEUE_TIMEOUT", "POLL", "LOG_ROWS", "SPOOL_BYTES"),
    *("EXPLAIN_ROWS", "PYFUNC_TIMEOUT", "PYFUNC_LOAD_TIMEOUT", "PYFUNC_MEMORY"),
)
_UPLOADS = (
    *("MAX_BYTES", "MAX_ROWS", "MAX_CSV_BYTES", "MAX_RATIO", "MAX_LINE_BYTES", "MAX_CELL", "TIMEOUT"),
    *("MIN_RATE", "LAG", "CHECK_TIMEOUT", "MEMORY"),
)
_RETIRED |= {
    f"GREENROOM_SERVING_{name}": f"GREENROOM_SERVING_{name} is no setting any more: its value is fixed "
    f"({where}); unset it."
    for names, where in (
        (_FIXED, "serving/limits.py"),
        ([f"UPLOAD_{name}" for name in _UPLOADS], "serving/uploads/"),
    )
    for name in names
}


def home() -> Path:
    """Return the folder that holds all state: `GREENROOM_HOME`, else `.greenroom/` in the checkout.

    Installed as a wheel there is no checkout, and the current folder takes its place.
    """
    if folder := os.environ.get("GREENROOM_HOME"):
        return Path(folder).expanduser().resolve()
    base = _CHECKOUT if (_CHECKOUT / "pyproject.toml").exists() else Path.cwd()
    return base / ".greenroom"


class GreenroomSettings(BaseSettings):
    """Base of each room's settings: prefix `GREENROOM_`, environment first, then what the local stack
    wrote to `stack.env` in its home (its ports and generated secrets)."""

    model_config = SettingsConfigDict(env_prefix="GREENROOM_", extra="ignore")

    def __init__(self, **values: Any) -> None:
        super().__init__(_env_file=home() / "stack.env", **values)

    @model_validator(mode="before")
    @classmethod
    def _refuse_retired(cls, values: Any) -> Any:
        # The environment alone: what an older version wrote to a home's stack.env must not stop this one.
        if sentences := [sentence for name, sentence in _RETIRED.items() if os.environ.get(name)]:
            raise PydanticCustomError("retired_setting", "{sentences}", {"sentences": " ".join(sentences)})
        return values


def explain(error: ValidationError) -> str:
    """Return what is wrong with settings, in one sentence without their values, which may be passwords."""
    wrong = [
        "".join(f"GREENROOM_{str(part).upper()}: " for part in problem["loc"][:1]) + problem["msg"]
        for problem in error.errors(include_url=False, include_context=False, include_input=False)
    ]
    return "; ".join(wrong).replace("Value error, ", "")


class KeySettings(GreenroomSettings):
    """Where signing keys are."""

    gate_key: str = Field(
        default="",
        description="GREENROOM_GATE_KEY: file of the gate's private key. "
        "Default: GREENROOM_HOME/keys/gate.pem.",
    )
    operator_key: str = Field(
        default="",
        description="GREENROOM_OPERATOR_KEY: file of an operator's private key. "
        "Default: GREENROOM_HOME/keys/operator.pem.",
    )
    trusted_keys: str = Field(
        default="",
        description="GREENROOM_TRUSTED_KEYS: folder with the public keys that are believed, gate/*.pem and "
        "operator/*.pem. Default: GREENROOM_HOME/keys/trusted.",
    )

    @property
    def production_alias_names(self) -> frozenset[str]:
        """The aliases that mean Production, as `registry.names.normalize_name` writes them.

        In any case of letters they can only point at the version in Production, and follow a promotion.
        """
        return frozenset({"production", "prod", "champion", "live"})

    @property
    def gate_key_path(self) -> Path:
        """The file of the gate's private key."""
        return _path(self.gate_key) or home() / "keys" / "gate.pem"

    @property
    def operator_key_path(self) -> Path:
        """The file of the operator's private key."""
        return _path(self.operator_key) or home() / "keys" / "operator.pem"

    @property
    def trusted_keys_path(self) -> Path:
        """The folder of public keys."""
        return _path(self.trusted_keys) or home() / "keys" / "trusted"


def _path(value: str) -> Path | None:
    return Path(value).expanduser().resolve() if value else None


class RegistrySettings(KeySettings):
    """How to reach the MLflow tracking server, and whose signatures to believe."""

    tracking_uri: str = Field(
        default="",
        description="GREENROOM_TRACKING_URI: address of the MLflow tracking server. "
        "Empty means the local stack's, http://127.0.0.1:GREENROOM_MLFLOW_PORT.",
    )
    mlflow_port: int = Field(
        default=5000, ge=1, le=65535, description="GREENROOM_MLFLOW_PORT: the local stack's MLflow port."
    )
    tracking_username: str = Field(
        default="", description="GREENROOM_TRACKING_USERNAME: for a tracking server with basic-auth."
    )
    tracking_password: SecretStr = Field(
        default=SecretStr(""),
        description="GREENROOM_TRACKING_PASSWORD: for a tracking server with basic-auth.",
    )

    @property
    def tracking_url(self) -> str:
        """The tracking server's address, without a trailing slash."""
        return (self.tracking_uri or f"http://127.0.0.1:{self.mlflow_port}").rstrip("/")
