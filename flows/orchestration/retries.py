"""What tasks of every flow try again: what may pass by itself, and nothing that is wrong inside."""

from typing import Any

import requests
from mlflow.exceptions import MlflowException
from prefect.client.schemas.objects import State, TaskRun
from prefect.task_engine import TaskRunTimeoutError
from prefect.tasks import Task, exponential_backoff

from flows.settings import FlowSettings
from registry.errors import RegistryUnavailableError, StorageUnavailableError

# What may pass by itself: the registry, object storage, a network file system.
_OUTSIDE = (
    RegistryUnavailableError,
    StorageUnavailableError,
    requests.RequestException,
    ConnectionError,
    TimeoutError,
)


async def may_pass(_task: "Task[..., Any]", _run: TaskRun, state: State[Any]) -> bool:
    """Whether a failed task is worth another try: only if something outside failed."""
    error = await state.aresult(raise_on_failure=False)
    if isinstance(error, TaskRunTimeoutError):  # what hung for so long hangs again
        return False
    if isinstance(error, MlflowException):
        return int(error.get_http_status_code()) >= 500
    return isinstance(error, _OUTSIDE)


RETRIES: dict[str, Any] = {
    "retries": 3,
    "retry_delay_seconds": exponential_backoff(2),
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": may_pass,
}

# The same, and ended when they hang. Prefect does that with a signal, which interrupts Python that waits (a
# socket, a lock, a sleep), but code in C only when it comes back to Python. What may hang there for good
# (DeepChecks) is a process of its own, which is killed. A flow has no timeout: in Prefect 3.8 those of its
# tasks would be of no effect until it.
BOUNDED: dict[str, Any] = {**RETRIES, "timeout_seconds": FlowSettings().step_timeout}
COMPUTING: dict[str, Any] = {"timeout_seconds": FlowSettings().compute_timeout}


def explained(error: BaseException) -> str:
    """Return an error in one line; of a timeout also what to do."""
    if not isinstance(error, TaskRunTimeoutError):
        return f"{type(error).__name__}: {error}"
    settings = FlowSettings()
    return (
        f"A step took too long and was ended ({str(error).rstrip('.')}). Prefect shows which. "
        "See whether MLflow, S3 and the disk answer, then train again; or allow more time: "
        f"GREENROOM_STEP_TIMEOUT is {settings.step_timeout:g}, GREENROOM_COMPUTE_TIMEOUT "
        f"{settings.compute_timeout:g} seconds."
    )
