"""Settings and limits of monitoring and retraining."""

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from registry.settings import GreenroomSettings


class MonitorSettings(GreenroomSettings):
    """Where gauges go, what a retraining may do, and the limits of monitoring."""

    # Fewer predictions of a version are not judged; most predictions that are read, the newest first.
    MIN_ROWS: ClassVar[int] = 2_000
    MAX_ROWS: ClassVar[int] = 20_000
    # Fewer rows with feedback give no score.
    MIN_FEEDBACK: ClassVar[int] = 200
    # Hours after which an alarm for the same version is repeated.
    REPEAT_HOURS: ClassVar[float] = 24.0
    # Hours of the window: a whole day, so that the time of day is no drift.
    WINDOW_HOURS: ClassVar[float] = 24.0
    # Lowest drift scores, 0 to 1, of a feature and of the predictions that mean drift. Of a
    # thousand windows of 2,000 rows without drift none reached them (docs/monitoring.md).
    FEATURE_DRIFT: ClassVar[float] = 0.16
    PREDICTION_DRIFT: ClassVar[float] = 0.2

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
