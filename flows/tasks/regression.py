"""Regression: a number for each row."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure
from sklearn.dummy import DummyRegressor
from sklearn.ensemble import RandomForestRegressor
from sklearn.pipeline import Pipeline

from checks.data.splits import Rows
from checks.precomputed import PrecomputedEstimator, PrecomputedRegressor
from flows.tasks.base import MAX_RELATIVE_DIFFERENCE, Agreement, SupervisedTask, required
from registry.model_format.onnx_model import OnnxModel


class Regression(SupervisedTask):
    """Models that predict a number."""

    name = "regression"
    scorers = ("r2", "neg_mean_absolute_error", "neg_root_mean_squared_error")
    forest = RandomForestRegressor
    baseline_name = "always the mean"
    dummy = DummyRegressor(strategy="mean")

    def precomputed(self, pipeline: Pipeline, rows: Rows) -> tuple[PrecomputedEstimator, npt.NDArray[Any]]:
        return PrecomputedRegressor(pipeline.predict(rows.features)), required(rows.target).to_numpy()

    @staticmethod
    def agreement(pipeline: Pipeline, model: OnnxModel, features: pd.DataFrame) -> Agreement:
        expected = pipeline.predict(features)
        predicted, _ = model.predict(features.to_numpy(dtype=np.float32))
        differences = np.abs(predicted.astype(float) - expected)
        # The mean, against the predictions' own spread: single rows may cross a threshold.
        spread = float(np.std(expected)) or 1.0
        sufficient = float(differences.mean()) / spread <= MAX_RELATIVE_DIFFERENCE
        return Agreement(None, float(differences.max()), sufficient)

    def plots(self, pipeline: Pipeline, train: Rows, test: Rows) -> Iterator[tuple[str, Any]]:
        actual = required(test.target).to_numpy()
        yield "pictures/residuals.png", residuals(actual, pipeline.predict(test.features), self.spec.unit)

    def limits(self, metrics: Mapping[str, float]) -> Iterator[str]:
        yield (
            f"It explains {max(metrics['r2'], 0):.0%} of the spread of {self.spec.target}; an answer is off "
            f"by {metrics['root_mean_squared_error']:.3g} (root mean square) and comes without an interval "
            "of its own."
        )


def residuals(actual: npt.NDArray[Any], predicted: npt.NDArray[Any], unit: str | None) -> Figure:
    """Draw predictions of held-out rows against the true values, and the histogram of the residuals."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.scatter(actual, predicted, s=6, alpha=0.4)
    low, high = float(min(actual.min(), predicted.min())), float(max(actual.max(), predicted.max()))
    left.plot([low, high], [low, high], color="black", linewidth=1)
    suffix = f" ({unit})" if unit else ""
    left.set(xlabel=f"true{suffix}", ylabel=f"predicted{suffix}", title="Held-out rows")
    right.hist(predicted - actual, bins=40)
    right.set(xlabel=f"predicted - true{suffix}", ylabel="rows", title="Residuals")
    return figure
