"""An ONNX model as a scikit-learn estimator, for scorers and plots."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.pipeline import Pipeline

from registry.model_format.onnx_model import OnnxModel


class OnnxEstimator(BaseEstimator):  # type: ignore[misc]
    """A fitted estimator that predicts with an ONNX model."""

    def __init__(self, model: OnnxModel) -> None:
        self.model = model

    def fit(self, *_: Any) -> "OnnxEstimator":
        """Be fitted already."""
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def predict(self, rows: pd.DataFrame) -> npt.NDArray[Any]:
        """Return n predictions: classes as text, or numbers."""
        labels = self.model.predict(rows.to_numpy(dtype=np.float32))[0]
        return labels.astype(str if isinstance(self, ClassifierMixin) else np.float64)


class _Classifier(ClassifierMixin, OnnxEstimator):  # type: ignore[misc]
    def __init__(self, model: OnnxModel) -> None:
        super().__init__(model)
        self._order = np.argsort(model.description.classes)  # scikit-learn wants the classes sorted
        self.classes_ = np.array(model.description.classes)[self._order]

    def predict_proba(self, rows: pd.DataFrame) -> npt.NDArray[Any]:
        """Return probabilities of shape (n, classes), in the order of `classes_`."""
        shares = self.model.predict(rows.to_numpy(dtype=np.float32))[1]
        assert shares is not None  # noqa: S101 - a classifier has them
        exact = shares[:, self._order].astype(np.float64)
        return np.asarray(exact / exact.sum(axis=1, keepdims=True))


class _Regressor(RegressorMixin, OnnxEstimator):  # type: ignore[misc]
    pass


def as_estimator(model: OnnxModel) -> Pipeline:
    """Return a fitted pipeline that predicts with the model: a classifier's classes as text."""
    kind = _Classifier if model.description.answers == "classes" else _Regressor
    return Pipeline([("model", kind(model))])
