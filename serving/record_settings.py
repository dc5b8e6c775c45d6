"""Settings of what the predictor remembers: its predictions, and what came true."""

from pathlib import Path

from pydantic import Field

from registry.settings import home
from registry.storage import StorageSettings


class RecordSettings(StorageSettings):
    """What is kept of predictions, how much may wait in memory and on disk, and the bucket they go to."""

    serving_prediction_log: bool = Field(
        default=True,
        description="GREENROOM_SERVING_PREDICTION_LOG: keep every prediction (inputs, output, version, time, "
        "id) and all feedback as Parquet in the bucket; needs GREENROOM_S3_ACCESS_KEY and _SECRET_KEY.",
    )
    serving_log_rows: int = Field(
        default=100_000,
        ge=1,
        description="GREENROOM_SERVING_LOG_ROWS: most rows that wait in memory to be written; what comes "
        "beyond is answered all the same, not kept, and counted. A row takes about 1 kB.",
    )
    serving_log_seconds: float = Field(
        default=10.0,
        gt=0,
        description="GREENROOM_SERVING_LOG_SECONDS: how often what waits is written; a killed process loses "
        "that much at the most.",
    )
    serving_spool: str = Field(
        default="",
        description="GREENROOM_SERVING_SPOOL: folder where written files wait for the bucket. Default: "
        "GREENROOM_HOME/serving-spool.",
    )
    serving_spool_bytes: int = Field(
        default=256 * 1024 * 1024,
        ge=1,
        description="GREENROOM_SERVING_SPOOL_BYTES: largest size of that folder, for when the bucket does "
        "not answer; beyond it rows are dropped, and counted.",
    )
    serving_spool_timeout: float = Field(
        default=10.0,
        ge=0,
        description="GREENROOM_SERVING_SPOOL_TIMEOUT: seconds that a stop waits for the bucket; what is not "
        "there by then stays in the folder and goes with the next start.",
    )

    @property
    def serving_spool_path(self) -> Path:
        """The folder of files that wait."""
        return Path(self.serving_spool).expanduser() if self.serving_spool else home() / "serving-spool"

    @property
    def records(self) -> bool:
        """Whether predictions and feedback are kept."""
        return self.serving_prediction_log and self.has_storage
