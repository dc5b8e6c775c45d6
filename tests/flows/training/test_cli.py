"""`greenroom train` when something is not there, and what the flow tries again."""

import asyncio
import os
import subprocess
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import click
import pytest
import requests
from mlflow.exceptions import MlflowException, RestException
from prefect.client.schemas.objects import State
from prefect.states import Failed

from checks.errors import DataError
from flows import environment
from flows.errors import ExportError
from flows.orchestration.retries import is_transient
from flows.settings import FlowSettings
from registry.errors import RegistryRefusedError, RegistryUnavailableError
from tests.conftest import Stack
from tests.ports import free_port


@pytest.fixture
def nothing(tmp_path: Path) -> Stack:
    """A home whose ports nothing listens on."""
    return Stack(tmp_path / "home")


@pytest.fixture
def answering() -> Iterator[Callable[[int], int]]:
    """Starts servers that answer everything with one status; returns their port."""
    servers = []

    def start(status: int) -> int:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                length = int(self.headers.get("content-length", 0))
                self.rfile.read(length)
                self.send_response(status)
                self.send_header("content-length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            do_POST = do_GET  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return int(server.server_port)

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def refusal(done: "subprocess.CompletedProcess[str]") -> str:
    """The one line that a command ended with."""
    assert "Traceback" not in done.stdout + done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    return line


def test_unknown_model_is_refused_with_the_known_ones(nothing: Stack) -> None:
    done = nothing.greenroom("train", "nosuch")
    assert done.returncode == 1
    assert "no model 'nosuch'" in refusal(done)
    assert "energy, genre, popularity" in done.stderr


def test_one_unknown_model_stops_all_before_any_work(nothing: Stack) -> None:
    done = nothing.greenroom("train", "genre", "nosuch")
    assert done.returncode == 1
    assert "no model 'nosuch'" in refusal(done)


def test_train_without_a_tracking_server_stops_before_the_work(nothing: Stack) -> None:
    done = nothing.greenroom("train", "genre")
    assert done.returncode == 2
    assert f"tracking server at {nothing.tracking_url} does not answer" in refusal(done)
    assert "make up" in done.stderr


def test_train_without_prefect_stops_before_the_work(nothing: Stack, answering: Callable[[int], int]) -> None:
    """Prefect's own way would be a server of its own, whose runs nobody sees."""
    nothing.ports["MLFLOW"] = answering(200)
    done = nothing.greenroom("train", "genre")
    assert done.returncode == 2
    assert f"Prefect at {nothing.prefect_url}/api does not answer" in refusal(done)
    assert "make up" in done.stderr
    assert not (nothing.home / "prefect").exists()


def test_prefect_of_the_shell_is_not_used(nothing: Stack, answering: Callable[[int], int]) -> None:
    port = answering(200)
    nothing.ports["MLFLOW"] = port
    done = nothing.greenroom("train", "genre", PREFECT_API_URL=f"http://127.0.0.1:{port}/api")
    assert done.returncode == 2
    assert f"Prefect at {nothing.prefect_url}/api does not answer" in refusal(done)


def test_prefect_that_fails_is_said_to_fail(nothing: Stack, answering: Callable[[int], int]) -> None:
    nothing.ports["MLFLOW"], nothing.ports["PREFECT"] = answering(200), answering(500)
    done = nothing.greenroom("train", "genre")
    assert done.returncode == 2
    assert "fails with 500" in refusal(done)


def test_prefect_that_refuses_the_login_is_said_to(nothing: Stack, answering: Callable[[int], int]) -> None:
    nothing.ports["MLFLOW"], nothing.ports["PREFECT"] = answering(200), answering(401)
    done = nothing.greenroom("train", "genre")
    assert done.returncode == 2
    assert f"Prefect at {nothing.prefect_url}/api refuses the login" in refusal(done)
    assert "PREFECT_API_AUTH_STRING" in done.stderr


def test_both_servers_answering_lets_the_work_begin(
    nothing: Stack, answering: Callable[[int], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    port = answering(200)
    monkeypatch.setenv("GREENROOM_HOME", str(nothing.home))
    monkeypatch.setenv("GREENROOM_MLFLOW_PORT", str(port))
    environment.require_servers(FlowSettings(prefect_port=port))
    with pytest.raises(click.ClickException):
        environment.require_servers(FlowSettings(prefect_port=free_port()))


def test_prefect_address_comes_from_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GREENROOM_HOME", str(tmp_path))
    assert FlowSettings().prefect_url == "http://127.0.0.1:4200/api"
    (tmp_path / "stack.env").write_text("GREENROOM_PREFECT_PORT=14200\n")
    assert FlowSettings().prefect_url == "http://127.0.0.1:14200/api"
    monkeypatch.setenv("GREENROOM_PREFECT_API_URL", "https://prefect.example/api/")
    assert FlowSettings().prefect_url == "https://prefect.example/api"


def test_environment_of_a_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {"NO_PROXY": "intranet", "PREFECT_API_URL": "http://elsewhere"})
    os.environ["GREENROOM_HOME"] = str(tmp_path)
    environment.prepare_environment(FlowSettings(prefect_port=14200))
    assert os.environ["PREFECT_API_URL"] == "http://127.0.0.1:14200/api"
    assert os.environ["PREFECT_HOME"] == str(tmp_path / "prefect")
    assert os.environ["NO_PROXY"] == os.environ["no_proxy"] == "intranet,127.0.0.1,localhost"


def test_login_of_the_local_stack_is_for_the_local_stack_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environ = {"GREENROOM_HOME": str(tmp_path), "PREFECT_API_AUTH_STRING": "somebody:theirs"}
    monkeypatch.setattr(os, "environ", environ)
    (tmp_path / "stack.env").write_text("GREENROOM_PREFECT_PASSWORD=ours\nGREENROOM_PREFECT_PORT=14200\n")
    local = ("", "http://127.0.0.1:14200/api", "http://localhost:14200/api/")
    elsewhere = (
        "https://prefect.example/api",
        "http://127.0.0.1:14201/api",
        "http://127.0.0.1.example:14200/api",
    )
    for url in local:
        assert FlowSettings(prefect_api_url=url).prefect_login == "greenroom:ours"
    for url in elsewhere:
        assert FlowSettings(prefect_api_url=url).prefect_login == "somebody:theirs"
    environment.prepare_environment(FlowSettings(prefect_api_url=elsewhere[0]))
    assert os.environ["PREFECT_API_AUTH_STRING"] == "somebody:theirs"
    environment.prepare_environment(FlowSettings())
    assert os.environ["PREFECT_API_AUTH_STRING"] == "greenroom:ours"
    assert "ours" not in repr(FlowSettings())


def asked_again(error: Exception) -> bool:
    state: State[object] = Failed(data=error)
    return asyncio.run(is_transient(None, None, state))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "error",
    [
        RegistryUnavailableError("does not answer"),
        requests.ConnectionError("refused"),
        ConnectionResetError(104, "reset"),
        TimeoutError(110, "Connection timed out"),
        RestException({"error_code": "INTERNAL_ERROR", "message": "database is gone"}),
        RestException({"error_code": "TEMPORARILY_UNAVAILABLE", "message": "starting"}),
    ],
    ids=repr,
)
def test_failure_of_the_outside_is_tried_again(error: Exception) -> None:
    assert asked_again(error)


@pytest.mark.parametrize(
    "error",
    [
        DataError("column missing"),
        ExportError("cannot be converted"),
        RegistryRefusedError("not that stage"),
        FileNotFoundError(2, "no such file"),
        RestException({"error_code": "INVALID_PARAMETER_VALUE", "message": "too long"}),
        RestException({"error_code": "PERMISSION_DENIED", "message": "no"}),
        ValueError("a bug"),
    ],
    ids=repr,
)
def test_what_is_wrong_inside_is_not_tried_again(error: Exception) -> None:
    assert not asked_again(error)


def test_mlflow_exceptions_without_a_server_count_as_failures_of_it() -> None:
    """MLflow's client raises these, with INTERNAL_ERROR, when its own retries ran out."""
    assert asked_again(MlflowException("API request failed with exception: refused"))
