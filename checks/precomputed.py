"""Rows with a model's answers, and scikit-learn estimators whose predictions are known already."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin

from catalog.spec import ModelSpec
from registry.model_format.onnx_model import OnnxModel
from registry.model_format.similarity_index import SimilarityIndex, nearest_others, pick


@dataclass(frozen=True)
class ScoredRows:
    """Rows and a model's answers, one row each; `probabilities` has a column per class, or is None.

    `labels` are classes, numbers or names of clusters; of a similarity, the distance of the nearest other
    thing.
    """

    features: pd.DataFrame
    labels: npt.NDArray[Any]
    probabilities: pd.DataFrame | None = None

    def __len__(self) -> int:
        return len(self.features)

    @property
    def classes(self) -> list[str]:
        """The classes or clusters among the labels, sorted; none where the labels are numbers."""
        if self.probabilities is not None:
            return sorted(self.probabilities.columns)
        return [] if self.labels.dtype.kind == "f" else sorted(set(self.labels.tolist()))

    def take(self, positions: npt.NDArray[np.intp]) -> "ScoredRows":
        """Return some of the rows, by position."""
        probabilities = self.probabilities
        return ScoredRows(
            self.features.iloc[positions].reset_index(drop=True),
            self.labels[positions],
            None if probabilities is None else probabilities.iloc[positions].reset_index(drop=True),
        )

    def predictions(self, classes: list[str]) -> pd.DataFrame:
        """Return `prediction` and a column of probabilities for each of `classes`: the worker's form."""
        frame = pd.DataFrame({"prediction": self.labels})
        if self.probabilities is not None:
            columns = [str(position) for position in range(len(classes))]
            frame[columns] = self.probabilities[classes].to_numpy()
        return frame

    def estimator(self) -> "PrecomputedEstimator":
        """Return a fitted estimator that gives these answers, asked with the positions of rows."""
        if self.probabilities is None:
            return PrecomputedRegressor(self.labels)
        # float32 rows sum to 1 within 1e-7, and log loss asks for better.
        shares = self.probabilities[self.classes].to_numpy(np.float64)
        probabilities = shares / shares.sum(axis=1, keepdims=True)
        return PrecomputedClassifier(self.labels.astype(str), probabilities, np.array(self.classes))


def score_rows(spec: ModelSpec, model: OnnxModel, rows: pd.DataFrame) -> ScoredRows:
    """Return a model's answers to rows with the columns of `spec`; features have float32's precision."""
    features = rows[list(spec.features)].astype(np.float32).astype(np.float64).reset_index(drop=True)
    description = model.description
    labels, shares = model.predict(rows[list(description.features)].to_numpy(np.float32))
    if description.items is not None and shares is not None:
        matrix = features.to_numpy(np.float32)
        return ScoredRows(features, _distance_to_nearest_other(description.items, matrix, labels, shares))
    if description.answers == "clusters":
        return ScoredRows(features, np.array(description.classes)[labels.astype(np.int64)])
    if shares is None:
        return ScoredRows(features, labels.astype(np.float64).ravel())
    return ScoredRows(features, labels.astype(str), pd.DataFrame(shares, columns=list(description.classes)))


def _distance_to_nearest_other(
    items: SimilarityIndex,
    features: npt.NDArray[np.float32],
    places: npt.NDArray[Any],
    distances: npt.NDArray[np.float32],
) -> npt.NDArray[np.float64]:
    """Return how far the nearest thing with other features is, for each row.

    Training rows are in the index themselves, and some queries are about a thing of it: the row itself would
    be the nearest of one side and not of the other. Where all are the same thing, the farthest stands in.
    """
    others = (items.rows[places] != features[:, None, :]).any(axis=2)
    nearest = pick(distances, nearest_others(others, 1), np.nan)[:, 0]
    return np.where(np.isnan(nearest), distances[:, -1], nearest).astype(np.float64)


class PrecomputedEstimator(BaseEstimator):  # type: ignore[misc]
    """A fitted estimator whose predictions are known; it is asked with the positions of rows."""

    def __init__(self, labels: Any) -> None:
        self.labels = labels

    def fit(self, *_: Any) -> Self:
        """Be fitted already."""
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def predict(self, positions: Any) -> Any:
        """Return the predictions of rows."""
        return self.labels[positions]


class PrecomputedRegressor(RegressorMixin, PrecomputedEstimator):  # type: ignore[misc]
    """A regressor whose predictions are known."""


class PrecomputedClassifier(ClassifierMixin, PrecomputedEstimator):  # type: ignore[misc]
    """A classifier whose labels and probabilities, shape (rows, classes), are known; `classes` is sorted."""

    def __init__(self, labels: Any, probabilities: Any, classes: Any) -> None:
        super().__init__(labels)
        self.probabilities, self.classes, self.classes_ = probabilities, classes, classes

    def predict_proba(self, positions: Any) -> Any:
        """Return the probabilities of rows."""
        return self.probabilities[positions]


class PrecomputedDecisions(ClassifierMixin, PrecomputedEstimator):  # type: ignore[misc]
    """A classifier whose labels and decision values are known; it has no probabilities."""

    def __init__(self, labels: Any, decisions: Any, classes: Any) -> None:
        super().__init__(labels)
        self.decisions, self.classes, self.classes_ = decisions, classes, classes

    def decision_function(self, positions: Any) -> Any:
        """Return the decision values of rows."""
        return self.decisions[positions]
