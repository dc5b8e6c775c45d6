"""Starts the DeepChecks process and reads what it found. DeepChecks itself is never imported here."""

import os
import signal
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from checks.errors import GateUnavailableError
from checks.settings import ChecksSettings

WORKER = Path(__file__).resolve().parent / "worker"
OUTCOMES_FILE = "outcomes.json"
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
    """What one run of the worker left: outcomes by check, and why there may be fewer than asked for."""

    outcomes: dict[str, RawOutcome] = field(default_factory=dict)
    failure: str | None = None


def run_worker(folder: Path, settings: ChecksSettings) -> WorkerRun:
    """Run the worker on the job in `folder`.

    Raises `GateUnavailableError` if its environment is absent or cannot import DeepChecks. A worker that
    crashes or takes longer than `settings.checks_timeout` seconds is no exception but a `failure`.
    """
    python = settings.checks_python
    if not python.is_file():
        raise GateUnavailableError(
            f"The gate could not tell: there is no Python at {python} to run DeepChecks with. "
            "Run `make setup`, or set GREENROOM_CHECKS_PYTHON."
        )
    log = folder / "stderr.txt"
    try:
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
    except OSError as error:
        raise GateUnavailableError(
            f"The gate could not tell: {python} cannot be started ({error}). Run `make setup` again."
        ) from error
    failure: str | None = None
    try:
        code = process.wait(settings.checks_timeout)
        if code == _CANNOT_RUN:
            raise GateUnavailableError(
                f"The gate could not tell: {python} cannot import DeepChecks. Run `make setup` again, or "
                f"set GREENROOM_CHECKS_PYTHON. It said: {_tail(log)}"
            )
        if code:
            failure = f"the checks process ended with {_ending(code)}: {_tail(log)}"
    except subprocess.TimeoutExpired:
        failure = (
            f"the checks process took longer than GREENROOM_CHECKS_TIMEOUT={settings.checks_timeout:g} s: "
            f"{_tail(log)}"
        )
    finally:
        _end(process)
    return _read(folder / OUTCOMES_FILE, failure)


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
    """End the worker and whatever it started: it leads a process group of its own."""
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
        found = _OutcomesFile.model_validate_json(path.read_bytes()).outcomes
    except ValidationError as error:
        return WorkerRun(failure=failure or f"the outcomes cannot be read: {error}")
    outcomes = {outcome.check: outcome for outcome in found}
    if len(outcomes) < len(found):
        return WorkerRun(failure="the checks process gave two outcomes for one check")
    return WorkerRun(outcomes, failure)


def _ending(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _tail(log: Path) -> str:
    text = log.read_text("utf-8", errors="replace").strip()
    return text[-_TAIL:] or "(it said nothing)"
