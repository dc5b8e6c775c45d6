"""Retries and timeouts of tasks: errors of other services are tried again, errors in data or code are not."""

from typing import Any

import requests
from mlflow.exceptions import MlflowException
from prefect.client.schemas.objects import State, TaskRun
from prefect.task_engine import TaskRunTimeoutError
from prefect.tasks import Task, exponential_backoff

from registry.errors import RegistryUnavailableError, StorageUnavailableError

# Errors of the registry, object storage, or a network file system, which may pass by themselves.
_TRANSIENT = (
    RegistryUnavailableError,
    StorageUnavailableError,
    requests.RequestException,
    ConnectionError,
    TimeoutError,
)


async def is_transient(_task: "Task[..., Any]", _run: TaskRun, state: State[Any]) -> bool:
    """Whether a failed task is tried again: only after an error of another service."""
    error = await state.aresult(raise_on_failure=False)
    if isinstance(error, TaskRunTimeoutError):  # what hung for so long hangs again
        return False
    if isinstance(error, MlflowException):
        return int(error.get_http_status_code()) >= 500
    return isinstance(error, _TRANSIENT)


# Most seconds of a step that reads or writes somewhere else: ingest, log, register, promote.
STEP_SECONDS = 900.0
# Most seconds of a step that computes: one candidate's fit, the search, the scores, the conversion.
COMPUTE_SECONDS = 7200.0

RETRIES: dict[str, Any] = {
    "retries": 3,
    "retry_delay_seconds": exponential_backoff(2),
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": is_transient,
}

# With a timeout. Prefect sends a signal, which interrupts Python code that waits (a socket, a lock, a sleep),
# but C code only when it returns to Python. DeepChecks, which may hang in C, is a process that is killed.
# Flows have no timeout: in Prefect 3.8 it would disable the timeouts of their tasks.
BOUNDED: dict[str, Any] = {**RETRIES, "timeout_seconds": STEP_SECONDS}
COMPUTING: dict[str, Any] = {"timeout_seconds": COMPUTE_SECONDS}


def explain(error: BaseException) -> str:
    """Return an error in one line; for a timeout also what to do."""
    if not isinstance(error, TaskRunTimeoutError):
        return f"{type(error).__name__}: {error}"
    return (
        f"A step took too long and was ended ({str(error).rstrip('.')}). Prefect shows which. "
        "See whether MLflow, S3 and the disk answer, then train again. A step that reads or writes may take "
        f"{STEP_SECONDS:g} seconds, one that computes {COMPUTE_SECONDS:g}."
    )
