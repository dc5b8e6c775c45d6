"""Versions without an ONNX file: MLflow pyfunc models, each in a process of its own, if that is switched on.

Their files hold pickles, and unpickling executes code. So nothing is loaded before every file was held
against the signed evidence, and never in this process: it has no MLflow, and a model that crashes, hangs or
eats memory takes only its worker with it.
"""

import logging
import shutil
import time
import weakref
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path, PurePosixPath
from tempfile import mkdtemp
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from catalog.spec import Task
from registry.client.registry import MODEL_FILE, Registry, Version, genuine_evidence
from registry.digests import tree_digest
from registry.errors import EvidenceBytesError, ModelFormatError
from registry.model_format.onnx_model import Description, Rows
from registry.settings import KeySettings
from serving import limits
from serving.errors import ModelUnavailableError, PredictionFailedError
from serving.inference.response import shortest_decimals
from serving.models.pyfunc_process import WorkerError, WorkerLateError, WorkerProcess, WorkerRefusedError
from serving.settings import ServingSettings

_log = logging.getLogger("greenroom.serving")
_MLMODEL = "MLmodel"
# Seconds. A worker that fails is started again at once, then after 1, 2, 4, .. 60; one that lived for a
# minute starts a new count.
_LONGEST_WAIT, _LIVED = 60.0, 60.0


def is_pyfunc(version: Version, settings: KeySettings) -> bool:
    """Whether what was signed is an MLflow model without an ONNX file.

    The evidence decides, not the store: a deleted file there must not change how a version is loaded.
    """
    files = genuine_evidence(version, settings).files
    return MODEL_FILE not in files and _MLMODEL in files


class PyfuncFiles:
    """A version's files in a private folder, each of them as it was signed. It goes with this object."""

    def __init__(self, name: str, files: Mapping[str, str], python: str) -> None:
        """Make an empty folder for `files`, the SHA-256 of each by its path; `name` is for messages.

        `python` is the interpreter that runs them.
        """
        self.name, self.files, self.python = name, dict(files), python
        self._root = Path(mkdtemp(prefix="greenroom-pyfunc-"))  # for this user alone
        self.model, self.home = self._root / "model", self._root / "home"
        self.model.mkdir()
        self.home.mkdir()
        weakref.finalize(self, shutil.rmtree, self._root, ignore_errors=True)

    def put(self, path: str, content: bytes) -> None:
        """Write one file; raises `EvidenceBytesError` unless it is one that was signed, as it was signed."""
        if sha256(content).hexdigest() != self.files.get(path):
            raise self._not_as_checked(path)
        if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
            raise ModelFormatError(f"{self.name} has a file outside of its folder: {path}")
        target = self.model / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)

    def require_whole(self) -> None:
        """Raise `EvidenceBytesError` unless every file is there as it was signed."""
        for path, signed in self.files.items():
            target = self.model / path
            if not target.is_file() or sha256(target.read_bytes()).hexdigest() != signed:
                raise self._not_as_checked(path)

    def _not_as_checked(self, path: str) -> EvidenceBytesError:
        _log.error("%s: its %s is not what its evidence is about", self.name, path)
        return EvidenceBytesError(
            f"{self.name} in Production does not hold the bytes that were checked: its {path} was exchanged, "
            "added or removed. Nothing of it was loaded. `greenroom rollback` brings the last good version "
            "back."
        )


def fetched(registry: Registry, version: Version, settings: ServingSettings) -> PyfuncFiles:
    """Return a version's files, every one held against its evidence; nothing is loaded yet.

    Raises `ModelFormatError` when pyfunc models are switched off, an `EvidenceError`, or what the registry
    raises.
    """
    if not settings.serving_pyfunc_python:
        raise ModelFormatError(
            f"{version} has no {MODEL_FILE}. It could be run as MLflow pyfunc, which executes code from its "
            "files; that is switched off. To allow it, set GREENROOM_SERVING_PYFUNC_PYTHON to a Python "
            "with MLflow and the model's requirements (docs/serving.md), or promote an ONNX version."
        )
    files = PyfuncFiles(
        str(version), genuine_evidence(version, settings).files, settings.serving_pyfunc_python
    )
    for path, content in registry.contents(version):
        files.put(path, content)
    files.require_whole()
    return files


