"""Settings of the S3 server."""

from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator

from registry.settings import GreenroomSettings


class StorageSettings(GreenroomSettings):
    """Where the bucket is and who may use it. Empty keys mean that nothing is stored there."""

    s3_endpoint_url: str = Field(
        default="",
        description="GREENROOM_S3_ENDPOINT_URL: address of the S3 server. Empty means the local stack's, "
        "http://127.0.0.1:GREENROOM_S3_PORT.",
    )
    s3_port: int = Field(
        default=9000, ge=1, le=65535, description="GREENROOM_S3_PORT: the local stack's S3 port."
    )
    s3_bucket: str = Field(
        default="greenroom", min_length=3, description="GREENROOM_S3_BUCKET: the bucket; it must exist."
    )
    s3_region: str = Field(default="us-east-1", description="GREENROOM_S3_REGION: the bucket's region.")
    s3_access_key: SecretStr = Field(
        default=SecretStr(""), description="GREENROOM_S3_ACCESS_KEY: access key ID."
    )
    s3_secret_key: SecretStr = Field(
        default=SecretStr(""), description="GREENROOM_S3_SECRET_KEY: secret access key."
    )

    @field_validator("s3_endpoint_url")
    @classmethod
    def _address(cls, value: str) -> str:
        parts = urlsplit(value)
        if value and (parts.scheme not in ("http", "https") or not parts.netloc):
            raise ValueError("it must be http://HOST[:PORT] or https://HOST[:PORT]")
        return value

    @property
    def s3_url(self) -> str:
        """The S3 server's address, without a trailing slash."""
        return (self.s3_endpoint_url or f"http://127.0.0.1:{self.s3_port}").rstrip("/")

    @property
    def has_storage(self) -> bool:
        """Whether there are keys to store anything with."""
        return bool(self.s3_access_key.get_secret_value() and self.s3_secret_key.get_secret_value())
