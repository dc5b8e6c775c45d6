"""A connection to the real tracking server."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from registered import Registrar

from registry.client import TrackingClient
from registry.settings import RegistrySettings


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # No developer's stack.env may say where these tests go.
    monkeypatch.setenv("GREENROOM_HOME", str(tmp_path))


@pytest.fixture
def client(stack: Any) -> Iterator[TrackingClient]:
    with TrackingClient(RegistrySettings(tracking_uri=stack.tracking_url)) as client:
        yield client


@pytest.fixture
def registrar(client: TrackingClient) -> Registrar:
    return Registrar(client)
