"""Predictors that store on the stack's S3 server, with settings of their own."""

import socket
from collections.abc import Iterator

import pytest

from registry.storage.settings import StorageSettings
from tests.conftest import Stack
from tests.serving.support.predictor_process import Start
from tests.serving.support.uploading import NOWHERE, Launch, Uploading

_IMPORTS = "from serving.__main__ import main\nfrom serving.uploads import receiver, runner"


@pytest.fixture(scope="session")
def storage(stack: Stack) -> StorageSettings:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GREENROOM_HOME", str(stack.home))
        return StorageSettings()


@pytest.fixture(scope="session")
def launch(start: Start, storage: StorageSettings) -> Launch:
    """Start a predictor that stores on the stack's S3 server, with settings of its own.

    `first` is run in its process before it starts, and may change limits that a test could not reach
    otherwise: `receiver.MAX_LAG = 0.5`.
    """

    def launched(first: str = "", **settings: str) -> Uploading:
        keys = {
            "GREENROOM_S3_ENDPOINT_URL": storage.s3_url,
            "GREENROOM_S3_ACCESS_KEY": storage.s3_access_key.get_secret_value(),
            "GREENROOM_S3_SECRET_KEY": storage.s3_secret_key.get_secret_value(),
        }
        uploads = {f"GREENROOM_SERVING_UPLOAD_{k}": v for k, v in settings.items() if k.isupper()}
        others = {k: v for k, v in settings.items() if not k.isupper()}
        full = {**keys, **uploads, **{f"GREENROOM_{k.upper()}": v for k, v in others.items()}}
        command = ("-c", f"{_IMPORTS}\n{first}\nmain()") if first else ("-m", "serving")
        return Uploading(start(NOWHERE, command=command, **full), storage)

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
