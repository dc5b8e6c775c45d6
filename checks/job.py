"""A job of the DeepChecks process: files, run and outcomes. DeepChecks itself is never imported here."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from select import select
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Literal, Self

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from catalog.spec import Check
from checks.errors import GateUnavailableError
from checks.frames import to_parquet
from checks.settings import ChecksSettings

WORKER = Path(__file__).resolve().parent / "worker"
OUTCOMES_FILE = "outcomes.json"
# Seconds that the checks of one model may take; a check without an outcome by then counts as missing.
# DeepChecks has no bound of its own.
TIMEOUT = 300.0
_CANNOT_RUN = 3  # the worker's exit code when its imports fail
_TAIL = 1500  # characters of stderr that a reason may hold


class RawOutcome(BaseModel):
    """What the worker says about one check."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    check: str
    status: Literal["passed", "failed", "error", "not_run"]
    reason: str
    value: float | None = None
    # Of a check that scores each feature: its score.
    scores: dict[str, float] = Field(default_factory=dict)


class _OutcomesFile(BaseModel):
    model_config = ConfigDict(extra="ignore")

    outcomes: list[RawOutcome]


@dataclass(frozen=True)
class WorkerRun:
    """What one run of the worker left: outcomes by check, and why some may be absent."""

    outcomes: dict[str, RawOutcome] = field(default_factory=dict)
    failure: str | None = None


@dataclass(frozen=True)
class CheckJob:
    """What the DeepChecks process is to look at.

    `rows` are the frames of the sides `train` and `test`, `predictions` what a model predicted for them
    (checks.precomputed), empty where there is no model. `classes` is sorted, and empty where the target is a
    number; `target` is None where there is none.
    """

    checks: Sequence[Check]
    rows: Mapping[str, pd.DataFrame]
    features: Sequence[str]
    categorical: Sequence[str]
    target: str | None
    classes: Sequence[str] = ()
    predictions: Mapping[str, pd.DataFrame] = field(default_factory=dict)

    def run(self, report_dir: Path, keep: Mapping[str, str]) -> WorkerRun:
        """Run the worker and keep some of the job's files.

        `report_dir`, made if need be, then holds the files named in `keep` under the names that `keep` gives
        them, as far as there are any. Raises `GateUnavailableError` when the checks cannot be run at all.
        """
        report_dir.mkdir(parents=True, exist_ok=True)
        for name in keep.values():
            (report_dir / name).unlink(missing_ok=True)  # an older run's report must not pass for this one's
        with TemporaryDirectory(prefix="greenroom-checks-") as temporary:
            folder = Path(temporary)
            self.write(folder)
            run = run_worker(folder, ChecksSettings()) if self.checks else WorkerRun()
            for file, name in keep.items():
                if (folder / file).exists():
                    shutil.copyfile(folder / file, report_dir / name)
        return run

    def write(self, folder: Path) -> None:
        """Write the files that the worker reads (checks/worker/__main__.py)."""
        for side, frame in self.rows.items():
            (folder / f"{side}.parquet").write_bytes(to_parquet(frame))
        for side, frame in self.predictions.items():
            (folder / f"{side}_predictions.parquet").write_bytes(to_parquet(frame))
        content = {
            "label_type": self._label_type(),
            "features": list(self.features),
            "target": self.target,
            "categorical": list(self.categorical),
            "classes": list(self.classes),
            "checks": [check.model_dump(mode="json") for check in self.checks],
        }
        (folder / "job.json").write_text(json.dumps(content), "utf-8")

    def _label_type(self) -> str | None:
        """Return what DeepChecks calls the kind of the target."""
        if self.target is None:
            return None
        if not self.classes:
            return "regression"
        return "binary" if len(self.classes) == 2 else "multiclass"


