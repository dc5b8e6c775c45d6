"""The tasks that can be trained, by name."""

from catalog.spec import ModelSpec
from flows.tasks.base import FlowTask
from flows.tasks.classification import Classification
from flows.tasks.clustering import Clustering
from flows.tasks.regression import Regression
from flows.tasks.similarity import Similarity

_TASKS: dict[str, type[FlowTask]] = {}


def register(task: type[FlowTask]) -> None:
    """Add a task under its name; `ValueError` if there is one already."""
    if task.name in _TASKS:
        raise ValueError(f"there is a task {task.name!r} already")
    _TASKS[task.name] = task


def task_class(name: str) -> type[FlowTask]:
    """Return a task by its name; `KeyError` for an unknown one."""
    return _TASKS[name]


def task_of(spec: ModelSpec) -> FlowTask:
    """Return the task of a declaration; `KeyError` for an unknown one."""
    return _TASKS[spec.task](spec)


for _task in (Classification, Regression, Clustering, Similarity):
    register(_task)
