"""S3 as a place: written once whoever tries, read as it was or not at all."""

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from checks.errors import DataError
from flows.scoring.storage import ChangedError, LocalStore, S3Store, open_store
from registry.errors import StorageUnavailableError
from tests.conftest import Stack
from tests.ports import free_port


@pytest.fixture
def s3(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Store]:
    """An empty prefix of the stack's bucket."""
    monkeypatch.setenv("GREENROOM_HOME", str(stack.home))
    store = open_store("s3://greenroom/tests/places")
    assert isinstance(store, S3Store)
    yield store
    for stored in store.list():
        store._client.delete_object(**store._key(stored.name))


def test_of_many_who_write_one_is_first(s3: S3Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        wrote = list(pool.map(lambda n: s3.put_new("race", io.BytesIO(b"%d" % n * 50_000)), range(8)))
    assert wrote.count(True) == 1
    assert s3.read("race") == b"%d" % wrote.index(True) * 50_000


def test_an_object_is_read_by_ranges_until_it_changes(s3: S3Store) -> None:
    s3.put_new("rows", io.BytesIO(bytes(range(256))))
    stored = s3.find("rows")
    assert stored is not None
    assert [stored] == list(s3.list())
    file = s3.open(stored)
    assert file.seek(-6, io.SEEK_END) == 250
    assert file.read(100) == bytes(range(250, 256))
    file.seek(10)
    assert (file.read(2), file.tell()) == (b"\x0a\x0b", 12)
    s3._client.put_object(**s3._key("rows"), Body=bytes(256))
    with pytest.raises(ChangedError, match="rows is not what it was"):
        file.read(2)
    s3._client.delete_object(**s3._key("rows"))
    with pytest.raises(ChangedError):
        file.read(2)
    assert s3.find("rows") is None
    assert s3.read("rows") is None


def test_a_server_that_ignores_or_lacks_conditions_is_asked_first(
    s3: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = s3._client.put_object

    def lacking(**options: object) -> object:
        if "IfNoneMatch" in options:
            answer = {"Error": {"Code": "NotImplemented"}, "ResponseMetadata": {"HTTPStatusCode": 501}}
            raise ClientError(answer, "PutObject")  # type: ignore[arg-type]
        return real(**options)

    monkeypatch.setattr(s3._client, "put_object", lacking)
    assert s3.put_new("plain", io.BytesIO(b"one"))
    assert not s3.put_new("plain", io.BytesIO(b"two"))
    assert s3.read("plain") == b"one"


def test_what_is_refused_and_what_does_not_answer(s3: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="NoSuchBucket"):
        list(open_store("s3://no-such-bucket/rows").list())
    monkeypatch.setenv("GREENROOM_S3_SECRET_KEY", "wrong-secret-of-nobody")
    with pytest.raises(DataError, match="S3 refused") as refused:
        open_store("s3://greenroom/rows").read("a")
    assert "wrong-secret" not in str(refused.value)
    monkeypatch.setenv("GREENROOM_S3_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(StorageUnavailableError):
        open_store("s3://greenroom/rows").find("a")
    monkeypatch.setenv("GREENROOM_S3_ACCESS_KEY", "")
    with pytest.raises(DataError, match="needs keys"):
        open_store("s3://greenroom/rows")


def test_a_folder_behaves_the_same(tmp_path: Path) -> None:
    folder = LocalStore(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        wrote = list(pool.map(lambda n: folder.put_new("race", io.BytesIO(b"%d" % n)), range(8)))
    assert wrote.count(True) == 1
    stored = folder.find("race")
    assert stored is not None
    (tmp_path / "race").write_bytes(b"another")
    with pytest.raises(ChangedError):
        folder.open(stored)
    assert [path.name for path in tmp_path.iterdir()] == ["race"]