class WarmWorker:
    """A worker that has imported DeepChecks once and forks a child for each job, one at a time.

    It starts with its first job, and again after one that ended it.
    """

    def __init__(self, settings: ChecksSettings) -> None:
        self._python = settings.checks_python
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = TemporaryDirectory(prefix="greenroom-worker-")
        self._turn = Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._turn:
            self._stop()
            self._folder.cleanup()

    def run(self, folder: Path, log: Path) -> int:
        """Run the job in `folder` and return its exit code, negative for a signal.

        Raises `OSError` when the worker cannot be started and `subprocess.TimeoutExpired` after `TIMEOUT`
        seconds. `log` gets the output of a worker that ended.
        """
        with self._turn:
            if self._process is None or self._process.poll() is not None:
                self._process = self._start()
            process = self._process
            stdin, stdout = process.stdin, process.stdout
            if stdin is None or stdout is None:
                raise AssertionError("the worker has pipes")
            with suppress(BrokenPipeError):  # it ended; its exit code says why
                stdin.write(f"{folder}\n".encode())
                stdin.flush()
            ready, _, _ = select([stdout], [], [], TIMEOUT)
            if not ready:
                self._stop()
                raise subprocess.TimeoutExpired(str(WORKER), TIMEOUT)
            if line := stdout.readline():
                return int(line)
            code = process.wait()
            shutil.copyfile(self._log, log)
            return code or 1

    def _start(self) -> "subprocess.Popen[bytes]":
        folder = Path(self._folder.name)
        with self._log.open("wb") as stderr:
            return subprocess.Popen(
                [str(self._python), "-s", str(WORKER), "--serve"],
                cwd=folder,
                env=_environment(self._python, folder),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                start_new_session=True,
            )

    def _stop(self) -> None:
        if self._process is not None:
            _end(self._process)
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe:
                    with suppress(OSError):
                        pipe.close()
            self._process = None

    @property
    def _log(self) -> Path:
        return Path(self._folder.name) / "stderr.txt"


_warm: WarmWorker | None = None


def use_warm_worker(worker: WarmWorker | None) -> None:
    """Let every later job of this process run in `worker`; None: each in a process of its own."""
    global _warm  # noqa: PLW0603 - one per process, set where the process starts
    _warm = worker


def run_worker(folder: Path, settings: ChecksSettings) -> WorkerRun:
    """Run the worker on the job in `folder`.

    Raises `GateUnavailableError` if its environment is absent or cannot import DeepChecks. A worker that
    crashes or takes longer than `TIMEOUT` seconds is no exception but a `failure`.
    """
    python = settings.checks_python
    if not python.is_file():
        raise GateUnavailableError(
            f"The gate could not tell: there is no Python at {python} to run DeepChecks with. "
            "Run `make setup`, or set GREENROOM_CHECKS_PYTHON."
        )
    log, failure = folder / "stderr.txt", None
    try:
        code = _warm.run(folder, log) if _warm else _run_once(python, folder, log)
    except OSError as error:
        raise GateUnavailableError(
            f"The gate could not tell: {python} cannot be started ({error}). Run `make setup` again."
        ) from error
    except subprocess.TimeoutExpired:
        failure = f"the checks process took longer than {TIMEOUT:g} s: {_tail(log)}"
    else:
        if code == _CANNOT_RUN:
            raise GateUnavailableError(
                f"The gate could not tell: {python} cannot import DeepChecks. Run `make setup` again, or "
                f"set GREENROOM_CHECKS_PYTHON. It said: {_tail(log)}"
            )
        if code:
            failure = f"the checks process ended with {_ending(code)}: {_tail(log)}"
    return _read(folder / OUTCOMES_FILE, failure)


def _run_once(python: Path, folder: Path, log: Path) -> int:
    """Run the job in a process of its own; return its exit code."""
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [str(python), "-s", str(WORKER), str(folder)],
            cwd=folder,
            env=_environment(python, folder),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            start_new_session=True,
        )
    try:
        return process.wait(TIMEOUT)
    finally:
        _end(process)


def _environment(python: Path, folder: Path) -> dict[str, str]:
    """Return the worker's whole environment: no secrets, no settings of ours, no telemetry."""
    return {
        "PATH": os.defpath,
        "LANG": "C.UTF-8",
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "PYTHONHASHSEED": "0",
        "MPLBACKEND": "Agg",
        # Beside the environment, so that matplotlib lists the fonts once and not in every run.
        "MPLCONFIGDIR": str(python.parent.parent / ".matplotlib"),
        "DO_NOT_TRACK": "1",
        "DISABLE_DEEPCHECKS_ANONYMOUS_TELEMETRY": "true",
        "DISABLE_LATEST_VERSION_CHECK": "true",
    }


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the worker and its children: it leads a process group of its own."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    finally:
        process.wait()


def _read(path: Path, failure: str | None) -> WorkerRun:
    if not path.exists():
        return WorkerRun(failure=failure or "the checks process left no outcomes")
    try:
        reported = _OutcomesFile.model_validate_json(path.read_bytes()).outcomes
    except ValidationError as error:
        return WorkerRun(failure=failure or f"the outcomes cannot be read: {error}")
    outcomes = {outcome.check: outcome for outcome in reported}
    if len(outcomes) < len(reported):
        return WorkerRun(failure="the checks process gave two outcomes for one check")
    return WorkerRun(outcomes, failure)


def _ending(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _tail(log: Path) -> str:
    text = log.read_text("utf-8", errors="replace").strip() if log.exists() else ""
    return text[-_TAIL:] or "(it said nothing)"
