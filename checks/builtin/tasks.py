"""What the gate measures itself for a task, because DeepChecks and scikit-learn's scorers do not."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from checks.builtin import clustering, similarity
from checks.builtin.context import CheckContext, Floats, Measurement
from registry.model_format.onnx_model import OnnxModel

Measure = Callable[..., Measurement]


@dataclass(frozen=True)
class TaskChecks:
    """A task's built-in checks by name, and its headline metric row by row, for a model on held-out rows.

    The metric of a whole table is the mean of its rows. The tasks whose metric is a scorer of scikit-learn
    need no such object.
    """

    measures: Mapping[str, Measure]
    score_by_row: Callable[[CheckContext, OnnxModel], Floats]


_TASKS: dict[str, TaskChecks] = {
    "clustering": TaskChecks(clustering.MEASURES, clustering.silhouettes),
    "similarity": TaskChecks(similarity.MEASURES, similarity.agreements),
}


def register(task: str, checks: TaskChecks) -> None:
    """Add the checks of a task; `ValueError` if it has some already."""
    if _TASKS.setdefault(task, checks) != checks:
        raise ValueError(f"the task {task!r} has checks already")


def task_checks(task: str) -> TaskChecks | None:
    """Return the checks of a task, None if it needs none."""
    return _TASKS.get(task)


def measures() -> Mapping[str, Measure]:
    """Return the built-in checks of all tasks by name."""
    return {name: measure for checks in _TASKS.values() for name, measure in checks.measures.items()}
