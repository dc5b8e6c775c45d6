"""Similarity: the nearest things of an index for each row, with their distances."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure
from onnx import ModelProto
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import Pipeline

from catalog.spec import Candidate, ModelSpec
from checks.data.splits import Rows
from flows.errors import TrainingError
from flows.tasks import onnx_graph
from flows.tasks.base import (
    MIN_LABEL_AGREEMENT,
    Agreement,
    FlowTask,
    SampleScore,
    Target,
    mean_of,
    required,
)
from registry.model_format.onnx_model import OnnxModel
from registry.model_format.similarity_index import SimilarityIndex

_K = 10
_SAME = 1e-9


class Similarity(FlowTask):
    """Models that find the things which are most like a row."""

    name = "similarity"

    def require_estimator(self, candidate: Candidate, estimator: Any) -> None:
        if not isinstance(estimator, NearestNeighbors) or estimator.metric not in ("euclidean", "cosine"):
            raise TrainingError(
                f"{self.spec.name}: the candidate {candidate.name} is {estimator!r}; a similarity is made of "
                "sklearn.neighbors.NearestNeighbors with the metric euclidean or cosine."
            )

    def fit(self, pipeline: Pipeline, features: pd.DataFrame, target: Target) -> Pipeline:
        """Fit an encoder and a search over rows, which keeps what these are related by."""
        pipeline.fit(features)
        pipeline[-1].labels_ = required(target).to_numpy(dtype=object)
        return pipeline

    def fold_score(self, pipeline: Pipeline, rows: Rows) -> float:
        return self.metrics(pipeline, rows)[self.spec.metric]

    def metrics(self, pipeline: Pipeline, rows: Rows) -> dict[str, float]:
        """Return how many of the nearest things are related, and the median distance of the nearest.

        `agreement_at_10` is 0..1: the mean over rows of the share of their ten nearest that have the same
        label. A row of the index, and what equals it, is no neighbour of itself.
        """
        shares, nearest = neighbour_scores(pipeline, rows)
        return {"agreement_at_10": float(shares.mean()), "nearest_distance": float(np.median(nearest))}

    def sample_score(self, pipeline: Pipeline, rows: Rows) -> SampleScore:
        return mean_of(neighbour_scores(pipeline, rows)[0])

    def baseline(self, pipeline: Pipeline, train: Rows, test: Rows) -> tuple[str, SampleScore]:
        # For each row, the share of things drawn at random that have its label.
        shares = pd.Series(pipeline[-1].labels_).value_counts(normalize=True)
        expected = np.asarray(required(test.target).map(shares).fillna(0.0), dtype=np.float64)
        return "neighbours drawn at random", mean_of(expected)

    def served(self, pipeline: Pipeline, train: Rows, test: Rows) -> tuple[Pipeline, pd.DataFrame | None]:
        # Scores are of an index without held-out rows; what is served finds those, too.
        things = pd.concat([train.frame, test.frame], ignore_index=True)
        return with_index(pipeline, things[list(self.spec.features)]), things

    def converted_part(self, pipeline: Pipeline) -> Pipeline:
        return pipeline[:-1]

    def finish_graph(
        self, graph: ModelProto, pipeline: Pipeline, train: pd.DataFrame | None, things: pd.DataFrame | None
    ) -> tuple[ModelProto, dict[str, Any]]:
        if things is None:
            return graph, {}
        vectors = pipeline[:-1].transform(things[list(self.spec.features)])
        graph = onnx_graph.add_neighbour_search(graph, pipeline[-1].metric, vectors)
        return graph, {"items": similarity_index(self.spec, pipeline, things)}

    @staticmethod
    def agreement(pipeline: Pipeline, model: OnnxModel, features: pd.DataFrame) -> Agreement:
        """Compare the ten nearest things of each row by scikit-learn with the model's first ten."""
        places, _ = model.predict(features.to_numpy(dtype=np.float32))
        encoded = pipeline[:-1].transform(features)
        expected = pipeline[-1].kneighbors(encoded, n_neighbors=_K, return_distance=False)
        pairs = zip(expected.tolist(), places[:, :_K].tolist(), strict=True)
        share = float(np.mean([len(set(exact) & set(served)) / _K for exact, served in pairs]))
        return Agreement(share, 0.0, share >= MIN_LABEL_AGREEMENT)

    def plots(self, pipeline: Pipeline, train: Rows, test: Rows) -> Iterator[tuple[str, Any]]:
        yield "pictures/neighbours.png", distance_plot(self.spec, pipeline, test)


def with_index(pipeline: Pipeline, rows: pd.DataFrame) -> Pipeline:
    """Return the same encoder with a search over `rows`."""
    search = NearestNeighbors(metric=pipeline[-1].metric).fit(pipeline[:-1].transform(rows))
    return Pipeline([*pipeline.steps[:-1], ("model", search)])


def similarity_index(spec: ModelSpec, pipeline: Pipeline, things: pd.DataFrame) -> SimilarityIndex:
    """Return the things of an index in its order; `things` has the columns of `spec`."""
    return SimilarityIndex.of(
        pipeline[-1].metric,
        str(spec.dataset.id),
        tuple(things[spec.dataset.id].astype(str)),
        {column: tuple(things[column].astype(str)) for column in spec.shown},
        things[list(spec.features)].to_numpy(dtype=np.float32),
    )


def neighbour_scores(
    pipeline: Pipeline, rows: Rows
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return, for each row, the share of its ten nearest that have its label, and the nearest's distance."""
    search = pipeline[-1]
    distances, places = search.kneighbors(pipeline[:-1].transform(rows.features), n_neighbors=2 * _K)
    # Nearest first: of those that are not the row itself, the first ten.
    others = distances > _SAME
    counted = others & (np.cumsum(others, axis=1) <= _K)
    labels = required(rows.target).to_numpy(dtype=object)
    same = (search.labels_[places] == labels[:, None]) & counted
    return same.sum(axis=1) / _K, np.where(counted, distances, np.inf).min(axis=1)


def distance_plot(spec: ModelSpec, pipeline: Pipeline, rows: Rows) -> Figure:
    """Draw the distances to the nearest things, and how often they share each label."""
    distances, places = pipeline[-1].kneighbors(pipeline[:-1].transform(rows.features), n_neighbors=_K)
    labels = required(rows.target).to_numpy(dtype=object)
    same = pd.Series((pipeline[-1].labels_[places] == labels[:, None]).mean(axis=1))
    by_label = same.groupby(labels).mean().sort_values()
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for column, title in ((0, "nearest"), (_K - 1, f"{_K}th nearest")):
        left.hist(distances[:, column], bins=40, alpha=0.6, label=title)
    left.set(xlabel=f"{pipeline[-1].metric} distance", ylabel="held-out rows", title="Nearest training rows")
    left.legend()
    right.barh(by_label.index.astype(str), by_label.to_numpy())
    right.set(xlabel=f"share of the {_K} nearest with the same {spec.related_by}", xlim=(0, 1))
    return figure
