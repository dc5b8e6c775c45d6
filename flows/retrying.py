"""What tasks of every flow try again: what may pass by itself, and nothing that is wrong inside."""

from typing import Any

import requests
from mlflow.exceptions import MlflowException
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task, exponential_backoff

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
    if isinstance(error, MlflowException):
        return int(error.get_http_status_code()) >= 500
    return isinstance(error, _OUTSIDE)


RETRIES: dict[str, Any] = {
    "retries": 3,
    "retry_delay_seconds": exponential_backoff(2),
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": may_pass,
}
