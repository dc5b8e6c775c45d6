"""Calibration of a classifier's probabilities: its temperature, learned from rows it was not fitted on.

Temperature scaling (Guo, Pleiss, Sun and Weinberger, On Calibration of Modern Neural Networks, ICML 2017) as
scikit-learn has it: one number, which changes how sure a model is and never which class it names.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import brier_score_loss, log_loss
from sklearn.pipeline import Pipeline

from checks.precomputed import PrecomputedClassifier, PrecomputedDecisions, PrecomputedEstimator

Floats = npt.NDArray[np.float64]
# The number of bins of Guo et al.
BINS = 15
# What scikit-learn adds before it takes a logarithm. Less is nothing in float32.
TINY = 1e-12
# How far the graph's own formula may be from scikit-learn's; beyond, it is another formula.
_SAME = 1e-3


@dataclass(frozen=True)
class OutOfFoldPredictions:
    """A classifier's predictions for rows of a fold that it was not fitted on.

    `positions` are those of the rows; `probabilities` have a column for each of `classes`; `decisions` are
    the decision values, which scikit-learn calibrates rather than probabilities where an estimator has them.
    """

    positions: npt.NDArray[np.intp]
    classes: npt.NDArray[Any]
    probabilities: Floats
    decisions: Floats | None = None

    @property
    def responses(self) -> Floats:
        """What is calibrated."""
        return self.probabilities if self.decisions is None else self.decisions


@dataclass(frozen=True)
class Calibration:
    """Whether a classifier's probabilities were scaled, and what cross-validation says of that.

    `before` and `after` hold log_loss, ece and brier; `temperature` above 1 makes a model less sure.
    """

    temperature: float | None
    why: str
    before: dict[str, float]
    after: dict[str, float]


def out_of_fold(
    pipeline: Pipeline, rows: pd.DataFrame, positions: npt.NDArray[np.intp]
) -> OutOfFoldPredictions:
    """Return a fitted classifier's predictions for rows, which are at `positions` among all training rows."""
    decisions = pipeline.decision_function(rows) if hasattr(pipeline, "decision_function") else None
    return OutOfFoldPredictions(positions, pipeline.classes_, pipeline.predict_proba(rows), decisions)


def quality(actual: npt.NDArray[Any], probabilities: Floats, classes: npt.NDArray[Any]) -> dict[str, float]:
    """Return how good probabilities are, lower being better: `log_loss`, `brier` (0..2) and `ece` (0..1).

    `brier` is the mean squared distance to the class that is true (Brier, Monthly Weather Review 78, 1950),
    the sum over classes; `ece` see below.
    """
    return {
        "log_loss": float(log_loss(actual, probabilities, labels=classes)),
        "brier": float(brier_score_loss(actual, probabilities, labels=classes, scale_by_half=False)),
        "ece": expected_error(actual, probabilities, classes),
    }


def expected_error(
    actual: npt.NDArray[Any], probabilities: Floats, classes: npt.NDArray[Any], bins: int = BINS
) -> float:
    """Return the expected calibration error, 0..1 (Guo et al., 2017): how far confidence is from accuracy.

    Rows are put into bins of equal width by the probability of the class that is named; each bin counts by
    its rows with the distance of its mean probability from its share of right answers.
    """
    _, confidence, accuracy, share = reliability(actual, probabilities, classes, bins)
    return float((share * np.abs(confidence - accuracy)).sum())


def reliability(
    actual: npt.NDArray[Any], probabilities: Floats, classes: npt.NDArray[Any], bins: int = BINS
) -> tuple[npt.NDArray[np.int64], Floats, Floats, Floats]:
    """Return, for each bin that has rows: its number, mean confidence, accuracy, and share of the rows."""
    confidences = probabilities.max(axis=1)
    correct = (classes[probabilities.argmax(axis=1)] == actual).astype(np.float64)
    bin_of_row = np.minimum((confidences * bins).astype(np.int64), bins - 1)
    numbers, places, counts = np.unique(bin_of_row, return_inverse=True, return_counts=True)
    confidence, accuracy = (np.bincount(places, weights=rows) / counts for rows in (confidences, correct))
    return numbers, confidence, accuracy, counts / len(actual)


