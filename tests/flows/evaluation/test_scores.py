"""Scores with intervals: they hold what is known, widen for rows that come in clumps, and are paired."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score

from catalog.loader import get_model
from catalog.spec import Candidate, ModelSpec
from checks.data.splits import Rows, SplitRows
from flows.evaluation import scores
from flows.modeling import candidates
from flows.modeling.candidates import FittedCandidate
from flows.training import steps
from tests.flows.evaluation.test_intervals import width


def narrow(name: str, **changes: Any) -> ModelSpec:
    features = ("danceability", "valence")
    return get_model(name).model_copy(update={"features": features, "one_hot": (), "skewed": (), **changes})


def side(table: pd.DataFrame, target: "pd.Series[Any] | None", groups: Any = None) -> Rows:
    others = pd.DataFrame(index=table.index) if target is None else pd.DataFrame({"target": target})
    return Rows(table, others, None if target is None else "target", groups)


def rows(seed: int, count: int = 300) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    return pd.DataFrame(random.uniform(size=(count, 2)), columns=["danceability", "valence"])


def labelled(seed: int) -> Rows:
    table = rows(seed)
    label = pd.cut(table["danceability"], [-1, 0.3, 0.9, 2], labels=["metal", "rock", "country"]).astype(str)
    noise = np.random.default_rng(seed + 100).uniform(size=len(table)) < 0.2
    return side(table, label.mask(noise, "rock"))


def numbered(seed: int) -> Rows:
    table = rows(seed)
    noise = np.random.default_rng(seed + 100).normal(0, 0.1, len(table))
    return side(table, table["danceability"] + noise)


def fitted(spec: ModelSpec, train: Rows, estimator: str, **params: Any) -> FittedCandidate:
    candidate = Candidate(name="one", estimator=estimator, params=params)
    at = np.arange(len(train.features))
    return candidates.fit(spec, candidate, train, [(at[::2], at[1::2]), (at[1::2], at[::2])])


def test_a_classifier_is_measured_beside_guessing_and_a_default_forest() -> None:
    spec, train, test = narrow("genre"), labelled(1), labelled(2)
    groups = np.arange(300) // 3
    model = fitted(spec, train, "sklearn.tree.DecisionTreeClassifier", max_depth=4).pipeline
    evaluation = scores.evaluate(spec, model, train, replace(test, groups=groups))
    right = balanced_accuracy_score(test.target, model.predict(test.features))
    assert evaluation.headline.value == evaluation.test["balanced_accuracy"] == pytest.approx(right)
    assert evaluation.headline.low is not None
    assert evaluation.headline.low < right < evaluation.headline.high  # type: ignore[operator]
    assert evaluation.baseline.value == pytest.approx(1 / 3), "three classes, of which one is always named"
    assert evaluation.gain is not None
    assert evaluation.gain.value == pytest.approx(right - 1 / 3)
    forest = scores.default_forest(spec, train)
    assert forest[-1].n_estimators == 100
    assert evaluation.forest is not None
    assert evaluation.over_forest is not None
    assert evaluation.forest.value == pytest.approx(
        balanced_accuracy_score(test.target, forest.predict(test.features))
    )
    assert evaluation.over_forest.value == pytest.approx(right - evaluation.forest.value)
    apart = width(evaluation.headline) + width(evaluation.forest)
    assert width(evaluation.over_forest) < apart, "it is paired"
    assert evaluation.groups == 100
    assert {score.name: score.rows for score in evaluation.classes} == dict(test.target.value_counts())  # type: ignore[union-attr]
    assert {"ece", "brier", "log_loss"} <= set(evaluation.test)
    names = evaluation.metrics()
    for name in ("test_balanced_accuracy", "baseline_balanced_accuracy", "default_forest_balanced_accuracy"):
        assert names[f"{name}_low"] <= names[name] <= names[f"{name}_high"]
    assert names["gain_over_default_forest"] == evaluation.over_forest.value
    assert names["train_balanced_accuracy"] == evaluation.train["balanced_accuracy"]


def test_a_model_has_no_gain_over_itself() -> None:
    spec, train, test = narrow("energy"), numbered(1), numbered(2)
    forest = scores.default_forest(spec, train)
    evaluation = scores.evaluate(spec, forest, train, test)
    gain = evaluation.over_forest
    assert gain is not None
    assert [gain.value, gain.low, gain.high] == pytest.approx([0, 0, 0], abs=1e-12)
    assert evaluation.baseline_name == "always the mean"
    assert evaluation.baseline.value <= 0
    assert evaluation.groups == 300


def test_a_metric_that_is_a_loss_is_told_as_one_and_gains_stay_above_zero() -> None:
    spec, train, test = narrow("energy", metric="neg_mean_absolute_error"), numbered(1), numbered(2)
    model = fitted(spec, train, "sklearn.linear_model.Ridge").pipeline
    evaluation = scores.evaluate(spec, model, train, test)
    assert evaluation.metric == "mean_absolute_error"
    off = np.abs(model.predict(test.features) - test.target).mean()
    assert evaluation.headline.value == pytest.approx(off)
    assert evaluation.headline.low < off < evaluation.headline.high  # type: ignore[operator]
    assert evaluation.baseline.value > evaluation.headline.value
    assert evaluation.gain is not None
    assert evaluation.gain.value == pytest.approx(evaluation.baseline.value - off)


def test_a_metric_that_a_draw_may_not_have_is_measured_all_the_same() -> None:
    spec, train, test = narrow("genre", metric="neg_log_loss"), labelled(1), labelled(2)
    answers = test.target.mask(test.target == "country", "rock")  # type: ignore[union-attr]
    answers.iloc[0] = "country"
    model = fitted(spec, train, "sklearn.linear_model.LogisticRegression").pipeline
    evaluation = scores.evaluate(spec, model, train, side(test.features, answers, np.arange(300)))
    assert evaluation.headline.value == pytest.approx(evaluation.test["log_loss"])


def test_clusters_are_measured_beside_the_same_of_shuffled_features() -> None:
    spec = narrow("clusters")
    middle = np.repeat([[0.1, 0.1], [0.9, 0.9]], 150, axis=0)
    table = pd.DataFrame(middle + np.random.default_rng(0).normal(0, 0.03, (300, 2)), columns=spec.features)
    model = fitted(spec, side(table, None), "sklearn.cluster.KMeans", n_clusters=2, n_init=1).pipeline
    evaluation = scores.evaluate(spec, model, side(table, None), side(table, None))
    assert evaluation.headline.value == pytest.approx(evaluation.test["silhouette"])
    assert evaluation.headline.value > evaluation.baseline.value + 0.2
    assert evaluation.gain is evaluation.forest is evaluation.over_forest is None


def test_neighbours_are_measured_beside_those_drawn_at_random() -> None:
    spec, train, test = narrow("similar"), labelled(1), labelled(2)
    model = fitted(spec, train, "sklearn.neighbors.NearestNeighbors", metric="euclidean").pipeline
    evaluation = scores.evaluate(spec, model, train, test)
    shares = train.target.value_counts(normalize=True)  # type: ignore[union-attr]
    assert evaluation.baseline.value == pytest.approx(test.target.map(shares).mean())  # type: ignore[union-attr]
    assert evaluation.headline.value == pytest.approx(evaluation.test["agreement_at_10"])
    assert evaluation.gain is not None
    assert evaluation.gain.low is not None
    assert evaluation.gain.low > 0
    assert evaluation.over_forest is None


def test_held_out_rows_have_no_say_in_which_candidate_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    """With held-out answers by which the worse candidate is far better, the better one on folds wins."""
    monkeypatch.setattr("flows.training.steps.get_run_logger", lambda: _Quiet)
    spec, train, test = narrow("energy"), numbered(1), numbered(2)
    good = fitted(spec, train, "sklearn.linear_model.Ridge")
    poor = fitted(spec, train, "sklearn.dummy.DummyRegressor", strategy="mean")
    turned = -test.target  # type: ignore[operator]
    winner, scored = steps.evaluate.fn(spec, [poor, good], SplitRows(train, side(test.features, turned), []))
    held_out = {id(candidate.fitted): candidate.test["r2"] for candidate in scored}
    assert held_out[id(good)] < held_out[id(poor)]
    assert winner is good


class _Quiet:
    @staticmethod
    def log(*_: Any) -> None:
        """Say nothing: there is no server."""
