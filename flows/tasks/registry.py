"""The tasks that can be trained, by name."""

from typing import Protocol

from flows.tasks.base import FlowTask
from flows.tasks.classification import Classification
from flows.tasks.clustering import Clustering
from flows.tasks.regression import Regression
from flows.tasks.similarity import Similarity

_TASKS: dict[str, FlowTask] = {}


class _HasTask(Protocol):
    @property
    def task(self) -> str: ...


def register(task: FlowTask) -> None:
    """Add a task under its name; `ValueError` if there is one already."""
    if task.name in _TASKS:
        raise ValueError(f"there is a task {task.name!r} already")
    _TASKS[task.name] = task


def task_of(declared: _HasTask) -> FlowTask:
    """Return the task of a declaration, or of a model file's description; `KeyError` for an unknown one."""
    return _TASKS[declared.task]


for _task in (Classification(), Regression(), Clustering(), Similarity()):
    register(_task)
