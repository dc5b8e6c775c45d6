"""The S3 client of Greenroom's own code: boto3, with the same timeouts and retries everywhere."""

from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from registry.storage.bucket import StorageSettings


def s3_client(
    settings: StorageSettings, *, connect_timeout: float = 5, read_timeout: float = 60, retries: int = 4
) -> Any:
    """Return boto3's client for the settings' server; nothing is asked of the server yet.

    Timeouts are in seconds, the second one for each read. `retries` counts the tries after the first. Equal
    settings share a client, which threads may use side by side.
    """
    return _client(
        settings.s3_url,
        settings.s3_region,
        settings.s3_access_key.get_secret_value(),
        settings.s3_secret_key.get_secret_value(),
        (connect_timeout, read_timeout, retries),
    )


@lru_cache(8)
def _client(url: str, region: str, key: str, secret: str, limits: tuple[float, float, int]) -> Any:
    import boto3  # noqa: PLC0415 - half a second
    from botocore.config import Config  # noqa: PLC0415

    config = Config(
        connect_timeout=limits[0],
        read_timeout=limits[1],
        retries={"max_attempts": limits[2], "mode": "standard"},
        s3={"addressing_style": "path"},
        # Not every S3 server knows checksums in trailers; the signature covers the content.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        max_pool_connections=32,
        # Loopback must not go through a proxy.
        proxies={} if urlsplit(url).hostname in ("127.0.0.1", "localhost") else None,
    )
    return boto3.client(
        "s3",
        endpoint_url=url,
        aws_access_key_id=key,
        aws_secret_access_key=secret,
        region_name=region,
        config=config,
    )
