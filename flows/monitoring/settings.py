"""Settings of monitoring and of what follows from drift."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from registry.settings import GreenroomSettings


class MonitorSettings(GreenroomSettings):
    """What is looked at, and from when on it is drift; docs/monitoring.md has the numbers' source."""

    monitor_hours: float = Field(
        default=24.0, gt=0, description="GREENROOM_MONITOR_HOURS: length of the window that is looked at."
    )
    monitor_min_rows: int = Field(
        default=2_000,
        ge=10,
        description="GREENROOM_MONITOR_MIN_ROWS: fewer predictions in the window are too few to tell.",
    )
    monitor_max_rows: int = Field(
        default=20_000,
        ge=10,
        description="GREENROOM_MONITOR_MAX_ROWS: most predictions that are looked at: the newest.",
    )
    monitor_min_feedback: int = Field(
        default=200,
        ge=10,
        description="GREENROOM_MONITOR_MIN_FEEDBACK: fewer rows with feedback are too few for a score.",
    )
    monitor_feature_drift: float = Field(
        default=0.16,
        gt=0,
        le=1,
        description="GREENROOM_MONITOR_FEATURE_DRIFT: drift score of a feature from which on it is drift.",
    )
    monitor_prediction_drift: float = Field(
        default=0.2,
        gt=0,
        le=1,
        description="GREENROOM_MONITOR_PREDICTION_DRIFT: the same of the predictions.",
    )
    monitor_again_hours: float = Field(
        default=24.0,
        ge=0,
        description="GREENROOM_MONITOR_AGAIN_HOURS: hours after which drift of the same version is told, and "
        "asked a training for, again.",
    )
    monitor_textfiles: str = Field(
        default="",
        description="GREENROOM_MONITOR_TEXTFILES: folder of node-exporter's textfile collector; gauges of "
        "every model are written there. Empty: none are.",
    )
    retrain_promotes: Literal["staging", "production"] = Field(
        default="staging",
        description="GREENROOM_RETRAIN_PROMOTES: how far a training that drift asked for takes a version "
        "that passed: `staging`, for a person to promote, or `production`, if it scores higher than the "
        "incumbent.",
    )

    @property
    def textfiles(self) -> Path | None:
        """The folder of gauges, or None."""
        return Path(self.monitor_textfiles).expanduser() if self.monitor_textfiles else None
