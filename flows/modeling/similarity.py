"""Similarities: how candidates are scored, and the search as a graph with its index. Plain functions."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import Pipeline

from catalog.spec import ModelSpec
from flows.errors import TrainingError
from registry.model_format.similarity_index import SimilarityIndex

_K = 10
_SAME = 1e-9


def require_search(spec: ModelSpec, name: str, made: Any) -> None:
    """Raise `TrainingError` for an estimator that is no search that can be served."""
    if not isinstance(made, NearestNeighbors) or made.metric not in ("euclidean", "cosine"):
        raise TrainingError(
            f"{spec.name}: the candidate {name} is {made!r}; a similarity is made of sklearn.neighbors."
            "NearestNeighbors with the metric euclidean or cosine."
        )


def fit(pipeline: Pipeline, rows: pd.DataFrame, target: "pd.Series[Any]") -> Pipeline:
    """Fit an encoder and a search over rows, which remembers what these are related by; return both."""
    pipeline.fit(rows)
    pipeline[-1].labels_ = target.to_numpy(dtype=object)
    return pipeline


def score(pipeline: Pipeline, rows: pd.DataFrame, target: "pd.Series[Any]") -> dict[str, float]:
    """Return what share of the nearest things are related to rows, and how far the nearest is (the median).

    `agreement_at_10` is 0..1: the mean over rows of the share of their ten nearest that have the same label.
    A row of the index, and what equals it, is no neighbour of itself.
    """
    shares, nearest = _by_row(pipeline, rows, target)
    return {"agreement_at_10": float(shares.mean()), "nearest_distance": float(np.median(nearest))}


def agreements(pipeline: Pipeline, rows: pd.DataFrame, target: "pd.Series[Any]") -> npt.NDArray[np.float64]:
    """Return, for each row, what share of its ten nearest have the same label, 0..1."""
    return _by_row(pipeline, rows, target)[0]


def chance(pipeline: Pipeline, target: "pd.Series[Any]") -> npt.NDArray[np.float64]:
    """Return, for each row, what share of things drawn at random has its label, 0..1."""
    shares = pd.Series(pipeline[-1].labels_).value_counts(normalize=True)
    return np.asarray(target.map(shares).fillna(0.0), dtype=np.float64)


def _by_row(
    pipeline: Pipeline, rows: pd.DataFrame, target: "pd.Series[Any]"
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    search = pipeline[-1]
    distances, places = search.kneighbors(pipeline[:-1].transform(rows), n_neighbors=2 * _K)
    # Nearest first: of those that are not the row itself, the first ten.
    others = distances > _SAME
    counted = others & (np.cumsum(others, axis=1) <= _K)
    same = (search.labels_[places] == target.to_numpy(dtype=object)[:, None]) & counted
    return same.sum(axis=1) / _K, np.where(counted, distances, np.inf).min(axis=1)


def complete(pipeline: Pipeline, rows: pd.DataFrame) -> Pipeline:
    """Return the same encoder with a search over `rows`: what is served finds held-out things, too."""
    search = NearestNeighbors(metric=pipeline[-1].metric).fit(pipeline[:-1].transform(rows))
    return Pipeline([*pipeline.steps[:-1], ("model", search)])


def items(spec: ModelSpec, pipeline: Pipeline, frame: pd.DataFrame) -> SimilarityIndex:
    """Return the things of an index in its order; `frame` has the columns of `spec`."""
    return SimilarityIndex.of(
        pipeline[-1].metric,
        str(spec.dataset.id),
        tuple(frame[spec.dataset.id].astype(str)),
        {column: tuple(frame[column].astype(str)) for column in spec.shown},
        frame[list(spec.features)].to_numpy(dtype=np.float32),
    )


def overlap(pipeline: Pipeline, rows: pd.DataFrame, places: npt.NDArray[Any]) -> float:
    """Return the share of the ten nearest by scikit-learn that are among the first ten of `places`."""
    expected = pipeline[-1].kneighbors(pipeline[:-1].transform(rows), n_neighbors=_K, return_distance=False)
    pairs = zip(expected.tolist(), places[:, :_K].tolist(), strict=True)
    return float(np.mean([len(set(one) & set(other)) / _K for one, other in pairs]))


def picture(spec: ModelSpec, pipeline: Pipeline, rows: pd.DataFrame, target: "pd.Series[Any]") -> Figure:
    """Draw the distances to the nearest things, and how often they share each label."""
    distances, places = pipeline[-1].kneighbors(pipeline[:-1].transform(rows), n_neighbors=_K)
    same = pd.Series((pipeline[-1].labels_[places] == target.to_numpy(dtype=object)[:, None]).mean(axis=1))
    by_label = same.groupby(target.to_numpy(dtype=object)).mean().sort_values()
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for column, title in ((0, "nearest"), (_K - 1, f"{_K}th nearest")):
        left.hist(distances[:, column], bins=40, alpha=0.6, label=title)
    left.set(xlabel=f"{pipeline[-1].metric} distance", ylabel="held-out rows", title="Nearest training rows")
    left.legend()
    right.barh(by_label.index.astype(str), by_label.to_numpy())
    right.set(xlabel=f"share of the {_K} nearest with the same {spec.related_by}", xlim=(0, 1))
    return figure
