"""Candidates on a sample of the real tracks: built, fitted, scored, chosen."""

import numpy as np
import pytest
from sklearn.dummy import DummyRegressor
from sklearn.pipeline import Pipeline

from catalog.spec import Candidate
from flows.evaluation import scores
from flows.modeling import candidates
from tests.flows.support.samples import SMALL, Sample

pytestmark = pytest.mark.slow


def test_same_seed_fits_the_same_model(genre: Sample) -> None:
    estimator = "sklearn.ensemble.RandomForestClassifier"
    first, second = (genre.pipeline(estimator, **SMALL).predict_proba(genre.held_out) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_codes_are_one_hot_and_every_feature_reaches_the_model(genre: Sample) -> None:
    columns = genre.pipeline("sklearn.linear_model.LogisticRegression").named_steps["features"]
    groups = {name: [genre.spec.features[i] for i in at] for name, _, at in columns.transformers_}
    assert tuple(groups["one_hot"]) == genre.spec.one_hot
    assert tuple(groups["skewed"]) == genre.spec.skewed
    assert sorted(name for names in groups.values() for name in names) == sorted(genre.spec.features)


def fitted(name: str, mean: float, std: float = 0.01) -> candidates.FittedCandidate:
    pipeline = Pipeline([("model", DummyRegressor())])
    return candidates.FittedCandidate(
        Candidate(name=name, estimator="sklearn.dummy.DummyRegressor"), pipeline, mean, std
    )


def test_best_is_chosen_by_its_score_on_training_folds() -> None:
    winner = candidates.best([fitted("low", 0.2), fitted("high", 0.6, std=0.3), fitted("middle", 0.5)])
    assert winner.candidate.name == "high"
    assert candidates.best([fitted("worse", -0.6), fitted("better", -0.2)]).candidate.name == "better"


def test_scores_of_a_classification(genre: Sample) -> None:
    pipeline = genre.pipeline("sklearn.linear_model.LogisticRegression")
    metrics = scores.score(genre.spec, pipeline, genre.test)
    assert list(metrics) == ["balanced_accuracy", "accuracy", "f1_macro", "log_loss"]
    right = (pipeline.predict(genre.held_out) == genre.target[600:]).mean()
    assert metrics["accuracy"] == pytest.approx(right)
    assert metrics["log_loss"] > 0


def test_losses_are_positive_and_the_declared_metric_is_among_the_scores(energy: Sample) -> None:
    spec = energy.spec.model_copy(update={"metric": "neg_median_absolute_error"})
    pipeline = energy.pipeline("sklearn.linear_model.Ridge")
    metrics = scores.score(spec, pipeline, energy.test)
    assert list(metrics) == ["median_absolute_error", "r2", "mean_absolute_error", "root_mean_squared_error"]
    off = np.abs(pipeline.predict(energy.held_out) - energy.target[600:])
    assert metrics["mean_absolute_error"] == pytest.approx(off.mean())
    assert metrics["median_absolute_error"] == pytest.approx(off.median())
