"""Which flow runs are alive: each holds a lock on a file of its own, which its process's end releases.

Prefect does not notice that a process was killed and shows its run as Running for ever. The next flow of this
home marks the runs whose locks are free as Crashed.
"""

import fcntl
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import State, StateType
from prefect.context import FlowRunContext
from prefect.exceptions import ObjectNotFound, PrefectException
from prefect.states import Crashed

from registry.settings import home

_log = logging.getLogger("greenroom.flows")
_WHY = "Its process was killed."
# Seconds that Prefect may take to store the end of a flow.
_GRACE = 1.0


def _folder() -> Path:
    return home() / "flow-runs"


@contextmanager
def flow_run_lock() -> Iterator[str]:
    """Hold the lock of the flow run that this is called in, and yield the run's id.

    First mark the flow runs of this home whose process died as Crashed. Raises `RuntimeError` outside of a
    flow run, and when another process holds the lock.
    """
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        raise RuntimeError("there is no flow run to hold a lock for")
    run_id = str(context.flow_run.id)
    _folder().mkdir(parents=True, exist_ok=True, mode=0o700)
    mark_dead_runs_crashed()
    lock = _lock(_folder() / run_id, create=True)
    if lock is None:
        raise RuntimeError(f"The flow run {run_id} is at work in another process; it is not run twice.")
    try:
        yield run_id
    finally:
        # The file stays: Prefect does not know the end yet, and the next flow checks that it does.
        os.close(lock)


def is_alive(run_id: str) -> bool:
    """Whether a flow run is still at work.

    The lock answers for a run of this home. A run of another machine is dead when Prefect says that it ended;
    the automations of infra/prefect_worker.py end a run without heartbeats. An unknown run counts as alive.
    """
    file = _folder() / run_id
    if file.exists():
        lock = _lock(file)
        if lock is not None:
            os.close(lock)
        return lock is None
    state = _state(run_id)
    return state is None or not state.is_final()


def was_killed(run_id: str) -> bool:
    """Whether a flow run's last state in Prefect is Crashed."""
    state = _state(run_id)
    return state is not None and state.is_crashed()


def _state(run_id: str) -> "State[Any] | None":
    """Return a flow run's state in Prefect; None if it has none or Prefect does not know the run."""
    try:
        with get_client(sync_client=True) as client:
            return client.read_flow_run(UUID(run_id)).state
    except (ValueError, ObjectNotFound):
        return None


def mark_dead_runs_crashed() -> None:
    """Mark the flow runs of this home that hold no lock any more and did not end as Crashed in Prefect."""
    for file in _folder().glob("*-*"):
        lock = _lock(file)
        if lock is None:
            continue
        try:
            with get_client(sync_client=True) as client:
                _mark_crashed(client, UUID(file.name))
            file.unlink(missing_ok=True)
        except (PrefectException, httpx.HTTPError, ValueError) as error:
            # The file stays, so that the next flow tries again.
            _log.warning("flow run %s cannot be ended in Prefect: %s", file.name, type(error).__name__)
        finally:
            os.close(lock)


def _mark_crashed(client: SyncPrefectClient, run_id: UUID) -> None:
    try:
        if _has_ended(client, run_id):
            return
        time.sleep(_GRACE)
        if _has_ended(client, run_id):
            return
    except ObjectNotFound:
        return
    client.set_flow_run_state(run_id, Crashed(message=_WHY), force=True)
    _log.warning("flow run %s was ended as Crashed: its process was killed", run_id)
    open_tasks = client.read_task_runs(
        flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run_id])),
        task_run_filter=TaskRunFilter(
            state=TaskRunFilterState(type=TaskRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING]))
        ),
    )
    for task in open_tasks:
        client.set_task_run_state(task.id, Crashed(message=_WHY), force=True)


def _has_ended(client: SyncPrefectClient, run_id: UUID) -> bool:
    state = client.read_flow_run(run_id).state
    return state is not None and state.is_final()


def _lock(file: Path, *, create: bool = False) -> int | None:
    """Return the descriptor of a file that is locked now; None if another process holds it or it is gone."""
    while True:
        try:
            descriptor = os.open(file, os.O_RDWR | (os.O_CREAT if create else 0), 0o600)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Another process may remove the file before it is locked: then try again.
            if file.exists() and os.fstat(descriptor).st_ino == file.stat().st_ino:
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            return None
        except FileNotFoundError:
            pass
        os.close(descriptor)
