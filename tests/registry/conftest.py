"""A connection to the real tracking server."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from registry.client.tracking_client import TrackingClient
from registry.settings import RegistrySettings
from tests.conftest import Stack
from tests.evidence import key_settings
from tests.registry.support.registered import Registrar


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # No developer's stack.env may say where these tests go.
    monkeypatch.setenv("GREENROOM_HOME", str(tmp_path))


@pytest.fixture
def client(stack: Stack) -> Iterator[TrackingClient]:
    with TrackingClient(RegistrySettings(tracking_uri=stack.tracking_url)) as client:
        yield client


@pytest.fixture
def registrar(stack: Stack, client: TrackingClient) -> Registrar:
    return Registrar(client, key_settings(stack))


@pytest.fixture(scope="module")
def module_registrar(stack: Stack) -> Iterator[Registrar]:
    """One model for all tests of a module, which leave it as it was."""
    with TrackingClient(RegistrySettings(tracking_uri=stack.tracking_url)) as client:
        yield Registrar(client, key_settings(stack))


@pytest.fixture
def sql(stack: Stack) -> Iterator[Any]:
    """A cursor as PostgreSQL's superuser: the one way behind the guard's back."""
    with _cursor(stack, "postgres", "GREENROOM_POSTGRES_PASSWORD") as cursor:
        yield cursor


@pytest.fixture
def server_sql(stack: Stack) -> Iterator[Any]:
    """A cursor as the role that MLflow's server runs as."""
    with _cursor(stack, "mlflow", "GREENROOM_MLFLOW_DB_PASSWORD") as cursor:
        yield cursor


@contextmanager
def _cursor(stack: Stack, role: str, setting: str) -> Iterator[Any]:
    lines = (stack.home / "stack.env").read_text().splitlines()
    password = dict(line.split("=", 1) for line in lines)[setting]
    options = {"host": "127.0.0.1", "port": stack.ports["POSTGRES"], "user": role, "dbname": "mlflow"}
    connection = psycopg2.connect(**options, password=password)
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            yield cursor
    finally:
        connection.close()
