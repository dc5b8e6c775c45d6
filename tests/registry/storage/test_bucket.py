"""The bucket, on the stack's real S3 server."""

from pathlib import Path
from uuid import uuid4

import pytest
from pydantic import SecretStr, ValidationError

from registry.errors import StorageMissingError, StorageUnavailableError
from registry.storage.bucket import Bucket
from registry.storage.settings import StorageSettings
from tests.conftest import Stack
from tests.ports import free_port


@pytest.fixture
def settings(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> StorageSettings:
    monkeypatch.setenv("GREENROOM_HOME", str(stack.home))
    return StorageSettings()


def test_what_is_put_is_there(settings: StorageSettings, tmp_path: Path) -> None:
    bucket, prefix = Bucket(settings), f"tests/{uuid4().hex}"
    (tmp_path / "a").write_bytes(b"x" * 3_000_000)
    assert list(bucket.keys(prefix)) == []
    bucket.put(f"{prefix}/b/c", tmp_path / "a")
    bucket.put(f"{prefix}/a", tmp_path / "a")
    assert list(bucket.keys(prefix)) == [f"{prefix}/a", f"{prefix}/b/c"]
    assert bucket.exists(f"{prefix}/a")
    assert not bucket.exists(f"{prefix}/b")
    bucket.get(f"{prefix}/b/c", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == (tmp_path / "a").read_bytes()


def test_what_is_not_there_is_said(settings: StorageSettings, tmp_path: Path) -> None:
    with pytest.raises(StorageMissingError, match="tests/none"):
        Bucket(settings).get("tests/none", tmp_path / "back")


def test_a_wrong_secret_is_refused_and_not_told(settings: StorageSettings, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    wrong = settings.model_copy(update={"s3_secret_key": SecretStr("not-the-secret")})
    with pytest.raises(StorageUnavailableError) as refused:
        Bucket(wrong, attempts=1).put("tests/wrong", tmp_path / "a")
    assert "not-the-secret" not in str(refused.value)
    assert not Bucket(settings).exists("tests/wrong")


def test_a_server_that_is_down_is_named(settings: StorageSettings, tmp_path: Path) -> None:
    nowhere = settings.model_copy(update={"s3_endpoint_url": f"http://127.0.0.1:{free_port()}"})
    with pytest.raises(StorageUnavailableError, match=str(nowhere.s3_url)):
        Bucket(nowhere, attempts=1).exists("tests/a")


def test_an_address_without_scheme_is_refused() -> None:
    with pytest.raises(ValidationError, match="http://HOST"):
        StorageSettings(s3_endpoint_url="minio:9000")
