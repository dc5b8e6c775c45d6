"""Settings of the training flow."""

import os
from urllib.parse import urlsplit

from pydantic import Field, SecretStr

from registry.settings import GreenroomSettings

# Greenroom's own Prefect servers know this user alone.
PREFECT_USER = "greenroom"


class FlowSettings(GreenroomSettings):
    """Which Prefect server keeps the flow runs, and how much a training searches."""

    prefect_api_url: str = Field(
        default="",
        description="GREENROOM_PREFECT_API_URL: API of the Prefect server that shows the flow runs. "
        "Empty means the local stack's, http://127.0.0.1:GREENROOM_PREFECT_PORT/api.",
    )
    prefect_port: int = Field(
        default=4200, ge=1, le=65535, description="GREENROOM_PREFECT_PORT: the local stack's Prefect port."
    )

    prefect_password: SecretStr = Field(
        default=SecretStr(""),
        description="GREENROOM_PREFECT_PASSWORD: password of the local stack's Prefect, user `greenroom`; "
        "the first start generates it. The login of another server is PREFECT_API_AUTH_STRING.",
    )

    search_trials: int | None = Field(
        default=None,
        ge=0,
        le=1000,
        description="GREENROOM_SEARCH_TRIALS: trials of each training's search, instead of the number that "
        "the model's declaration has; 0: only the declared parameters.",
    )

    @property
    def prefect_url(self) -> str:
        """The API's address, without a trailing slash."""
        return (self.prefect_api_url or f"http://127.0.0.1:{self.prefect_port}/api").rstrip("/")

    @property
    def prefect_login(self) -> str:
        """The login of Prefect's API as `user:password`; empty if none is known.

        The local stack's login is for the local stack alone. Another server gets PREFECT_API_AUTH_STRING.
        """
        url = urlsplit(self.prefect_url)
        is_local = url.hostname in ("127.0.0.1", "localhost") and url.port == self.prefect_port
        if is_local and (password := self.prefect_password.get_secret_value()):
            return f"{PREFECT_USER}:{password}"
        return os.environ.get("PREFECT_API_AUTH_STRING", "")
