"""Clusterings: how candidates are scored, and what each cluster is called. Plain functions."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure
from sklearn.metrics import (
    calinski_harabasz_score,
    davies_bouldin_score,
    silhouette_samples,
    silhouette_score,
)
from sklearn.pipeline import Pipeline

from catalog.spec import ModelSpec

Numbers = npt.NDArray[np.int64]
# How far a cluster's middle must be from everything's before a name says so, in standard deviations.
_MARKED = 0.5
# A name of more features is no name.
_MOST = 2


def score(pipeline: Pipeline, rows: pd.DataFrame) -> dict[str, float]:
    """Return how well a clustering parts rows, in the space of their encoded features.

    `silhouette` is -1..1, higher is better; `calinski_harabasz` higher, `davies_bouldin` lower.
    """
    space, numbers = pipeline[:-1].transform(rows), pipeline.predict(rows)
    clusters = len(np.unique(numbers))
    if not 2 <= clusters < len(rows):
        return {"silhouette": -1.0, "clusters": float(clusters)}
    return {
        "silhouette": float(silhouette_score(space, numbers)),
        "calinski_harabasz": float(calinski_harabasz_score(space, numbers)),
        "davies_bouldin": float(davies_bouldin_score(space, numbers)),
        "clusters": float(clusters),
    }


def scorer(pipeline: Pipeline, rows: pd.DataFrame, _: Any = None) -> float:
    """Return the silhouette of rows, as scikit-learn's cross-validation asks for a score."""
    return score(pipeline, rows)["silhouette"]


def silhouettes(pipeline: Pipeline, rows: pd.DataFrame) -> npt.NDArray[np.float64]:
    """Return the silhouette of each row, -1..1, the mean of which is the score."""
    numbers = pipeline.predict(rows)
    if not 2 <= len(np.unique(numbers)) < len(rows):
        return np.full(len(rows), -1.0)
    found: npt.NDArray[np.float64] = silhouette_samples(pipeline[:-1].transform(rows), numbers)
    return found


def shuffled(rows: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Return rows in which every feature was shuffled by itself, so that none has to do with another."""
    random = np.random.default_rng(seed)
    return rows.apply(lambda column: random.permutation(column.to_numpy()))


def count(pipeline: Pipeline) -> int:
    """Return how many clusters an estimator was asked for, in the words of scikit-learn's kinds."""
    model = pipeline[-1]
    return int(getattr(model, "n_clusters", 0) or getattr(model, "n_components", 0))


def profile(spec: ModelSpec, rows: pd.DataFrame, numbers: Numbers, clusters: int) -> pd.DataFrame:
    """Return how far each cluster's rows are from all rows, by feature, in standard deviations of ranks.

    Of ranks, because a skewed feature's mean is that of a few large values.
    """
    ranks = rows[list(spec.features)].rank(pct=True)
    spread = ranks.std(ddof=0).replace(0.0, 1.0)
    apart = [(ranks[numbers == number].mean() - ranks.mean()) / spread for number in range(clusters)]
    return pd.DataFrame(apart).fillna(0.0).reset_index(drop=True)


def names(spec: ModelSpec, apart: pd.DataFrame) -> tuple[str, ...]:
    """Return a name for each cluster: what marks it most, as `acoustic, quiet`. No two have the same.

    `apart` is what `profile` returns. A third feature is named only where two do not tell clusters apart.
    """
    found: list[str] = []
    for number, row in apart.iterrows():
        order = row.abs().sort_values(ascending=False, kind="stable").index
        marks = [name for name in order[:_MOST] if abs(row[name]) >= _MARKED] or [order[0]]
        words = [_word(spec, name, row[name]) for name in marks]
        for name in order[len(marks) :]:
            if ", ".join(words) not in found:
                break
            words.append(_word(spec, name, row[name]))
        called = ", ".join(words)
        found.append(called if called not in found else f"{called} ({number})")
    return tuple(found)


def named(spec: ModelSpec, pipeline: Pipeline, rows: pd.DataFrame) -> tuple[str, ...]:
    """Return the names of a fitted clustering's clusters, by the rows it was trained on."""
    return names(spec, profile(spec, rows, pipeline.predict(rows), count(pipeline)))


def _word(spec: ModelSpec, feature: str, value: float) -> str:
    low, high = spec.dataset.words.get(feature, (f"low {feature}", f"high {feature}"))
    return high if value > 0 else low


def picture(apart: pd.DataFrame, called: tuple[str, ...], shares: npt.NDArray[np.float64]) -> Figure:
    """Draw what marks each cluster, and its share of the held-out rows."""
    figure = Figure(figsize=(2.5 + 0.8 * apart.shape[1], 1.6 + 0.6 * len(called)), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(apart, cmap="RdBu_r", vmin=-2, vmax=2, aspect="auto")
    axes.set_xticks(range(apart.shape[1]), list(apart.columns), rotation=40, ha="right")
    labels = [f"{name} ({share:.0%})" for name, share in zip(called, shares, strict=True)]
    axes.set_yticks(range(len(called)), labels)
    axes.set(title="What marks each cluster, and its share of held-out rows")
    values = apart.to_numpy(dtype=np.float64)
    for row, column in np.ndindex(values.shape):
        axes.text(column, row, f"{values[row, column]:+.1f}", ha="center", va="center", fontsize=8)
    figure.colorbar(image, ax=axes, label="standard deviations from all rows")
    return figure
