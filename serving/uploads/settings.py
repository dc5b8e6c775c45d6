"""Settings of the dataset upload."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from registry.settings import home
from registry.storage.settings import StorageSettings


class UploadSettings(StorageSettings):
    """How large an upload may be and where it lies while it is checked; where it is stored is inherited."""

    model_config = SettingsConfigDict(hide_input_in_errors=True)

    serving_upload_max_bytes: int = Field(
        default=100 << 20,
        ge=1,
        description="GREENROOM_SERVING_UPLOAD_MAX_BYTES: largest upload, as it is sent; a longer one answers "
        "413.",
    )
    serving_upload_max_rows: int = Field(
        default=1_000_000,
        ge=1,
        description="GREENROOM_SERVING_UPLOAD_MAX_ROWS: most rows of a dataset; more answer 413.",
    )
    serving_upload_folder: str = Field(
        default="",
        description="GREENROOM_SERVING_UPLOAD_FOLDER: folder on the disk that holds a file while it is "
        "checked; it needs room for the largest upload twice. Default: GREENROOM_HOME/serving-uploads.",
    )

    @property
    def serving_upload_path(self) -> Path:
        """The folder that holds an upload while it is checked."""
        folder = self.serving_upload_folder
        return Path(folder).expanduser() if folder else home() / "serving-uploads"
