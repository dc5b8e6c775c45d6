"""A further task is one registered object: nothing else in the catalogue knows the tasks by name."""

from collections.abc import Iterator

import pytest
from pydantic import BaseModel, ValidationError

from catalog import tasks
from catalog.policies import REGRESSION
from catalog.spec import Candidate, Dataset, ModelSpec
from catalog.tasks import TaskSpec, register, task_names, task_spec


class Row(BaseModel):
    query: str
    relevance: float
    length: float


class Features(BaseModel):
    length: float


DATASET = Dataset(name="pages", description="Pages.", source="pages.parquet", row=Row, features=Features)


@pytest.fixture
def ranking() -> Iterator[TaskSpec]:
    """Return a fifth task: pages in the order of their relevance to a query."""
    task = register(
        TaskSpec(
            "ranking",
            answers="numbers",
            supervised=True,
            metric="ndcg",
            columns=lambda _: ("query",),
            problems=lambda spec: [] if spec.unit is None else ["a ranking has no unit"],
        )
    )
    yield task
    del tasks._TASKS["ranking"]


def declared(task: str, metric: str = "ndcg", unit: str | None = None) -> ModelSpec:
    return ModelSpec(
        name="pages",
        description="Pages.",
        task=task,
        dataset=DATASET,
        target="relevance",
        features=("length",),
        candidates=(Candidate(name="ridge", estimator="sklearn.linear_model.Ridge"),),
        metric=metric,
        unit=unit,
        gate=REGRESSION,
    )


def test_a_fifth_task_is_declared_with_its_own_columns_metric_and_rules(ranking: TaskSpec) -> None:
    spec = declared("ranking")
    assert task_spec(spec.task) is ranking
    assert spec.supervised
    assert spec.columns == ("length", "relevance", "query")
    with pytest.raises(ValidationError, match="the metric of a ranking is 'ndcg', not 'r2'"):
        declared("ranking", metric="r2")
    with pytest.raises(ValidationError, match="a ranking has no unit"):
        declared("ranking", unit="stars")


def test_an_unknown_task_is_refused_with_those_that_exist() -> None:
    with pytest.raises(ValidationError, match="no task 'ranking'; there are classification, regression"):
        declared("ranking")


def test_a_name_is_registered_once(ranking: TaskSpec) -> None:
    assert register(ranking) is ranking
    with pytest.raises(ValueError, match="there is a task 'ranking' already"):
        register(TaskSpec("ranking", answers="classes", supervised=True))
    assert task_names() == ("classification", "regression", "clustering", "similarity", "ranking")
