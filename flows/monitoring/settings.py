"""Settings and limits of monitoring and retraining."""

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from registry.settings import GreenroomSettings


class MonitorSettings(GreenroomSettings):
    """The window of predictions, and the scores that mean drift; docs/monitoring.md says why these."""

    # Fewer predictions of a version are not judged; most predictions that are read, the newest first.
    MIN_ROWS: ClassVar[int] = 2_000
    MAX_ROWS: ClassVar[int] = 20_000
    # Fewer rows with feedback give no score.
    MIN_FEEDBACK: ClassVar[int] = 200
    # Hours after which an alarm for the same version is repeated.
    REPEAT_HOURS: ClassVar[float] = 24.0

    monitor_hours: float = Field(
        default=24.0, gt=0, description="GREENROOM_MONITOR_HOURS: length of the window of predictions."
    )
    monitor_feature_drift: float = Field(
        default=0.16,
        gt=0,
        le=1,
        description="GREENROOM_MONITOR_FEATURE_DRIFT: lowest drift score of a feature that means drift.",
    )
    monitor_prediction_drift: float = Field(
        default=0.2,
        gt=0,
        le=1,
        description="GREENROOM_MONITOR_PREDICTION_DRIFT: the same for the predictions.",
    )
    monitor_textfiles: str = Field(
        default="",
        description="GREENROOM_MONITOR_TEXTFILES: folder of node-exporter's textfile collector, for "
        "the gauges of every model. Empty: no gauges.",
    )
    retrain_promotes: Literal["staging", "production"] = Field(
        default="staging",
        description="GREENROOM_RETRAIN_PROMOTES: highest stage of a version that was trained because of "
        "drift and passed the gate: `staging`, where a person promotes it, or `production`, if it scores "
        "higher than the version there.",
    )

    @property
    def textfiles(self) -> Path | None:
        """The folder of gauges, or None."""
        return Path(self.monitor_textfiles).expanduser() if self.monitor_textfiles else None
