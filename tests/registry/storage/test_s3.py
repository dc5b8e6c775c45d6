"""The client of the S3 server: which server, how often it tries, and by which way."""

import pytest
from pydantic import SecretStr

from registry.storage.s3 import s3_client
from registry.storage.settings import StorageSettings


def settings(url: str) -> StorageSettings:
    return StorageSettings(
        s3_endpoint_url=url, s3_access_key=SecretStr("name"), s3_secret_key=SecretStr("a-secret-of-this-test")
    )


def test_settings_reach_the_client() -> None:
    client = s3_client(settings("http://minio:9000"), attempts=1, connect_timeout=2, read_timeout=7)
    config = client.meta.config
    assert client.meta.endpoint_url == "http://minio:9000"
    assert (config.retries["total_max_attempts"], config.connect_timeout, config.read_timeout) == (1, 2, 7)
    assert config.s3["addressing_style"] == "path"


@pytest.mark.parametrize(
    ("url", "proxied"),
    [("http://127.0.0.1:9000", False), ("http://localhost:9000", False), ("https://s3.example.org", True)],
)
def test_no_proxy_stands_before_this_machine(url: str, proxied: bool) -> None:
    assert (s3_client(settings(url)).meta.config.proxies is None) is proxied
