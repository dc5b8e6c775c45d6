"""A further task is one class, one registration and a declaration: no file of the flows is edited for it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.pipeline import Pipeline

from catalog import tasks as catalog_tasks
from catalog.spec import ModelSpec
from checks.data import cleaning, splits, validation
from checks.data.cleaning import Cleaning
from checks.data.splits import Rows
from flows.evaluation import model_card, plots, scores
from flows.modeling import candidates, onnx_export, search
from flows.modeling.trained_model import ScoredCandidate, TrainedModel
from flows.tasks import registry
from flows.tasks.answers import answer_form
from flows.tasks.base import Agreement, FlowTask, SampleScore, mean_of, required
from flows.tasks.registry import task_of
from flows.tasks.regression import Regression
from flows.training.mlflow_log import signature
from registry.evidence.verdict import CheckOutcome, Verdict
from registry.model_format.onnx_model import OnnxModel
from tests.flows.support.things import declare, things


class Counting(FlowTask):
    """Counts of things: numbers that are not negative, scored by the mean absolute error of their roots."""

    name = "counting"

    def fold_score(self, pipeline: Pipeline, rows: Rows) -> float:
        return -float(_errors(pipeline, rows).mean())

    def metrics(self, pipeline: Pipeline, rows: Rows) -> dict[str, float]:
        return {"root_error": -self.fold_score(pipeline, rows)}

    def sample_score(self, pipeline: Pipeline, rows: Rows) -> SampleScore:
        return mean_of(-_errors(pipeline, rows))

    def baseline(self, pipeline: Pipeline, train: Rows, test: Rows) -> tuple[str, SampleScore]:
        usual = np.sqrt(required(train.target)).mean()
        return "always the usual count", mean_of(-np.abs(np.sqrt(required(test.target).to_numpy()) - usual))

    @staticmethod
    def agreement(pipeline: Pipeline, model: OnnxModel, features: pd.DataFrame) -> Agreement:
        return Regression.agreement(pipeline, model, features)

    def plots(self, pipeline: Pipeline, train: Rows, test: Rows) -> Iterator[tuple[str, Any]]:
        yield "counts.json", {"largest": float(pipeline.predict(test.features).max())}


def _errors(pipeline: Pipeline, rows: Rows) -> np.ndarray[Any, Any]:
    predicted = np.sqrt(np.maximum(pipeline.predict(rows.features), 0))
    return np.abs(predicted - np.sqrt(required(rows.target).to_numpy()))


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> ModelSpec:
    monkeypatch.setattr(catalog_tasks, "_TASKS", dict(catalog_tasks._TASKS))
    monkeypatch.setattr(registry, "_TASKS", dict(registry._TASKS))
    catalog_tasks.register(
        catalog_tasks.TaskSpec("counting", answers="numbers", supervised=True, metric="neg_root_error")
    )
    registry.register(Counting)
    spec = declare("regression", "votes")
    tree = spec.candidates[0].model_copy(
        update={"name": "tree", "estimator": "sklearn.tree.DecisionTreeRegressor"}
    )
    dummy = tree.model_copy(update={"name": "dummy", "estimator": "sklearn.dummy.DummyRegressor"})
    return ModelSpec(
        **{**dict(spec), "metric": "neg_root_error", "candidates": (dummy, tree), "task": "counting"}
    )


def test_a_further_task_is_trained_measured_converted_and_described(counting: ModelSpec) -> None:
    table = things(200)
    rows, _ = cleaning.clean(validation.validate(table, counting.dataset)[0], counting, read=len(table))
    data = splits.split_rows(rows, counting)
    train, test = data.train, data.test
    assert train.target is not None
    assert train.target.dtype == np.float64
    fitted = [candidates.fit(counting, candidate, train, data.folds) for candidate in counting.candidates]
    fitted, trials = search.refine(counting, fitted, train, data.folds, trials=3)
    winner = candidates.calibrate(counting, candidates.best(fitted), train)
    assert winner.candidate.name == "tree"
    pipeline, index = task_of(counting).served(winner.pipeline, train, test)
    content = onnx_export.export(counting, pipeline, train.features, index)
    model = OnnxModel(content)
    agreement = onnx_export.agreement(pipeline, model, test.features)
    assert model.description.task == "counting"
    evaluation = scores.evaluate(counting, winner.pipeline, train, test)
    assert evaluation.metric == "root_error"
    assert evaluation.baseline_name == "always the usual count"
    assert evaluation.headline.value < evaluation.baseline.value
    assert evaluation.forest is None
    assert [kind for kind, _ in answer_form(counting.task).signature()] == ["float32"]
    assert signature(content).outputs.inputs[0].shape == (-1, 1)
    scored = [ScoredCandidate(candidate, {}, {}) for candidate in fitted]
    trained = TrainedModel(
        counting, Cleaning(200, 0, 0, 0, 200), data, winner, scored, trials, content, agreement
    )
    assert [path for path, _ in plots.draw(trained)] == ["counts.json"]
    outcome = CheckOutcome(check="Any", suite="model_evaluation", required=True, status="passed", reason="")
    digest = "sha256:" + "a" * 64
    verdict = Verdict(
        model="thing",
        task="counting",
        model_digest=digest,
        policy_digest=digest,
        dataset_digests={"train": digest, "test": digest},
        outcomes=(outcome,),
    )
    card = model_card.with_verdict(model_card.card(model_card.Facts(trained, evaluation, "f" * 32)), verdict)
    assert "A counting, tree." in card
    assert "| root_error |" in card


def test_a_task_is_registered_once(counting: ModelSpec) -> None:
    with pytest.raises(ValueError, match="there is a task 'counting' already"):
        registry.register(Counting)


def test_no_flow_asks_which_task_a_declaration_has() -> None:
    folder = Path(registry.__file__).parents[1]
    for file in folder.rglob("*.py"):
        if file.parent.name != "tasks":
            text = file.read_text("utf-8")
            assert ".task ==" not in text, file
            assert ".task !=" not in text or "description.task != spec.task" in text, file
