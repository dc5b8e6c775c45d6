"""Predictors that store on the stack's S3 server, with settings of their own."""

import socket
from collections.abc import Iterator, Mapping

import pytest

from registry.storage.settings import StorageSettings
from tests.conftest import Stack
from tests.serving.support.predictor_process import Start
from tests.serving.support.uploading import NOWHERE, Launch, Uploading


@pytest.fixture(scope="session")
def storage(stack: Stack) -> StorageSettings:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GREENROOM_HOME", str(stack.home))
        return StorageSettings()


@pytest.fixture(scope="session")
def launch(start: Start, storage: StorageSettings) -> Launch:
    """Start a predictor that stores on the stack's S3 server, with settings of its own.

    `limits` are constants of its modules, `{"receiver.MAX_LAG": 0.5}`, with values that a test can reach.
    """

    def launched(limits: Mapping[str, float] | None = None, **settings: str) -> Uploading:
        keys = {
            "GREENROOM_S3_ENDPOINT_URL": storage.s3_url,
            "GREENROOM_S3_ACCESS_KEY": storage.s3_access_key.get_secret_value(),
            "GREENROOM_S3_SECRET_KEY": storage.s3_secret_key.get_secret_value(),
        }
        full = {**keys, **{f"GREENROOM_{name.upper()}": value for name, value in settings.items()}}
        constants = {f"serving.uploads.{name}": value for name, value in (limits or {}).items()}
        return Uploading(start(NOWHERE, limits=constants, **full), storage)

    return launched


@pytest.fixture(scope="session")
def usual(launch: Launch) -> Uploading:
    """With the limits as they come."""
    uploading = launch()
    uploading.predictor.shared = True
    return uploading


@pytest.fixture
def black_hole() -> Iterator[str]:
    """The address of an S3 server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