class PyfuncModel:
    """A model in a worker process, in the place of an `OnnxModel`. `predict` takes one caller at a time."""

    def __init__(self, files: PyfuncFiles, task: Task) -> None:
        """Start a worker on `files`. Raises `ModelFormatError` when it cannot load them."""
        self._files, self._task = files, task
        self._lock = Lock()
        self._failures, self._not_before, self._started = 0, 0.0, 0.0
        # What ends the last worker when this model is replaced must not keep this model.
        self._workers: list[WorkerProcess] = []
        weakref.finalize(self, _end_all, self._workers)
        self.digest = tree_digest(files.files)
        try:
            self.description = self._start()
        except WorkerError as error:
            _log.warning("%s cannot be run as pyfunc: %s", files.name, str(error))
            what = (
                f"{files.name} cannot be run as pyfunc: {_first_line(error)}; the predictor's log says more."
            )
            raise ModelFormatError(what) from error

    @property
    def pid(self) -> int | None:
        """The id of the worker process, if there is one."""
        return self._workers[0].pid if self._workers else None

    def predict(self, rows: Rows) -> tuple[npt.NDArray[np.generic], npt.NDArray[np.float32] | None]:
        """Return what `OnnxModel.predict` returns for `rows`; blocks, so never call it on an event loop.

        Raises `PredictionFailedError` when the model fails or takes too long, and `ModelUnavailableError`
        while its process may not be started again yet.
        """
        # As decimals: 0.1 arrives as 0.1, and not as the float32 next to it.
        request = {"rows": shortest_decimals(rows).tolist()}
        with self._lock:
            try:
                answer = self._asked(request)
            except WorkerRefusedError as error:
                _log.warning("%s failed: %s", self._files.name, error)
                raise PredictionFailedError(
                    f"{self._files.name} failed on this input; the predictor's log says more. Promote "
                    "another version if it goes on."
                ) from error
            except WorkerError as error:
                raise PredictionFailedError(
                    f"{self._files.name} failed: {_first_line(error)}. Its process was ended and is started "
                    "again; other models go on. Promote another version if it goes on."
                ) from error
        shares = answer["probabilities"]
        if shares is None:
            return np.array(answer["labels"], dtype=np.float64), None
        return np.array(answer["labels"], dtype=object), np.array(shares, dtype=np.float32)

    def _asked(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the worker's answer, or a second one's if the first is gone: it may be no fault of this."""
        for may_try_again in (True, False):
            worker = self._running()
            try:
                return worker.ask(request, limits.PYFUNC_TIMEOUT)
            except WorkerRefusedError:
                raise
            except WorkerError as error:
                _log.warning("%s: %s; its process was ended", self._files.name, error)
                self._failed()
                late = isinstance(error, WorkerLateError)
                if late or not may_try_again or self._not_before > time.monotonic():
                    raise
        raise AssertionError("the second try returns or raises")

    def _running(self) -> WorkerProcess:
        if self._workers and not self._workers[0].alive:
            _log.warning("%s: its process is gone", self._files.name)
            self._failed()
        if not self._workers:
            if (wait := self._not_before - time.monotonic()) > 0:
                raise ModelUnavailableError(
                    f"The process of {self._files.name} failed {self._failures} times in a row; it is "
                    f"started again in {wait:.0f} s. Promote another version if it goes on."
                )
            try:
                self._start()
            except (WorkerError, EvidenceBytesError) as error:
                _log.error("%s cannot be started again: %s", self._files.name, error)
                self._failed()
                raise ModelUnavailableError(
                    f"The process of {self._files.name} could not be started again; the predictor's log "
                    "says why. It is tried again later."
                ) from error
        return self._workers[0]

    def _start(self) -> Description:
        # Anew each time: the worker before had the same rights on the folder.
        self._files.require_whole()
        self._started = time.monotonic()
        worker = WorkerProcess(
            self._files.python,
            self._files.model,
            self._files.home,
            task=self._task,
            memory=limits.PYFUNC_MEMORY,
        )
        try:
            greeting = worker.ask(None, limits.PYFUNC_LOAD_TIMEOUT)
        except WorkerError:
            worker.end()
            raise
        self._workers.append(worker)
        _log.info("%s runs as pyfunc in process %d", self._files.name, worker.pid)
        return Description(task=self._task, features=greeting["features"], classes=greeting["classes"])

    def _failed(self) -> None:
        _end_all(self._workers)
        now = time.monotonic()
        self._failures = 1 if now - self._started > _LIVED else self._failures + 1
        wait = 0.0 if self._failures == 1 else min(_LONGEST_WAIT, 2.0 ** (self._failures - 2))
        self._not_before = now + wait


def _end_all(workers: list[WorkerProcess]) -> None:
    while workers:
        workers.pop().end()


def _first_line(error: WorkerError) -> str:
    # What a worker printed is for the log, not for callers.
    return str(error).partition(";")[0]
