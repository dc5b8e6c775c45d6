"""Probabilities that mean what they say: a classifier's temperature, learned from rows it had not seen.

Temperature scaling (Guo, Pleiss, Sun and Weinberger, On Calibration of Modern Neural Networks, ICML 2017) as
scikit-learn has it: one number, which changes how sure a model is and never which class it names.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import brier_score_loss, log_loss
from sklearn.pipeline import Pipeline

Floats = npt.NDArray[np.float64]
# The number of bins of Guo et al.
BINS = 15
# What scikit-learn adds before it takes a logarithm. Less is nothing in float32.
TINY = 1e-12
# How far the graph's own formula may be from scikit-learn's; beyond, it is another formula.
_SAME = 1e-3


@dataclass(frozen=True)
class Unseen:
    """What a classifier said of rows of a fold that it was not fitted on.

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


class _Known(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier whose responses are known already; rows are named by their position."""

    def __init__(self, responses: Any, classes: Any) -> None:
        self.responses, self.classes, self.classes_ = responses, classes, classes

    def fit(self, *_: Any) -> "_Known":
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def predict(self, rows: Any) -> Any:
        raise NotImplementedError("scikit-learn asks for it to be there, and calibrates without it")


class _KnownDecisions(_Known):
    def decision_function(self, rows: Any) -> Any:
        return self.responses[rows]


class _KnownProbabilities(_Known):
    def predict_proba(self, rows: Any) -> Any:
        return self.responses[rows]


def unseen(pipeline: Pipeline, rows: pd.DataFrame, positions: npt.NDArray[np.intp]) -> Unseen:
    """Return what a fitted classifier says of rows, which are at `positions` among all training rows."""
    decisions = pipeline.decision_function(rows) if hasattr(pipeline, "decision_function") else None
    return Unseen(positions, pipeline.classes_, pipeline.predict_proba(rows), decisions)


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
    sure = probabilities.max(axis=1)
    right = (classes[probabilities.argmax(axis=1)] == actual).astype(np.float64)
    of = np.minimum((sure * bins).astype(np.int64), bins - 1)
    numbers, where, counts = np.unique(of, return_inverse=True, return_counts=True)
    confidence, accuracy = (np.bincount(where, weights=of_rows) / counts for of_rows in (sure, right))
    return numbers, confidence, accuracy, counts / len(actual)


def calibrated(
    pipeline: Pipeline,
    folds: Sequence[Unseen],
    rows: pd.DataFrame,
    target: "pd.Series[Any]",
) -> tuple[Pipeline, Calibration]:
    """Return a fitted classifier with its probabilities scaled, if that makes them better, and what was
    found.

    The temperature is that of `folds`, so of rows that the classifier had not seen, by whatever they are
    grouped. Whether it helps is judged by the log loss of each fold under the temperature of the others.
    """
    usual, actual = pipeline.classes_, target.to_numpy()
    if not _enough(folds, actual, usual):
        return pipeline, Calibration(None, "a class has too few rows in the folds", {}, {})
    known = np.concatenate([fold.positions for fold in folds])
    before = quality(actual[known], np.concatenate([fold.probabilities for fold in folds]), usual)
    fitted = [_scaling([f for f in folds if f is not fold], actual, usual) for fold in folds]
    scaled = [one.calibrated_classifiers_[0].calibrators[0] for one in fitted]
    after = quality(
        actual[known],
        np.concatenate([one.predict(fold.responses) for one, fold in zip(scaled, folds, strict=True)]),
        usual,
    )
    if after["log_loss"] >= before["log_loss"]:
        return pipeline, Calibration(None, "the probabilities are no better for it", before, after)
    # scikit-learn would fit the classifier once more for each fold to come to the same responses.
    space = pipeline[:-1].transform(rows)
    whole = CalibratedClassifierCV(FrozenEstimator(pipeline[-1]), method="temperature", ensemble=False, cv=2)
    whole.fit(space, actual)
    whole.calibrated_classifiers_[0].calibrators = (
        _scaling(folds, actual, usual).calibrated_classifiers_[0].calibrators
    )
    found = Pipeline([*pipeline.steps[:-1], ("model", whole)])
    exact, ours = whole.predict_proba(space), _scaled(pipeline.predict_proba(rows), exponent(found))
    if np.abs(exact - ours).max() > _SAME:
        return pipeline, Calibration(
            None, "its decision values are not the logarithms of its probabilities", before, after
        )
    beta = float(whole.calibrated_classifiers_[0].calibrators[0].beta_)
    return found, Calibration(1 / beta, "log loss on training folds is lower for it", before, after)


def _enough(folds: Sequence[Unseen], actual: npt.NDArray[Any], classes: npt.NDArray[Any]) -> bool:
    """Whether every fold knows every class, and the other folds have two rows of it, as scikit-learn asks."""
    if len(folds) < 2 or any(not np.array_equal(fold.classes, classes) for fold in folds):
        return False
    by_fold = np.array([[np.sum(actual[f.positions] == label) for label in classes] for f in folds])
    return bool((by_fold.sum(axis=0) - by_fold >= 2).all())


def _scaling(folds: Sequence[Unseen], actual: npt.NDArray[Any], classes: npt.NDArray[Any]) -> Any:
    """Fit a temperature to what folds say."""
    positions = np.concatenate([fold.positions for fold in folds])
    kind = _KnownProbabilities if folds[0].decisions is None else _KnownDecisions
    known = kind(np.concatenate([fold.responses for fold in folds]), classes)
    scaling = CalibratedClassifierCV(FrozenEstimator(known), method="temperature", ensemble=False, cv=2)
    return scaling.fit(np.arange(len(positions)), actual[positions])


def is_calibrated(pipeline: Pipeline) -> bool:
    """Whether the last step scales another classifier's probabilities."""
    return isinstance(pipeline[-1], CalibratedClassifierCV)


def bare(pipeline: Pipeline) -> Pipeline:
    """Return the pipeline without its scaling."""
    if not is_calibrated(pipeline):
        return pipeline
    inner = pipeline[-1].calibrated_classifiers_[0].estimator
    return Pipeline([*pipeline.steps[:-1], ("model", getattr(inner, "estimator", inner))])


def exponent(pipeline: Pipeline) -> float:
    """Return the power that a calibrated pipeline raises probabilities to before they sum to 1 again.

    It is one over the temperature; of two classes' decision values, which scikit-learn takes for one class
    and negated for the other, it is twice that.
    """
    inner = bare(pipeline)
    twice = len(inner.classes_) == 2 and hasattr(inner, "decision_function")
    return float(pipeline[-1].calibrated_classifiers_[0].calibrators[0].beta_) * (2 if twice else 1)


def _scaled(probabilities: Floats, power: float) -> Floats:
    logs = np.log(probabilities + TINY) * power
    raised = np.exp(logs - logs.max(axis=1, keepdims=True))
    found: Floats = raised / raised.sum(axis=1, keepdims=True)
    return found
