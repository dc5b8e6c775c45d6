"""Settings of the predictor."""

from typing import Literal

from pydantic import Field

from registry.settings import RegistrySettings


class ServingSettings(RegistrySettings):
    """Where the predictor listens and what it accepts; how it reaches the tracking server is inherited."""

    serving_host: str = Field(
        default="127.0.0.1",
        description="GREENROOM_SERVING_HOST: address to listen on. The predictor asks nobody who they are, "
        "so listen beyond this machine only behind something that does.",
    )
    serving_port: int = Field(
        default=8000,
        ge=0,
        le=65535,
        description="GREENROOM_SERVING_PORT: port to listen on; 0 picks a free one.",
    )
    serving_max_body_bytes: int = Field(
        default=64 * 1024,
        ge=1,
        description="GREENROOM_SERVING_MAX_BODY_BYTES: largest request body; a longer one answers 413.",
    )
    serving_body_timeout: float = Field(
        default=10.0,
        gt=0,
        description="GREENROOM_SERVING_BODY_TIMEOUT: seconds to wait for a whole request body; then 408.",
    )
    serving_shutdown_timeout: int = Field(
        default=10,
        ge=1,
        description="GREENROOM_SERVING_SHUTDOWN_TIMEOUT: seconds that requests under way get to finish.",
    )
    serving_access_log: bool = Field(
        default=True,
        description="GREENROOM_SERVING_ACCESS_LOG: one line per request, health checks left out.",
    )
    serving_log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="GREENROOM_SERVING_LOG_LEVEL: debug, info, warning or error."
    )
