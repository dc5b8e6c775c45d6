"""A process that holds a model: started, asked, ended. It knows of no registry."""

import json
import logging
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Thread
from typing import Any

_log = logging.getLogger("greenroom.serving")
# An answer of 10,000 rows and 100 classes is about 20 MB; what is longer is no answer.
_MOST_BYTES = 64 * 2**20
_TAIL = 1500  # bytes of its output that a reason may hold


class WorkerError(Exception):
    """Base: what a worker did instead of answering."""


class WorkerRefusedError(WorkerError):
    """It lives, and says that the model raised an error."""


class WorkerLateError(WorkerError):
    """It did not answer in time."""


class WorkerEndedError(WorkerError):
    """It is not there any more, or could not be started."""


class WorkerProcess:
    """A running worker. For one thread at a time."""

    def __init__(self, command: Callable[[int], Sequence[str]], home: Path, **environment: str) -> None:
        """Start the command for the number of an open socket, with `home` to write to.

        `environment` is beside what every such process has. Raises `WorkerEndedError` when the command cannot
        be started.
        """
        self._socket, theirs = socket.socketpair()
        arguments = list(command(theirs.fileno()))
        try:
            self._process = subprocess.Popen(
                arguments,
                cwd=home,
                env=_environment(home) | environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(theirs.fileno(),),
                # A group of its own, so that what it starts ends with it.
                start_new_session=True,
            )
        except OSError as error:
            self._socket.close()
            raise WorkerEndedError(f"{arguments[0]} cannot be started ({error})") from error
        finally:
            theirs.close()
        self._tail = bytearray()
        # What it prints must go somewhere, or it stops when the pipe is full.
        Thread(target=_drain, args=(self._process, self._tail), name="worker-output", daemon=True).start()

    @property
    def pid(self) -> int:
        """The process' id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process runs, as far as is known."""
        return self._process.poll() is None

    def ask(self, request: dict[str, Any] | None, timeout: float) -> dict[str, Any]:
        """Send a request (None: only wait for what it says first) and return the answer.

        Raises `WorkerRefusedError`, `WorkerLateError` after `timeout` seconds, or `WorkerEndedError`; after
        the last two the worker is of no use any more, and to be ended.
        """
        until = time.monotonic() + timeout
        try:
            if request is not None:
                body = json.dumps(request).encode()
                self._socket.settimeout(timeout)
                self._socket.sendall(len(body).to_bytes(4, "big") + body)
            size = int.from_bytes(self._exactly(4, until), "big")
            if size > _MOST_BYTES:
                raise WorkerEndedError(f"it answers {size} bytes, more than is taken")
            answer = json.loads(self._exactly(size, until))
        except TimeoutError as error:
            raise WorkerLateError(f"it did not answer within {timeout:g} s") from error
        except (OSError, ValueError) as error:
            raise WorkerEndedError(self._ending()) from error
        if not isinstance(answer, dict):
            raise WorkerEndedError("it does not speak as it should")
        if "error" in answer:
            raise WorkerRefusedError(str(answer["error"]))
        return answer

    def end(self) -> None:
        """End the worker and the processes that it started."""
        self._socket.close()
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # no process of its group is left
        finally:
            self._process.wait()

    def _exactly(self, size: int, until: float) -> bytes:
        parts = bytearray()
        while len(parts) < size:
            self._socket.settimeout(max(0.001, until - time.monotonic()))
            part = self._socket.recv(min(size - len(parts), 1 << 20))
            if not part:
                raise ConnectionResetError
            parts += part
        return bytes(parts)

    def _ending(self) -> str:
        try:
            code = self._process.wait(1)
        except subprocess.TimeoutExpired:
            return "it closed the connection"
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        output = self._tail.decode("utf-8", errors="replace").strip()
        return f"it ended with {how}" + (f"; it said: {output}" if output else "")


def _environment(home: Path) -> dict[str, str]:
    """Return the worker's whole environment: no secrets, no settings of ours, no telemetry, one thread."""
    return {
        "PATH": os.defpath,
        "LANG": "C.UTF-8",
        "HOME": str(home),
        "TMPDIR": str(home),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "DO_NOT_TRACK": "1",
        "ORT_DISABLE_TELEMETRY": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }


def _drain(process: "subprocess.Popen[bytes]", tail: bytearray) -> None:
    output = process.stdout
    if output is None:
        raise AssertionError("the worker's output is a pipe")
    with output:
        while part := os.read(output.fileno(), 1 << 16):
            tail += part
            del tail[:-_TAIL]
            _log.debug("worker %d: %s", process.pid, part.decode("utf-8", errors="replace").rstrip())
