"""What the client says when what it talks to is no MLflow server, or nothing at all."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from getpass import getuser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

import pytest

from registry.client import audit_log, tracking_client
from registry.client.registry import Registry
from registry.client.tracking_client import TrackingClient
from registry.errors import RegistryRefusedError, RegistryUnavailableError
from registry.names import ACTOR_HEADER, REASON_HEADER, Stage
from registry.settings import RegistrySettings


@contextmanager
def server(status: int, content: bytes) -> Iterator[tuple[str, list[Any]]]:
    """A web server that answers everything the same; yields its address and the headers it was sent."""
    seen: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            seen.append(self.headers)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_GET  # noqa: N815 - http.server's names

        def log_message(self, *args: Any) -> None:
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{running.server_port}", seen
    finally:
        running.shutdown()
        running.server_close()


def connect(uri: str, **settings: Any) -> TrackingClient:
    return TrackingClient(RegistrySettings(tracking_uri=uri, **settings))


@pytest.mark.parametrize(
    ("status", "content"),
    [(200, b"<html>hello</html>"), (200, b"[]"), (200, b"{}"), (200, b"\xff"), (404, b"no such page")],
)
def test_some_other_server_is_recognised(status: int, content: bytes) -> None:
    with (
        server(status, content) as (url, _),
        connect(url) as client,
        pytest.raises(RegistryUnavailableError, match=r"does not answer like an MLflow server.*TRACKING_URI"),
    ):
        Registry(client).version("genre", 1)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (302, RegistryRefusedError),
        (401, RegistryRefusedError),
        (403, RegistryRefusedError),
        (429, RegistryUnavailableError),
        (500, RegistryUnavailableError),
        (503, RegistryUnavailableError),
    ],
)
def test_what_may_work_later_is_told_from_what_will_not(status: int, error: type[Exception]) -> None:
    with (
        server(status, b"Nope") as (url, _),
        connect(url) as client,
        pytest.raises(error, match=f"{status}.*Nope"),
    ):
        Registry(client).in_stage("genre", Stage.PRODUCTION)


def test_nothing_listening_says_what_to_do() -> None:
    with connect("http://127.0.0.1:9") as client, pytest.raises(RegistryUnavailableError) as refusal:
        Registry(client).versions("genre")
    assert "http://127.0.0.1:9 does not answer (ConnectError)" in str(refusal.value)
    assert "make up" in str(refusal.value)


def test_a_server_that_never_answers_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking_client, "TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with (
            connect(url) as client,
            pytest.raises(RegistryUnavailableError, match="ReadTimeout"),
        ):
            Registry(client).version("genre", 1)


@pytest.mark.parametrize("uri", ["http://[", "localhost:5000", "sqlite:///mlflow.db"])
def test_what_is_no_web_address_is_refused(uri: str) -> None:
    with pytest.raises(RegistryUnavailableError, match="GREENROOM_TRACKING_URI"), connect(uri) as client:
        Registry(client).version("genre", 1)


def test_credentials_in_the_address_are_used_and_never_told() -> None:
    with server(500, b"") as (url, seen):
        uri = url.replace("://", "://someone:hunter2@")
        with connect(uri) as client, pytest.raises(RegistryUnavailableError) as refusal:
            Registry(client).version("genre", 1)
    assert seen[0]["Authorization"] == "Basic c29tZW9uZTpodW50ZXIy"
    assert "hunter2" not in str(refusal.value)
    assert "hunter2" not in client.url


def test_credentials_in_the_settings_are_used() -> None:
    with server(200, b'{"model_versions": []}') as (url, seen):
        with connect(url, tracking_username="someone", tracking_password="hunter2") as client:
            assert Registry(client).in_stage("genre", Stage.PRODUCTION) is None
        assert seen[0]["Authorization"] == "Basic c29tZW9uZTpodW50ZXIy"


def test_who_runs_it_and_why_is_told_to_the_server() -> None:
    with server(200, b"{}") as (url, seen):
        with connect(url) as client:
            client.post("x", {}, {REASON_HEADER: "Tournée: 50 %\r\nX-Evil: 1"})
            client.get("x")
        assert unquote(seen[0][ACTOR_HEADER]).startswith(getuser())
        assert unquote(seen[0][REASON_HEADER]) == "Tournée: 50 %\r\nX-Evil: 1"
        assert "X-Evil" not in seen[0]
        assert REASON_HEADER not in seen[1]


def test_a_refusal_of_the_guard_is_told_as_it_is() -> None:
    said = b'{"error_code": "PERMISSION_DENIED", "message": "Greenroom refused: genre version 1 is ill."}'
    with (
        server(403, said) as (url, _),
        connect(url) as client,
        pytest.raises(RegistryRefusedError, match=r"^Greenroom refused: genre version 1 is ill\.$"),
    ):
        client.post("model-versions/transition-stage", {})


@pytest.mark.parametrize(
    "said",
    [
        # MLflow's own two answers for an alias that there is not.
        b'{"error_code": "INVALID_PARAMETER_VALUE", "message": "Registered model alias x not found."}',
        b'{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "Registered Model with name=x not found"}',
    ],
)
def test_a_server_without_a_guard_is_told_apart(said: bytes) -> None:
    with (
        server(404 if b"RESOURCE" in said else 400, said) as (url, _),
        connect(url) as client,
        pytest.raises(RegistryRefusedError, match=r"has no guard: it would let anyone promote anything"),
    ):
        audit_log.require_guard(client, "genre")


def test_artifacts_that_are_not_proxied_are_refused() -> None:
    with connect("http://127.0.0.1:9") as client:
        for ask in (lambda uri: client.artifact(uri, "model.onnx"), client.artifact_paths):
            with pytest.raises(RegistryRefusedError, match="--serve-artifacts"):
                ask("s3://bucket/1/run/artifacts")
