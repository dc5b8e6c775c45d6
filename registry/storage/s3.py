"""The one S3 client library of our own code (docs/decisions/026-one-s3-client.md)."""

from typing import Any
from urllib.parse import urlsplit

from registry.storage.settings import StorageSettings

_LOOPBACK = {"127.0.0.1", "localhost", "::1"}


def s3_client(
    settings: StorageSettings, *, attempts: int = 4, connect_timeout: float = 5, read_timeout: float = 60
) -> Any:
    """Return boto3's client for the S3 server; nothing is asked of the server yet.

    `attempts` counts the first one; timeouts are seconds. It may be used from several threads at once.
    """
    import boto3  # noqa: PLC0415 - 0.1 s and 15 MB, for a process that may never store anything
    from botocore.config import Config  # noqa: PLC0415

    config = Config(
        connect_timeout=connect_timeout,
        read_timeout=read_timeout,
        retries={"total_max_attempts": attempts, "mode": "standard"},
        s3={"addressing_style": "path"},
        # Checksums in trailers are not every S3 server's; the signature covers the content.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        max_pool_connections=32,
        # A proxy of the environment does not reach this machine's own S3 server.
        proxies={} if urlsplit(settings.s3_url).hostname in _LOOPBACK else None,
    )
    return boto3.client(
        "s3",
        endpoint_url=settings.s3_url,
        aws_access_key_id=settings.s3_access_key.get_secret_value(),
        aws_secret_access_key=settings.s3_secret_key.get_secret_value(),
        region_name=settings.s3_region,
        config=config,
    )
