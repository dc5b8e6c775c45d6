"""The first load and the first run of an ONNX file, in a process that may die.

What a file may consist of is asked there as well (registry/model_format/onnx_file.py). A file of a bounded
cost, which was measured, is then loaded by the predictor itself; any other goes on in that process.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import onnxruntime as ort
from pydantic import ValidationError

from registry.digests import digest
from registry.errors import ModelFormatError
from registry.model_format.onnx_file import FORM
from registry.model_format.onnx_model import Description
from serving import limits
from serving.models.onnx_models import OnnxFile, OnnxProcessModel, OnnxWorker, QuickOnnxModel
from serving.models.process_model import first_line
from serving.models.worker_process import WorkerError, WorkerLateError, WorkerRefusedError

_log = logging.getLogger("greenroom.serving")
# Seconds after which a worker without work ends: it holds as much memory as a predictor with small models.
_IDLE = 10.0
# Digests that are remembered: a rollback goes to one of the last versions.
_REMEMBERED = 200
# What a passed trial is worth: another ONNX Runtime, or another rule, asks for another.
TRIED_BY = f"onnxruntime {ort.__version__}, form {FORM}"


class TrialError(ModelFormatError):
    """The version ended, or hung, the process that loaded it first."""


@dataclass(frozen=True)
class FirstRun:
    """A file that was loaded and not run yet, with what it says of itself."""

    description: Description
    # From the values of an example to the model that is served. Raises `ModelFormatError` when the model
    # fails, and `TrialError` when it ends the process or takes too long.
    run: Callable[[list[float]], QuickOnnxModel | OnnxProcessModel]


class OnnxTrials:
    """Loads ONNX files for one predictor. For one thread."""

    def __init__(self, run_ended: Callable[[str, str], None] = lambda *_: None) -> None:
        """`run_ended` is called with a model's name and `late` or `crashed` when a run ended its process."""
        self._run_ended = run_ended
        self._worker: OnnxWorker | None = None
        self._worked = 0.0
        self._passed: dict[str, None] = {}

    def trust(self, sha256: str) -> None:
        """Take a file's digest for one that has passed: it was, by `TRIED_BY`, and that is kept."""
        self._passed[sha256] = None
        while len(self._passed) > _REMEMBERED:
            del self._passed[next(iter(self._passed))]

    def passed(self, sha256: str) -> bool:
        """Whether a file may be loaded by the predictor itself."""
        return sha256 in self._passed

    def prepare(self) -> None:
        """Start the process, if there is none: its imports take half a second."""
        self._worked = time.monotonic()
        if self._worker is None or not self._worker.alive:
            self._worker = OnnxWorker()

    def rest(self) -> None:
        """End the process if there was nothing to do for a while."""
        if self._worker is not None and time.monotonic() - self._worked > _IDLE:
            self.close()

    def close(self) -> None:
        """End the process."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.end()

    def load(self, name: str, content: bytes) -> FirstRun:
        """Load the file of a model.

        Raises `ModelFormatError` when it is no served model, and `TrialError` when it ends the process.
        """
        if self.passed(digest(content)):
            model = QuickOnnxModel(content)
            return FirstRun(model.description, lambda _: model)
        file = OnnxFile(f"The model {name!r}", content)
        loaded = self._ask(file.request)
        try:
            description = Description.model_validate_json(loaded["description"])
        except ValidationError as error:
            raise ModelFormatError(f"What the version says of itself cannot be read: {error}") from error

        def run(row: list[float]) -> QuickOnnxModel | OnnxProcessModel:
            unbounded = str(loaded["unbounded"])
            if reason := self._first_run(row, measure=not unbounded) or unbounded:
                return self._keep_running(name, file, description, reason)
            self.trust(file.digest)
            return QuickOnnxModel(content)

        return FirstRun(description, run)

    def _first_run(self, row: list[float], *, measure: bool) -> str:
        """Run what was loaded; return what was measured and is too much for the predictor's own process."""
        try:
            return str(self._ask({"row": row, "measure": measure})["slow"])
        except TrialError:
            raise
        except ModelFormatError as error:
            raise ModelFormatError(f"The version fails on an example: {error}") from error

    def _keep_running(
        self, name: str, file: OnnxFile, description: Description, reason: str
    ) -> OnnxProcessModel:
        worker, self._worker = self._worker, None
        if worker is None:
            raise AssertionError("a worker has just answered")
        _log.info("%s runs in process %d: %s", name, worker.pid, reason)
        return OnnxProcessModel(file, worker, description, lambda why: self._run_ended(name, why))

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        self.prepare()
        if self._worker is None:
            raise AssertionError("it was just started")
        try:
            return self._worker.ask(request, limits.TRIAL_TIMEOUT)
        except WorkerRefusedError as error:
            raise ModelFormatError(str(error)) from error
        except WorkerError as error:
            self.close()
            _log.warning("the process that loads a version first: %s", error)
            what = "takes too long" if isinstance(error, WorkerLateError) else "ends the process"
            raise TrialError(
                f"The version {what} when it is loaded and run for the first time ({first_line(error)}), so "
                "it is not taken. `greenroom rollback` brings the last good version back; train another."
            ) from error
        finally:
            self._worked = time.monotonic()
