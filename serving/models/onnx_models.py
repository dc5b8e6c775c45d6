"""ONNX models as they are served: in the predictor's process if their cost is bounded, else in another."""

import shutil
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import numpy.typing as npt

from registry.digests import digest
from registry.model_format.onnx_model import Description, OnnxModel, Rows
from serving import limits
from serving.errors import PredictionLateError, PredictorError
from serving.models.process_model import ProcessModel
from serving.models.worker_process import WorkerError, WorkerLateError, WorkerProcess

_ROOT = Path(__file__).resolve().parents[2]
# What labels may be: numbers, texts (as objects).
_KINDS = {"|O": np.object_, "<i8": np.int64, "<f4": np.float32, "<f8": np.float64, "<i4": np.int32}

Answer = tuple[npt.NDArray[np.generic], npt.NDArray[np.float32] | None]


class QuickOnnxModel(OnnxModel):
    """A model of a bounded cost, which was measured: it may run on the event loop, with a few rows."""

    def predict(self, rows: Rows) -> Answer:
        """Return what `OnnxModel.predict` does, with at most as many rows in a run as were measured."""
        if len(rows) <= limits.CALL_ROWS:
            return super().predict(rows)
        firsts = range(0, len(rows), limits.CALL_ROWS)
        parts = [
            super(QuickOnnxModel, self).predict(rows[first : first + limits.CALL_ROWS]) for first in firsts
        ]
        labels, shares = zip(*parts, strict=True)
        return np.concatenate(labels), None if shares[0] is None else np.concatenate(shares)


class OnnxFile:
    """A file on disk that a worker reads, for this user alone. It goes with this object."""

    def __init__(self, name: str, content: bytes) -> None:
        """Write the file of the version `name`."""
        self.name, self.digest, self.size = name, digest(content), len(content)
        self.folder = Path(mkdtemp(prefix="greenroom-onnx-"))
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        self.path = self.folder / "model.onnx"
        self.path.write_bytes(content)

    @property
    def request(self) -> dict[str, Any]:
        """What asks a worker to load it."""
        return {"path": str(self.path), "digest": self.digest}


class OnnxWorker(WorkerProcess):
    """A process for ONNX files; it has loaded none yet."""

    def __init__(self) -> None:
        """Start it; raises `WorkerEndedError` when that is impossible."""
        home = Path(mkdtemp(prefix="greenroom-onnx-home-"))
        weakref.finalize(self, shutil.rmtree, home, ignore_errors=True)
        command = [sys.executable, "-s", "-P", "-m", "serving.models.onnx_worker"]
        super().__init__(lambda socket: [*command, str(socket)], home, PYTHONPATH=str(_ROOT))


class OnnxProcessModel(ProcessModel):
    """A model whose cost is not bounded, or too high: in a process, which is ended when a run takes long."""

    def __init__(
        self,
        file: OnnxFile,
        worker: WorkerProcess,
        description: Description,
        ended: Callable[[str], None],
    ) -> None:
        """Take over the worker that has loaded the file; `ended` is called with `late` or `crashed`."""
        super().__init__(file.name, file.digest)
        self._file, self.description, self._ended = file, description, ended
        self._workers.append(worker)

    @property
    def timeout(self) -> float:
        """The seconds that one run may take."""
        return limits.RUN_TIMEOUT

    @property
    def deadline(self) -> float:  # type: ignore[override] # read anew, as tests change it
        """The seconds after which a request is answered: a run, and the waiting for another's."""
        return limits.RUN_TIMEOUT + 1

    def failure(self, error: WorkerError) -> PredictorError:
        """Return the error of a run that took too long, or ended its process."""
        late = isinstance(error, WorkerLateError)
        self._ended("late" if late else "crashed")
        return PredictionLateError.of(self.name, self.timeout) if late else super().failure(error)

    def launch(self) -> tuple[WorkerProcess, Description]:
        """Start another worker on the file."""
        worker = OnnxWorker()
        try:
            worker.ask(self._file.request, limits.TRIAL_TIMEOUT)
        except WorkerError:
            worker.end()
            raise
        return worker, self.description

    def predict(self, rows: Rows) -> Answer:
        """Return what `OnnxModel.predict` returns for `rows`; blocks, so never call it on an event loop.

        Raises `PredictionLateError`, `PredictionFailedError`, and `ModelUnavailableError` while its process
        may not be started again yet.
        """
        return arrays(self.ask({"rows": rows.tolist()}))


def arrays(answer: dict[str, Any]) -> Answer:
    """Return a worker's answer as `OnnxModel.predict` returns it; raises `ValueError` for any other."""
    kind = _KINDS.get(answer["kind"])
    if kind is None:
        raise ValueError(f"labels are of the kind {str(answer['kind'])[:20]}")
    shares = answer["probabilities"]
    return np.array(answer["labels"], dtype=kind), None if shares is None else np.array(shares, np.float32)
