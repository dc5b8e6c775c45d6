"""The process of one pyfunc model: `PYTHON -s serving/models/pyfunc_worker FOLDER TASK SOCKET MEMORY`.

It is run by the interpreter that GREENROOM_SERVING_PYFUNC_PYTHON names, not by the predictor's: it imports
MLflow, pandas and the model's own packages, and nothing of Greenroom; so it is no part of the package
(there is no __init__.py), and the import rules of `serving` do not reach it. FOLDER is an MLflow model whose
files the predictor has checked; loading it executes code (pickles). TASK is `classification` or `regression`,
SOCKET the number of an open socket, MEMORY the most bytes of address space.

On the socket: 4 bytes of length, big-endian, then JSON. First the worker says {"features", "classes"} or
{"error"}; then it answers each {"rows"}, in order, with {"labels", "probabilities"} or {"error"}. It
ends, with everything it started, as soon as the other side of the socket is gone.
"""

from __future__ import annotations

import json
import os
import queue
import resource
import signal
import socket
import sys
import threading
from typing import Any

_NUMBERS = ("boolean", "integer", "long", "float", "double")


class BadModelError(Exception):
    """The model cannot be served; the message is for the person who promoted it."""


class Model:
    """An MLflow model that reads named columns of numbers."""

    def __init__(self, folder: str, task: str) -> None:
        """Load the model in `folder`, for `task`."""
        from mlflow.pyfunc import load_model  # noqa: PLC0415 - under the memory limit, and reported if missing

        self._model = load_model(folder)
        self._task = task
        self._columns = self._named_columns()
        self.features = list(self._columns)
        self._estimator = self._probable_estimator()
        self.classes = self._named_classes() if task == "classification" else []

    def answer(self, rows: list[list[float]]) -> dict[str, Any]:
        """Return `labels` (one per row) and `probabilities` (rows by classes; None for a regression)."""
        import numpy as np  # noqa: PLC0415

        frame = self._frame(rows)
        found = self._model.predict(frame)
        if self._task == "regression":
            return {"labels": np.asarray(found, dtype="float64").reshape(-1).tolist(), "probabilities": None}
        shares = self._shares(found, frame)
        if np.ndim(found) == 1:
            labels = [str(label) for label in np.asarray(found).tolist()]
        else:
            labels = [self.classes[place] for place in shares.argmax(axis=1)]
        return {"labels": labels, "probabilities": shares.tolist()}

    def _named_columns(self) -> dict[str, Any]:
        schema = self._model.metadata.get_input_schema()
        if schema is None or schema.is_tensor_spec() or not schema.has_input_names():
            raise BadModelError("its signature does not name the columns that it reads")
        kinds = {column.name: column.type for column in schema.inputs}
        if strange := [name for name, kind in kinds.items() if getattr(kind, "name", "") not in _NUMBERS]:
            raise BadModelError(f"its signature has columns that are not numbers: {', '.join(strange)}")
        return {name: kind.to_pandas() for name, kind in kinds.items()}

    def _probable_estimator(self) -> Any:
        """Return what MLflow's flavour wraps, if it gives probabilities itself."""
        try:
            raw = self._model.get_raw_model()
        except (AttributeError, NotImplementedError):  # not every flavour, nor every MLflow, has it
            return None
        return raw if hasattr(raw, "predict_proba") and hasattr(raw, "classes_") else None

    def _named_classes(self) -> list[str]:
        if self._estimator is not None:
            return [str(label) for label in self._estimator.classes_]
        schema = self._model.metadata.get_output_schema()
        if schema is not None and not schema.is_tensor_spec() and len(schema.input_names()) > 1:
            return [str(name) for name in schema.input_names()]
        raise BadModelError(
            "it gives no probabilities: a classifier needs predict_proba, or one named output per class"
        )

    def _frame(self, rows: list[list[float]]) -> Any:
        import numpy as np  # noqa: PLC0415
        import pandas as pd  # noqa: PLC0415

        matrix = np.asarray(rows, dtype="float64").reshape(-1, len(self._columns))
        columns = {}
        for place, (name, kind) in enumerate(self._columns.items()):
            column = matrix[:, place]
            # MLflow takes no fraction for a whole number, and neither is one cut off here.
            if kind.kind in "iub" and (column != np.rint(column)).any():
                raise BadModelError(f"its signature has whole numbers in {name}, the request has fractions")
            columns[name] = column.astype(kind)
        return pd.DataFrame(columns)

    def _shares(self, found: Any, frame: Any) -> Any:
        import numpy as np  # noqa: PLC0415

        if hasattr(found, "columns"):  # a table with a column per class, in any order
            named = {str(name): name for name in found.columns}
            return found[[named[label] for label in self.classes]].to_numpy(dtype="float64")
        if np.ndim(found) == 2:
            return np.asarray(found, dtype="float64")
        return np.asarray(self._estimator.predict_proba(frame), dtype="float64")


def main(folder: str, task: str, number: str, memory: str) -> None:
    """Load, say what was loaded, and answer until the other side is gone."""
    _limit(int(memory))
    channel = socket.socket(fileno=int(number))
    asked = queue.SimpleQueue()
    threading.Thread(target=_read, args=(channel, asked), daemon=True).start()
    try:
        model = Model(folder, task)
    except Exception as error:
        _send(channel, {"error": _said(error)})
        raise
    _send(channel, {"features": model.features, "classes": model.classes})
    while True:
        request = asked.get()
        try:
            answer = model.answer(request["rows"])
        except Exception as error:  # noqa: BLE001 - a model may raise anything, and the next row may do
            answer = {"error": _said(error)}
        _send(channel, answer)


def _limit(memory: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    except (OSError, ValueError) as error:  # macOS knows the limit and does not keep it
        sys.stderr.write(f"memory is not limited: {error}\n")


def _read(channel: socket.socket, asked: queue.SimpleQueue) -> None:
    """Pass on what comes. In a thread of its own, so that the end is seen while the model works."""
    while True:
        head = _exactly(channel, 4)
        asked.put(json.loads(_exactly(channel, int.from_bytes(head, "big"))))


def _exactly(channel: socket.socket, size: int) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        try:
            part = channel.recv(min(size - len(parts), 1 << 20))
        except OSError:
            part = b""
        if not part:
            _end()
        parts += part
    return bytes(parts)


def _end() -> None:
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)  # also what the model started
    os._exit(0)


def _send(channel: socket.socket, answer: dict[str, Any]) -> None:
    body = json.dumps(answer).encode()
    channel.sendall(len(body).to_bytes(4, "big") + body)


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:1000]


if __name__ == "__main__":
    main(*sys.argv[1:])