def calibrate(
    pipeline: Pipeline,
    folds: Sequence[OutOfFoldPredictions],
    rows: pd.DataFrame,
    target: "pd.Series[Any]",
) -> tuple[Pipeline, Calibration]:
    """Return a fitted classifier with its probabilities scaled, if that makes them better, and why.

    `rows` and `target` are those of the whole training side. The temperature is learned from `folds`, so from
    rows that the classifier was not fitted on. Whether it helps is judged by the log loss of each fold under
    the temperature of the other folds.
    """
    classes, actual = pipeline.classes_, target.to_numpy()
    if not _sufficient(folds, actual, classes):
        return pipeline, Calibration(None, "a class has too few rows in the folds", {}, {})
    known = np.concatenate([fold.positions for fold in folds])
    before = quality(actual[known], np.concatenate([fold.probabilities for fold in folds]), classes)
    scaled = np.concatenate(
        [
            _temperature([other for other in folds if other is not fold], actual, classes).predict(
                fold.responses
            )
            for fold in folds
        ]
    )
    after = quality(actual[known], scaled, classes)
    if after["log_loss"] >= before["log_loss"]:
        return pipeline, Calibration(None, "the probabilities are no better for it", before, after)
    # scikit-learn would fit the classifier once more for each fold to get the same responses.
    encoded = pipeline[:-1].transform(rows)
    scaling = CalibratedClassifierCV(
        FrozenEstimator(pipeline[-1]), method="temperature", ensemble=False, cv=2
    ).fit(encoded, actual)
    temperature = _temperature(folds, actual, classes)
    scaling.calibrated_classifiers_[0].calibrators = [temperature]
    calibrated = Pipeline([*pipeline.steps[:-1], ("model", scaling)])
    served = _scaled(pipeline.predict_proba(rows), probability_exponent(calibrated))
    if np.abs(scaling.predict_proba(encoded) - served).max() > _SAME:
        return pipeline, Calibration(
            None, "its decision values are not the logarithms of its probabilities", before, after
        )
    why = "log loss on training folds is lower for it"
    return calibrated, Calibration(1 / float(temperature.beta_), why, before, after)


def _sufficient(
    folds: Sequence[OutOfFoldPredictions], actual: npt.NDArray[Any], classes: npt.NDArray[Any]
) -> bool:
    """Whether every fold knows every class, and the other folds have two rows of it: scikit-learn's rule."""
    if len(folds) < 2 or any(not np.array_equal(fold.classes, classes) for fold in folds):
        return False
    by_fold = np.array([[np.sum(actual[f.positions] == label) for label in classes] for f in folds])
    return bool((by_fold.sum(axis=0) - by_fold >= 2).all())


def _temperature(
    folds: Sequence[OutOfFoldPredictions], actual: npt.NDArray[Any], classes: npt.NDArray[Any]
) -> Any:
    """Return scikit-learn's temperature scaling, fitted to the predictions of folds."""
    positions = np.concatenate([fold.positions for fold in folds])
    responses = np.concatenate([fold.responses for fold in folds])
    estimator: PrecomputedEstimator
    if folds[0].decisions is None:
        estimator = PrecomputedClassifier(None, responses, classes)
    else:
        estimator = PrecomputedDecisions(None, responses, classes)
    scaling = CalibratedClassifierCV(FrozenEstimator(estimator), method="temperature", ensemble=False, cv=2)
    scaling.fit(np.arange(len(positions)), actual[positions])
    return scaling.calibrated_classifiers_[0].calibrators[0]


def is_calibrated(pipeline: Pipeline) -> bool:
    """Whether the last step scales another classifier's probabilities."""
    return isinstance(pipeline[-1], CalibratedClassifierCV)


def uncalibrated(pipeline: Pipeline) -> Pipeline:
    """Return the pipeline without its scaling."""
    if not is_calibrated(pipeline):
        return pipeline
    inner = pipeline[-1].calibrated_classifiers_[0].estimator
    return Pipeline([*pipeline.steps[:-1], ("model", getattr(inner, "estimator", inner))])


def probability_exponent(pipeline: Pipeline) -> float:
    """Return the power that a calibrated pipeline raises probabilities to before they sum to 1 again.

    It is one over the temperature; of two classes' decision values, which scikit-learn takes for one class
    and negated for the other, it is twice that.
    """
    inner = uncalibrated(pipeline)
    twice = len(inner.classes_) == 2 and hasattr(inner, "decision_function")
    return float(pipeline[-1].calibrated_classifiers_[0].calibrators[0].beta_) * (2 if twice else 1)


def _scaled(probabilities: Floats, power: float) -> Floats:
    logs = np.log(probabilities + TINY) * power
    raised = np.exp(logs - logs.max(axis=1, keepdims=True))
    scaled: Floats = raised / raised.sum(axis=1, keepdims=True)
    return scaled
