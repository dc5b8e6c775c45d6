"""The process that loads an ONNX file first, and runs it: `python -m serving.models.onnx_worker SOCKET`.

What a file does to ONNX Runtime (a crash, an endless run, all memory) it does here, and the predictor ends
this process. The form of a file is asked here as well, so that the predictor needs no memory for it.

On the socket: 4 bytes of length, big-endian, then JSON, answered in order. {"path", "digest"} loads a file
and is answered with {"description", "unbounded"}. {"row", "measure"} runs it for the first time, then perhaps
for many rows, and is answered with {"slow"}. {"rows"} is answered with {"kind", "labels", "probabilities"}.
An error of the model is {"error"}. This process ends with the other side.
"""

import json
import os
import queue
import resource
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from registry.digests import digest
from registry.errors import ModelFormatError
from registry.model_format.onnx_file import require_plain_file
from registry.model_format.onnx_model import OnnxModel, Rows
from serving import limits

# Values of features that arithmetic takes longest for: subnormal, huge, none.
_ODD_VALUES = (1e-40, 1e30, -1e6, 0.0)
_REPEATS = 3


class _Worker:
    """The file that was loaded last."""

    def __init__(self) -> None:
        self._model: OnnxModel | None = None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        if "path" in request:
            return self._load(Path(request["path"]), request["digest"])
        if self._model is None:
            raise ModelFormatError("nothing was loaded")
        if "row" in request:
            row = np.array([request["row"]], dtype=np.float32)
            self._model.predict(row)
            return {"slow": _slow(self._model, row) if request["measure"] else ""}
        return _answered(self._model, np.array(request["rows"], dtype=np.float32))

    def _load(self, path: Path, wanted: str) -> dict[str, Any]:
        self._model = None
        content = path.read_bytes()
        if digest(content) != wanted:
            raise ModelFormatError("its file was changed while it was loaded")
        _limit_memory(limits.ONNX_MEMORY + limits.ONNX_MEMORY_PER_BYTE * len(content))
        form = require_plain_file(content)
        self._model = OnnxModel(content)
        return {"description": self._model.description.model_dump_json(), "unbounded": form.unbounded}


def _answered(model: OnnxModel, rows: Rows) -> dict[str, Any]:
    labels, shares = model.predict(rows)
    return {
        "kind": labels.dtype.str,
        "labels": labels.tolist(),
        "probabilities": None if shares is None else shares.tolist(),
    }


def _slow(model: OnnxModel, row: Rows) -> str:
    """Return what is too slow or too large for the predictor's own process; empty if nothing is."""
    before = _peak_memory()
    for count, most in (
        (1, limits.LOOP_SECONDS),
        (limits.LOOP_ROWS, limits.LOOP_SECONDS),
        (limits.CALL_ROWS, limits.CALL_SECONDS),
    ):
        try:
            seconds = _cost(model, np.repeat(row, count, axis=0), most)
        except Exception as error:  # noqa: BLE001 - the kinds of ONNX Runtime have no common base
            return f"{count} rows at once fail ({type(error).__name__})"
        if seconds > most:
            return f"{count} rows take {seconds * 1000:.0f} ms"
    for value in _ODD_VALUES:
        with suppress(Exception):  # not every model takes every value
            rows = np.full((limits.LOOP_ROWS, row.shape[1]), value, dtype=np.float32)
            if (seconds := _cost(model, rows, limits.CALL_SECONDS)) > limits.CALL_SECONDS:
                return f"{limits.LOOP_ROWS} rows of {value:g} take {seconds * 1000:.0f} ms"
    if (taken := _peak_memory() - before) > limits.CALL_MEMORY:
        return f"a run takes {taken // 2**20} MiB of memory"
    return ""


def _cost(model: OnnxModel, rows: Rows, enough: float) -> float:
    """Return the least processor time of some runs, in seconds: others may use the machine meanwhile."""
    least = float("inf")
    for _ in range(_REPEATS):
        began = time.thread_time()
        model.predict(rows)
        least = min(least, time.thread_time() - began)
        if least < enough / 2:
            break
    return least


def _peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _limit_memory(more: int) -> None:
    """Let this process have so many bytes of address space more than it has now."""
    with suppress(OSError, ValueError):  # macOS knows the limit and does not keep it
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more, hard))


def main(number: str) -> None:
    """Answer until the other side is gone."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError):  # in a container that has no memory left it is this process that ends
        Path("/proc/self/oom_score_adj").write_text("1000")
    channel = socket.socket(fileno=int(number))
    requests: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(channel, requests), daemon=True).start()
    worker = _Worker()
    while True:
        request = requests.get()
        try:
            answer = worker.answer(request)
        except ModelFormatError as error:
            answer = {"error": str(error)}
        except Exception as error:  # noqa: BLE001 - the kinds of ONNX Runtime have no common base
            answer = {"error": f"{type(error).__name__}: {error}"[:1000]}
        body = json.dumps(answer).encode()
        channel.sendall(len(body).to_bytes(4, "big") + body)


def _read(channel: socket.socket, requests: "queue.SimpleQueue[dict[str, Any]]") -> None:
    """Pass on what comes. In a thread of its own, so that the end is seen while a model runs."""
    with suppress(OSError), channel.makefile("rb") as stream:
        while len(head := stream.read(4)) == 4:
            requests.put(json.loads(stream.read(int.from_bytes(head, "big"))))
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1])
