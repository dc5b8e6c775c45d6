"""A model in a process of its own, which is ended when it hangs and started again when it is gone."""

import logging
import time
import weakref
from abc import ABC, abstractmethod
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from registry.errors import EvidenceBytesError
from registry.model_format.onnx_model import Description, Rows
from serving.errors import ModelUnavailableError, PredictionFailedError, PredictorError
from serving.models.worker_process import WorkerError, WorkerLateError, WorkerProcess, WorkerRefusedError

_log = logging.getLogger("greenroom.serving")
# Seconds. A worker that fails is started again at once, then after 1, 2, 4, .. 60; one that lived for a
# minute starts a new count.
_LONGEST_WAIT, _LIVED = 60.0, 60.0


class ProcessModel(ABC):
    """A model in a worker process, in the place of an `OnnxModel`. It takes one caller at a time."""

    # Seconds after which a request is answered, whether it was worked on or waited; None: it waits.
    deadline: float | None
    description: Description

    def __init__(self, name: str, digest: str) -> None:
        """Prepare for a worker; `name` is for messages."""
        self.name, self.digest = name, digest
        self._lock = Lock()
        self._failures, self._not_before, self._started = 0, 0.0, 0.0
        # What ends the last worker when this model is replaced must not keep this model.
        self._workers: list[WorkerProcess] = []
        weakref.finalize(self, _end_all, self._workers)

    @property
    def pid(self) -> int | None:
        """The id of the worker process, if there is one."""
        return self._workers[0].pid if self._workers else None

    @property
    @abstractmethod
    def timeout(self) -> float:
        """The seconds that one run may take."""

    @abstractmethod
    def launch(self) -> tuple[WorkerProcess, Description]:
        """Start a worker; raises `WorkerError`, or `EvidenceBytesError` when its files were changed."""

    @abstractmethod
    def predict(self, rows: Rows) -> tuple[npt.NDArray[np.generic], npt.NDArray[np.float32] | None]:
        """Return what `OnnxModel.predict` returns for `rows`; blocks, so never call it on an event loop."""

    def failure(self, error: WorkerError) -> PredictorError:
        """Return what the caller of a run is answered that ended the worker."""
        return PredictionFailedError(
            f"{self.name} failed: {first_line(error)}. Its process was ended and is started "
            "again; other models go on. Promote another version if it goes on."
        )

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the worker's answer.

        Raises `PredictionFailedError` when the model fails, `failure` when it ended or hung, and
        `ModelUnavailableError` while its process may not be started again yet.
        """
        with self._lock:
            try:
                return self._asked(request)
            except WorkerRefusedError as error:
                _log.warning("%s failed: %s", self.name, error)
                raise PredictionFailedError(
                    f"{self.name} failed on this input; the predictor's log says more. Promote "
                    "another version if it goes on."
                ) from error
            except WorkerError as error:
                raise self.failure(error) from error

    def _asked(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the worker's answer, or a second one's if the first is gone: it may be no fault of this."""
        for may_try_again in (True, False):
            worker = self._running()
            try:
                return worker.ask(request, self.timeout)
            except WorkerRefusedError:
                raise
            except WorkerError as error:
                _log.warning("%s: %s; its process was ended", self.name, error)
                self._failed()
                late = isinstance(error, WorkerLateError)
                if late or not may_try_again or self._not_before > time.monotonic():
                    raise
        raise AssertionError("the second try returns or raises")

    def _running(self) -> WorkerProcess:
        if self._workers and not self._workers[0].alive:
            _log.warning("%s: its process is gone", self.name)
            self._failed()
        if not self._workers:
            if (wait := self._not_before - time.monotonic()) > 0:
                raise ModelUnavailableError(
                    f"The process of {self.name} failed {self._failures} times in a row; it is "
                    f"started again in {wait:.0f} s. Promote another version if it goes on."
                )
            try:
                self._start()
            except (WorkerError, EvidenceBytesError) as error:
                _log.error("%s cannot be started again: %s", self.name, error)
                self._failed()
                raise ModelUnavailableError(
                    f"The process of {self.name} could not be started again; the predictor's log "
                    "says why. It is tried again later."
                ) from error
        return self._workers[0]

    def _start(self) -> Description:
        self._started = time.monotonic()
        worker, description = self.launch()
        self._workers.append(worker)
        return description

    def _failed(self) -> None:
        _end_all(self._workers)
        now = time.monotonic()
        self._failures = 1 if now - self._started > _LIVED else self._failures + 1
        wait = 0.0 if self._failures == 1 else min(_LONGEST_WAIT, 2.0 ** (self._failures - 2))
        self._not_before = now + wait


def _end_all(workers: list[WorkerProcess]) -> None:
    while workers:
        workers.pop().end()


def first_line(error: WorkerError) -> str:
    """Return what happened, for callers; what a worker printed is for the log."""
    return str(error).partition(";")[0]
