"""The tasks that a model can be declared for, one object each.

A further task is one more object that is registered. What other rooms do for a task lies in objects of
theirs, under the same name.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from catalog.spec import ModelSpec

# What a model answers for a row: one of its classes with probabilities, a number, one of its clusters, or the
# nearest things of its index with their distances. The served file has one form for each
# (registry/model_format/onnx_model.py).
Answers = Literal["classes", "numbers", "clusters", "neighbours"]
# Names of fields in a similarity's requests and answers.
_TAKEN = frozenset({"k", "distance"})


def _no_columns(_spec: "ModelSpec") -> tuple[str, ...]:
    return ()


def _no_neighbours(spec: "ModelSpec") -> list[str]:
    return ["`related_by` and `shown` are a similarity's alone"] if spec.related_by or spec.shown else []


@dataclass(frozen=True)
class TaskSpec:
    """What the declaration of a model with this task must say.

    `metric` is the headline metric where there is one alone, and it is no scorer of scikit-learn; None: any
    of its scorers. `columns` returns the columns that training and gate read beside features and label;
    `problems` a sentence for each thing that is wrong with a declaration, beside its target and metric.
    """

    name: str
    answers: Answers
    supervised: bool
    metric: str | None = None
    columns: Callable[["ModelSpec"], tuple[str, ...]] = _no_columns
    problems: Callable[["ModelSpec"], list[str]] = _no_neighbours

    @property
    def numeric_target(self) -> bool:
        """Whether the target is a number; that of the other supervised tasks is text, as classes are."""
        return self.supervised and self.answers == "numbers"


_TASKS: dict[str, TaskSpec] = {}


def register(task: TaskSpec) -> TaskSpec:
    """Add a task; `ValueError` if another one has its name."""
    if _TASKS.setdefault(task.name, task) != task:
        raise ValueError(f"there is a task {task.name!r} already")
    return task


def task_spec(name: str) -> TaskSpec:
    """Return a task by its name; `ValueError` names the ones that exist."""
    if name not in _TASKS:
        raise ValueError(f"there is no task {name!r}; there are {', '.join(_TASKS)}")
    return _TASKS[name]


def task_names() -> tuple[str, ...]:
    """Return the name of every task."""
    return tuple(_TASKS)


def _named_things(spec: "ModelSpec") -> tuple[str, ...]:
    return (*filter(None, [spec.dataset.id]), *spec.shown)


def _similarity_problems(spec: "ModelSpec") -> list[str]:
    problems = []
    if spec.related_by is None or spec.dataset.id is None:
        problems.append("a similarity needs `related_by`, and an `id` of its dataset")
    if taken := sorted(_TAKEN & {*spec.features, *_named_things(spec)}):
        problems.append(f"names that a similarity's requests and answers have for themselves: {taken}")
    return problems


register(TaskSpec("classification", answers="classes", supervised=True))
register(TaskSpec("regression", answers="numbers", supervised=True))
register(TaskSpec("clustering", answers="clusters", supervised=False, metric="silhouette"))
register(
    TaskSpec(
        "similarity",
        answers="neighbours",
        supervised=False,
        metric="agreement_at_10",
        columns=_named_things,
        problems=_similarity_problems,
    )
)
