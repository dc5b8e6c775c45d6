"""Which flow runs are alive: each holds a lock on a file of its own, which goes when its process does.

Prefect cannot see that a process was killed and would show its run as Running for ever. Whoever starts a
training next ends the runs of this home whose locks are free.
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
# Seconds between a flow's last line and Prefect's knowing of it.
_GRACE = 1.0


def _folder() -> Path:
    return home() / "flow-runs"


@contextmanager
def held() -> Iterator[str]:
    """Hold the lock of the flow run that this is called in, and yield the run's id.

    First it ends, in Prefect, the flow runs of this home whose process died.
    """
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        raise RuntimeError("there is no flow run to hold a lock for")
    run_id = str(context.flow_run.id)
    _folder().mkdir(parents=True, exist_ok=True, mode=0o700)
    bury()
    file = _folder() / run_id
    lock = _locked(file, create=True)
    if lock is None:
        raise RuntimeError(f"The flow run {run_id} is at work in another process; it is not run twice.")
    try:
        yield run_id
    finally:
        # The file stays: Prefect has still to hear how this ended, and the next run looks whether it did.
        os.close(lock)


def is_alive(run_id: str) -> bool:
    """Whether a flow run is still at work.

    A run of this home tells by its lock. One of another machine is dead when Prefect says that it ended
    (a run that no longer sends heartbeats is ended by the automation of infra/prefect_worker.py). One that
    nobody knows is taken for alive: it is left alone.
    """
    file = _folder() / run_id
    if file.exists():
        lock = _locked(file)
        if lock is not None:
            os.close(lock)
        return lock is None
    state = _state(run_id)
    return state is None or not state.is_final()


def was_killed(run_id: str) -> bool:
    """Whether Prefect's last word on a flow run is that its process died."""
    state = _state(run_id)
    return state is not None and state.is_crashed()


def _state(run_id: str) -> "State[Any] | None":
    """Return what Prefect says of a flow run; None where it has no word on it, or does not know it."""
    try:
        with get_client(sync_client=True) as client:
            return client.read_flow_run(UUID(run_id)).state
    except (ValueError, ObjectNotFound):
        return None


def bury() -> None:
    """End in Prefect, as Crashed, the flow runs of this home that hold no lock any more."""
    for file in _folder().glob("*-*"):
        lock = _locked(file)
        if lock is None:
            continue
        try:
            with get_client(sync_client=True) as client:
                _crash(client, UUID(file.name))
            file.unlink(missing_ok=True)
        except (PrefectException, httpx.HTTPError, ValueError) as error:
            # The file stays, for the next one to try.
            _log.warning("flow run %s cannot be ended in Prefect: %s", file.name, type(error).__name__)
        finally:
            os.close(lock)


def _crash(client: SyncPrefectClient, run_id: UUID) -> None:
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


def _locked(file: Path, *, create: bool = False) -> int | None:
    """Return the descriptor of a file that is locked now; None if another process holds it or it is gone."""
    while True:
        try:
            descriptor = os.open(file, os.O_RDWR | (os.O_CREAT if create else 0), 0o600)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Between opening and locking somebody may have taken the file away: then the lock is on nothing.
            if file.exists() and os.fstat(descriptor).st_ino == file.stat().st_ino:
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            return None
        except FileNotFoundError:
            pass
        os.close(descriptor)
