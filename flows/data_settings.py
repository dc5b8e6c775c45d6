"""Settings of what a training reads."""

from pydantic import Field

from registry.settings import GreenroomSettings


class DataSettings(GreenroomSettings):
    """How much a training may keep in memory."""

    train_max_rows: int = Field(
        default=5_000_000,
        ge=1,
        description="GREENROOM_TRAIN_MAX_ROWS: a table of more rows is refused before any is read; "
        "docs/scale.md has the memory that a row takes.",
    )
