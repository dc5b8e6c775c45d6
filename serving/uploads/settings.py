"""Settings of the dataset upload: how much one may ask of the predictor."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from registry.settings import home
from registry.storage.bucket import StorageSettings

MIB = 1 << 20


class UploadSettings(StorageSettings):
    """Limits of one upload; where datasets are stored is inherited."""

    model_config = SettingsConfigDict(hide_input_in_errors=True)

    serving_upload_max_bytes: int = Field(
        default=100 * MIB,
        ge=1,
        description="GREENROOM_SERVING_UPLOAD_MAX_BYTES: largest upload, as it is sent; a longer one answers "
        "413.",
    )
    serving_upload_max_csv_bytes: int = Field(
        default=256 * MIB,
        ge=1,
        description="GREENROOM_SERVING_UPLOAD_MAX_CSV_BYTES: largest CSV after decompression; then 413.",
    )
    serving_upload_max_ratio: int = Field(
        default=100,
        ge=1,
        description="GREENROOM_SERVING_UPLOAD_MAX_RATIO: how many times larger than the gzip file the CSV "
        "may be, its first MiB left out; then 413. Tables of numbers come to about 3.",
    )
    serving_upload_max_rows: int = Field(
        default=1_000_000,
        ge=1,
        description="GREENROOM_SERVING_UPLOAD_MAX_ROWS: most rows of a dataset; more answer 413.",
    )
    serving_upload_max_line_bytes: int = Field(
        default=64 * 1024,
        ge=1,
        description="GREENROOM_SERVING_UPLOAD_MAX_LINE_BYTES: longest row, line breaks in quotes included.",
    )
    serving_upload_max_cell: int = Field(
        default=4096,
        ge=1,
        description="GREENROOM_SERVING_UPLOAD_MAX_CELL: longest cell, in characters.",
    )
    serving_upload_timeout: float = Field(
        default=120.0,
        gt=0,
        description="GREENROOM_SERVING_UPLOAD_TIMEOUT: seconds to wait for the whole file; then 408.",
    )
    serving_upload_min_rate: int = Field(
        default=16 * 1024,
        ge=1,
        description="GREENROOM_SERVING_UPLOAD_MIN_RATE: bytes a second that must come in on the average.",
    )
    serving_upload_lag: float = Field(
        default=10.0,
        gt=0,
        description="GREENROOM_SERVING_UPLOAD_LAG: seconds that an upload may be behind that rate; then 408.",
    )
    serving_upload_check_timeout: float = Field(
        default=300.0,
        gt=0,
        description="GREENROOM_SERVING_UPLOAD_CHECK_TIMEOUT: seconds to check and store a file that is "
        "here; then 413, or 503 if it was storing.",
    )
    serving_upload_memory: int = Field(
        default=1024 * MIB,
        ge=256 * MIB,
        description="GREENROOM_SERVING_UPLOAD_MEMORY: bytes of memory that the process that checks may use "
        "(Linux keeps to it); it needs about 200 MiB.",
    )
    serving_upload_folder: str = Field(
        default="",
        description="GREENROOM_SERVING_UPLOAD_FOLDER: folder on the disk that holds a file while it is "
        "checked; it needs room for the largest upload twice. Default: GREENROOM_HOME/serving-uploads.",
    )

    @property
    def serving_upload_path(self) -> Path:
        """The folder of what is being uploaded."""
        given = self.serving_upload_folder
        return Path(given).expanduser() if given else home() / "serving-uploads"
