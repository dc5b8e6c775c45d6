"""Pictures that a data scientist looks at first. Drawn without pyplot: it is not thread-safe."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure
from sklearn.inspection import permutation_importance
from sklearn.metrics import confusion_matrix
from sklearn.pipeline import Pipeline

from catalog.spec import ModelSpec

_IMPORTANCE_ROWS = 500


def confusion(actual: npt.NDArray[Any], predicted: npt.NDArray[Any], classes: list[str]) -> Figure:
    """Draw the confusion matrix of held-out rows: counts, coloured by the share of each true class."""
    counts = confusion_matrix(actual, predicted, labels=classes)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = Figure(figsize=(1.5 + 0.8 * len(classes), 1.2 + 0.7 * len(classes)), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(classes)), classes, rotation=40, ha="right")
    axes.set_yticks(range(len(classes)), classes)
    axes.set(xlabel="predicted", ylabel="true", title="Held-out rows")
    for row, column in np.ndindex(counts.shape):
        colour = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour)
    return figure


def residuals(actual: npt.NDArray[Any], predicted: npt.NDArray[Any], unit: str | None) -> Figure:
    """Draw predictions of held-out rows against the truth, and what is left over."""
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


def importance(
    spec: ModelSpec, pipeline: Pipeline, rows: pd.DataFrame, target: "pd.Series[Any]"
) -> tuple[dict[str, float], Figure]:
    """Return each raw feature's permutation importance, and a picture of it.

    The importance is how much the headline metric falls when the feature is shuffled among (at most 500)
    held-out rows, the mean of three shuffles (scikit-learn's permutation_importance). Correlated features
    share theirs.
    """
    sample = rows.sample(min(_IMPORTANCE_ROWS, len(rows)), random_state=spec.split.seed)
    found = permutation_importance(
        pipeline,
        sample,
        target.loc[sample.index],
        scoring=spec.metric,
        n_repeats=3,
        random_state=spec.split.seed,
    )
    means = dict(zip(spec.features, map(float, found.importances_mean), strict=True))
    ordered = sorted(means.items(), key=lambda item: item[1])
    figure = Figure(figsize=(7, 0.6 + 0.32 * len(ordered)), layout="constrained")
    axes = figure.add_subplot()
    axes.barh([name for name, _ in ordered], [value for _, value in ordered])
    axes.set(xlabel=f"loss of {spec.metric} when shuffled", title="Permutation importance, held-out rows")
    return means, figure
