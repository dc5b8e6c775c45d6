"""Settings of the predictor."""

from ipaddress import ip_address
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import SettingsConfigDict

from registry.settings import RegistrySettings, home
from registry.storage.settings import StorageSettings
from serving.api_key_pairs import parse_pairs
from serving.callers import Network, parse_networks


class ServingSettings(StorageSettings, RegistrySettings):
    """Where the predictor listens and what it accepts; how it reaches the tracking server is inherited."""

    # What does not validate may be a secret.
    model_config = SettingsConfigDict(hide_input_in_errors=True)

    serving_host: str = Field(
        default="127.0.0.1",
        description="GREENROOM_SERVING_HOST: address to listen on. The predictor does not identify callers "
        "unless GREENROOM_SERVING_API_KEYS is set, and it speaks no TLS: listen beyond this machine only "
        "with keys and behind something that encrypts.",
    )
    serving_port: int = Field(
        default=8000,
        ge=0,
        le=65535,
        description="GREENROOM_SERVING_PORT: port to listen on; 0 picks a free one.",
    )
    serving_max_rows: int = Field(
        default=1000,
        ge=1,
        le=10_000,
        description="GREENROOM_SERVING_MAX_ROWS: most objects in the list of one request; more answer 413.",
    )
    serving_api_keys: SecretStr = Field(
        default=SecretStr(""),
        description="GREENROOM_SERVING_API_KEYS: pairs NAME:SHA256HEX, separated by commas, which "
        "`greenroom api-key NAME` makes. Set, everything but health and docs needs one of the keys.",
    )
    serving_workers: int = Field(
        default=1,
        ge=1,
        le=64,
        description="GREENROOM_SERVING_WORKERS: processes that answer on the port. Each holds every model, "
        "follows Production by itself, and has the limits on requests and connections for itself.",
    )
    serving_otlp_endpoint: str = Field(
        default="",
        description="GREENROOM_SERVING_OTLP_ENDPOINT: OpenTelemetry collector that takes spans by OTLP over "
        "HTTP, such as http://127.0.0.1:4318. Empty: none are made.",
    )
    serving_proxies: str = Field(
        default="",
        description="GREENROOM_SERVING_PROXIES: addresses or networks, separated by commas, of proxies in "
        "front of the predictor. Their connections are not bounded by address, and callers behind them are "
        "told apart by X-Forwarded-For, which is believed from nobody else.",
    )
    serving_shutdown_timeout: int = Field(
        default=10,
        ge=1,
        description="GREENROOM_SERVING_SHUTDOWN_TIMEOUT: seconds that requests under way get to finish.",
    )
    serving_drain: float = Field(
        default=0.0,
        ge=0,
        description="GREENROOM_SERVING_DRAIN: seconds in which, once told to stop, idle connections may "
        "bring one more request; less than GREENROOM_SERVING_SHUTDOWN_TIMEOUT. 0 closes them at once.",
    )
    serving_models: str = Field(
        default="*",
        description="GREENROOM_SERVING_MODELS: names of the models to serve, separated by commas, with * and "
        "? as in file names. What the catalogue does not declare is served by what its own file says.",
    )
    serving_max_models: int = Field(
        default=20,
        ge=0,
        description="GREENROOM_SERVING_MAX_MODELS: most models served beyond those of the catalogue; each "
        "stays in memory. 0 serves the catalogue alone.",
    )
    serving_cache: str = Field(
        default="",
        description="GREENROOM_SERVING_CACHE: folder that keeps the last good version of each model for when "
        "the registry does not answer. Default: GREENROOM_HOME/serving-cache.",
    )
    serving_pyfunc_python: str = Field(
        default="",
        description="GREENROOM_SERVING_PYFUNC_PYTHON: Python interpreter, with MLflow and what the models "
        "need, that runs versions without an ONNX file, each in a process of its own. Loading one executes "
        "code that is in its files. Empty: such versions are refused.",
    )
    serving_prediction_log: bool = Field(
        default=True,
        description="GREENROOM_SERVING_PREDICTION_LOG: keep every prediction (inputs, output, version, time, "
        "id) and all feedback as Parquet in the bucket; needs GREENROOM_S3_ACCESS_KEY and _SECRET_KEY.",
    )
    serving_log_seconds: float = Field(
        default=10.0,
        gt=0,
        description="GREENROOM_SERVING_LOG_SECONDS: how often what waits is written; a killed process loses "
        "that much at the most.",
    )
    serving_log_format: Literal["text", "json", "quiet"] = Field(
        default="text",
        description="GREENROOM_SERVING_LOG_FORMAT: text for people, or json: one object per line, with the "
        "request's id, status, milliseconds, version, rows and the key's name. quiet: text, without the line "
        "of each request.",
    )

    @property
    def serving_model_patterns(self) -> tuple[str, ...]:
        """The patterns of the names of the models to serve."""
        return tuple(filter(None, (pattern.strip() for pattern in self.serving_models.split(","))))

    @property
    def serving_cache_path(self) -> Path:
        """The folder of the last good versions."""
        return Path(self.serving_cache).expanduser() if self.serving_cache else home() / "serving-cache"

    @property
    def records(self) -> bool:
        """Whether predictions and feedback are kept."""
        return self.serving_prediction_log and self.has_storage

    @field_validator("serving_api_keys")
    @classmethod
    def _pairs(cls, value: SecretStr) -> SecretStr:
        parse_pairs(value.get_secret_value())
        return value

    @field_validator("serving_proxies")
    @classmethod
    def _networks(cls, value: str) -> str:
        parse_networks(value)
        return value

    @property
    def proxies(self) -> tuple[Network, ...]:
        """The networks of the proxies in front of the predictor."""
        return parse_networks(self.serving_proxies)

    @property
    def api_keys(self) -> dict[str, bytes]:
        """The hashes of the API keys by their names; empty when none are needed."""
        return parse_pairs(self.serving_api_keys.get_secret_value())

    @property
    def metrics_shut(self) -> bool:
        """Whether /metrics needs a key. Beyond this machine without keys no request gets it."""
        return bool(self.api_keys) or not _loopback(self.serving_host)


def _loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
