"""Settings of the training flow."""

from pydantic import Field

from registry.settings import GreenroomSettings


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
