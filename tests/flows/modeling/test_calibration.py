"""Probabilities: measured as they should be, scaled where that helps, and served as they were scaled."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import make_classification
from sklearn.metrics import log_loss
from sklearn.pipeline import Pipeline

from catalog.loader import get_model
from catalog.spec import Candidate, ModelSpec
from checks.data.splits import Rows
from flows.errors import ExportError
from flows.modeling import candidates, onnx_export
from flows.tasks import calibration
from registry.model_format.onnx_model import OnnxModel

FEATURES = ("danceability", "energy", "valence", "acousticness")
SURE = ("sklearn.tree.DecisionTreeClassifier", {"min_samples_leaf": 3})
VAGUE = ("sklearn.ensemble.RandomForestClassifier", {"n_estimators": 20, "min_samples_leaf": 20})
LINEAR = ("sklearn.linear_model.LogisticRegression", {"C": 1000.0})
BOOSTED = ("sklearn.ensemble.GradientBoostingClassifier", {"n_estimators": 60, "max_depth": 5})
BAYES = ("sklearn.naive_bayes.GaussianNB", {})
NETWORK = ("sklearn.neural_network.MLPClassifier", {"hidden_layer_sizes": (16,), "max_iter": 300})


class Sample:
    """Three quarters of the rows to train on, in three folds, and a quarter held out."""

    def __init__(self, classes: int) -> None:
        self.spec: ModelSpec = get_model("genre").model_copy(
            update={"features": FEATURES, "one_hot": (), "skewed": ()}
        )
        values, numbers = make_classification(
            800, 4, n_informative=3, n_redundant=0, n_classes=classes, flip_y=0.3, random_state=5
        )
        rows = pd.DataFrame(values.astype("float32").astype("float64"), columns=list(FEATURES))
        target = pd.Series(np.array(["country", "metal", "rock"])[numbers])
        self.rows, self.target = rows[:600], target[:600]
        self.asked, self.answers = rows[600:], target[600:]
        at = np.arange(600)
        self.folds = [(at[at % 3 != n], at[at % 3 == n]) for n in range(3)]

    @property
    def train(self) -> Rows:
        return Rows(self.rows, self.target.to_frame("track_genre"), "track_genre")

    def fitted(self, estimator: str, params: dict[str, Any]) -> candidates.FittedCandidate:
        candidate = Candidate(name="one", estimator=estimator, params=params)
        return candidates.fit(self.spec, candidate, self.train, self.folds)

    def calibrated(
        self, estimator: str, params: dict[str, Any]
    ) -> tuple[candidates.FittedCandidate, candidates.FittedCandidate]:
        fitted = self.fitted(estimator, params)
        return fitted, candidates.calibrate(self.spec, fitted, self.train)


@pytest.fixture(scope="module", params=[2, 3], ids=["two-classes", "three-classes"])
def sample(request: pytest.FixtureRequest) -> Sample:
    return Sample(request.param)


@pytest.mark.parametrize("kind", [SURE], ids=lambda kind: kind[0].rpartition(".")[2])
def test_an_overconfident_model_is_made_less_sure_and_better_on_rows_nobody_saw(
    sample: Sample, kind: Any
) -> None:
    before, after = sample.calibrated(*kind)
    scaling = after.calibration
    assert scaling is not None
    assert scaling.temperature is not None
    assert scaling.temperature > 1
    assert scaling.after["log_loss"] < scaling.before["log_loss"]
    plain, scaled = (candidate.pipeline.predict_proba(sample.asked) for candidate in (before, after))
    assert log_loss(sample.answers, scaled) < log_loss(sample.answers, plain)
    actual, classes = sample.answers.to_numpy(), before.pipeline.classes_
    errors = [calibration.expected_error(actual, form, classes) for form in (plain, scaled)]
    assert errors[1] < errors[0]


@pytest.mark.parametrize(
    "kind", [SURE, VAGUE, LINEAR, BOOSTED, BAYES, NETWORK], ids=lambda kind: kind[0].rpartition(".")[2]
)
def test_the_file_answers_the_scaled_probabilities_and_the_same_classes(sample: Sample, kind: Any) -> None:
    before, after = sample.calibrated(*kind)
    # Whether it helps is another matter; here it is applied.
    folds = [fold.predictions for fold in before.folds if fold.predictions]
    worse = [replace(fold, probabilities=np.roll(fold.probabilities, 1, axis=1)) for fold in folds]
    pipeline, scaling = calibration.calibrate(before.pipeline, worse, sample.rows, sample.target)
    assert calibration.is_calibrated(pipeline), scaling
    model = OnnxModel(onnx_export.export(sample.spec, pipeline, sample.rows))
    agreed = onnx_export.agreement(pipeline, model, sample.asked)
    assert agreed.labels == 1.0
    assert agreed.max_difference < 1e-3
    labels, probabilities = model.predict(sample.asked.to_numpy(np.float32))
    np.testing.assert_array_equal(labels.astype(str), before.pipeline.predict(sample.asked))
    assert probabilities is not None
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert np.abs(probabilities - before.pipeline.predict_proba(sample.asked)).max() > 1e-3
    assert after.calibration is not None


def test_the_temperature_is_the_one_scikit_learn_comes_to_by_fitting_once_more_for_each_fold(
    sample: Sample,
) -> None:
    before, after = sample.calibrated(*BOOSTED)
    # The whole pipeline, so that scaling is learned fold by fold there, too.
    once_more = CalibratedClassifierCV(
        candidates.build(sample.spec, before.candidate), method="temperature", ensemble=False, cv=sample.folds
    ).fit(sample.rows, sample.target)
    np.testing.assert_allclose(
        after.pipeline.predict_proba(sample.asked), once_more.predict_proba(sample.asked), atol=1e-6
    )


def test_probabilities_that_are_good_already_are_left_alone() -> None:
    random = np.random.default_rng(1)
    folds = []
    target = np.empty(9000, dtype=object)
    for number in range(3):
        at = np.arange(number * 3000, (number + 1) * 3000)
        sure = random.uniform(0.05, 0.95, 3000)
        probabilities = np.column_stack([1 - sure, sure])
        target[at] = np.where(random.uniform(size=3000) < sure, "rock", "metal")
        decisions = np.log(sure / (1 - sure))
        folds.append(
            calibration.OutOfFoldPredictions(at, np.array(["metal", "rock"]), probabilities, decisions)
        )
    sample = Sample(2)
    pipeline = sample.fitted(*LINEAR).pipeline
    pipeline[-1].classes_ = np.array(["metal", "rock"])
    after, scaling = calibration.calibrate(pipeline, folds, sample.rows, pd.Series(target))
    if scaling.temperature is None:
        assert after is pipeline
        assert "no better" in scaling.why
    assert scaling.after["log_loss"] == pytest.approx(scaling.before["log_loss"], abs=0.002)
    assert scaling.before["ece"] < 0.03


def test_a_class_that_a_fold_has_not_seen_is_no_reason_to_fail() -> None:
    sample = Sample(3)
    lone = sample.target.copy()
    lone[:] = np.where(np.arange(600) % 2 == 0, "country", "metal")
    lone.iloc[0] = "rock"
    sample.target = lone
    fitted, after = sample.calibrated(*BAYES)
    assert after.calibration is not None
    assert after.calibration.temperature is None
    assert "too few rows" in after.calibration.why
    assert after.pipeline is fitted.pipeline


def test_decision_values_that_are_no_logarithms_are_left_alone(sample: Sample) -> None:
    """Its probabilities are a formula of another kind, which the graph has not."""
    fitted = sample.fitted("sklearn.linear_model.SGDClassifier", {"loss": "modified_huber"})
    after = candidates.calibrate(sample.spec, fitted, sample.train)
    assert after.calibration is not None
    assert after.calibration.temperature is None
    assert after.pipeline is fitted.pipeline


def test_error_and_scores_are_what_their_definitions_say() -> None:
    classes = np.array(["a", "b"])
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.35, 0.65]])
    actual = np.array(["a", "a", "b", "b", "b"])
    # Four rows are 0.9 sure and half right, one is 0.65 sure and right.
    assert calibration.expected_error(actual, probabilities, classes) == pytest.approx(0.8 * 0.4 + 0.2 * 0.35)
    measures = calibration.quality(actual, probabilities, classes)
    assert measures["brier"] == pytest.approx((2 * 0.01 * 2 + 2 * 0.81 * 2 + 2 * 0.35**2) / 5)
    assert measures["log_loss"] == pytest.approx(-(2 * np.log(0.9) + 2 * np.log(0.1) + np.log(0.65)) / 5)
    perfect = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert calibration.expected_error(classes, perfect, classes) == 0


def test_a_file_with_other_probabilities_is_refused(sample: Sample) -> None:
    before, after = sample.calibrated(*BOOSTED)
    assert calibration.is_calibrated(after.pipeline)
    model = OnnxModel(onnx_export.export(sample.spec, before.pipeline))
    with pytest.raises(ExportError, match="disagrees"):
        onnx_export.agreement(after.pipeline, model, sample.asked)


def test_a_regression_is_not_calibrated() -> None:
    spec = get_model("energy")
    pipeline = Pipeline([("model", "passthrough")])
    fitted = candidates.FittedCandidate(Candidate(name="one", estimator="x.Y"), pipeline, 0.5, 0.1)
    assert candidates.calibrate(spec, fitted, Rows(pd.DataFrame(), pd.DataFrame(), None)) is fitted
