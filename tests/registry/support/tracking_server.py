"""Starts `mlflow server` with the guard in front, on a free port, and stops it again."""

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.ports import free_port
from tests.waiting import answers, until
from tests.warm_commands import warm_python

_START = 90  # seconds; a start takes 6 to 9 on an idle machine


@contextmanager
def tracking_server(folder: Path, env: Mapping[str, str], arguments: Sequence[str] = ()) -> Iterator[str]:
    """Run a server whose log and state are in `folder`; yields its address."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with _process(folder, env, ("--port", str(port), *arguments)) as process:

        def log() -> str:
            return f"MLflow did not start:\n{log_of(folder)[-6000:]}"

        until(lambda: process.poll() is not None or answers(f"{url}/health"), log, _START)
        assert process.poll() is None, log()
        yield url


def refused_start(folder: Path, env: Mapping[str, str], arguments: Sequence[str] = ()) -> tuple[int, str]:
    """Start a server that should not start; returns its exit code and all that it printed."""
    with _process(folder, env, ("--port", str(free_port()), *arguments)) as process:
        try:
            code = process.wait(_START)
        except subprocess.TimeoutExpired as error:
            raise AssertionError(f"MLflow runs:\n{log_of(folder)[-6000:]}") from error
    return code, log_of(folder)


def log_of(folder: Path) -> str:
    """Return what the servers of a folder printed."""
    return (folder / "mlflow.log").read_text(errors="replace")


@contextmanager
def _process(
    folder: Path, env: Mapping[str, str], arguments: Sequence[str]
) -> Iterator["subprocess.Popen[bytes]"]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "mlflow.log").open("ab") as log:
        process = subprocess.Popen(
            [
                *(str(warm_python()), "-m", "mlflow", "server", "--host", "127.0.0.1", "--workers", "1"),
                *("--serve-artifacts", "--registry-store-uri", "greenroom://", *arguments),
            ],
            env={
                **os.environ,
                "MLFLOW_ARTIFACTS_DESTINATION": str(folder / "artifacts"),
                "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
                **env,
            },
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=folder,
        )
    try:
        yield process
    finally:
        # The group, so that uvicorn goes with MLflow's own process, also when that has ended.
        for what in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, what)
                process.wait(15)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue
