"""Versions without an ONNX file: MLflow pyfunc models, each in a process of its own, if that is switched on.

Their files hold pickles, and unpickling executes code. So nothing is loaded before every file was held
against the signed evidence, and never in this process: it has no MLflow, and a model that crashes, hangs or
eats memory takes only its worker with it.
"""

import logging
import shutil
import weakref
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path, PurePosixPath
from tempfile import mkdtemp

import numpy as np
import numpy.typing as npt

from catalog.spec import Task
from registry.client.registry import MODEL_FILE, Registry, Version, genuine_evidence
from registry.digests import tree_digest
from registry.errors import EvidenceBytesError, ModelFormatError
from registry.model_format.onnx_model import Description, Rows
from registry.settings import KeySettings
from serving import limits
from serving.inference.response import shortest_decimals
from serving.models.process_model import ProcessModel, first_line
from serving.models.pyfunc_process import WorkerProcess
from serving.models.worker_process import WorkerError
from serving.settings import ServingSettings

_log = logging.getLogger("greenroom.serving")
_MLMODEL = "MLmodel"


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


class PyfuncModel(ProcessModel):
    """A model in a worker process, in the place of an `OnnxModel`. `predict` takes one caller at a time."""

    deadline = None  # its own time, for each run

    def __init__(self, files: PyfuncFiles, task: Task) -> None:
        """Start a worker on `files`. Raises `ModelFormatError` when it cannot load them."""
        super().__init__(files.name, tree_digest(files.files))
        self._files, self._task = files, task
        try:
            self.description = self._start()
        except WorkerError as error:
            _log.warning("%s cannot be run as pyfunc: %s", files.name, str(error))
            what = (
                f"{files.name} cannot be run as pyfunc: {first_line(error)}; the predictor's log says more."
            )
            raise ModelFormatError(what) from error

    @property
    def timeout(self) -> float:
        """The seconds that one run may take."""
        return limits.PYFUNC_TIMEOUT

    def predict(self, rows: Rows) -> tuple[npt.NDArray[np.generic], npt.NDArray[np.float32] | None]:
        """Return what `OnnxModel.predict` returns for `rows`; blocks, so never call it on an event loop.

        Raises `PredictionFailedError` when the model fails or takes too long, and `ModelUnavailableError`
        while its process may not be started again yet.
        """
        # As decimals: 0.1 arrives as 0.1, and not as the float32 next to it.
        answer = self.ask({"rows": shortest_decimals(rows).tolist()})
        shares = answer["probabilities"]
        if shares is None:
            return np.array(answer["labels"], dtype=np.float64), None
        return np.array(answer["labels"], dtype=object), np.array(shares, dtype=np.float32)

    def launch(self) -> tuple[WorkerProcess, Description]:
        """Start a worker on files that are as they were signed."""
        # Anew each time: the worker before had the same rights on the folder.
        self._files.require_whole()
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
        _log.info("%s runs as pyfunc in process %d", self._files.name, worker.pid)
        return worker, Description(
            task=self._task, features=greeting["features"], classes=greeting["classes"]
        )
