"""Clustering: the number of a cluster for each row, and a name for each cluster."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure
from onnx import ModelProto
from sklearn.base import clone
from sklearn.metrics import calinski_harabasz_score, davies_bouldin_score, silhouette_score
from sklearn.pipeline import Pipeline

from catalog.spec import Candidate, ModelSpec
from checks.builtin.clustering import row_silhouettes
from checks.data.splits import Rows
from flows.errors import TrainingError
from flows.tasks import onnx_graph
from flows.tasks.base import MIN_LABEL_AGREEMENT, Agreement, FlowTask, SampleScore, mean_of
from registry.model_format.onnx_model import OnnxModel

Numbers = npt.NDArray[np.int64]
# How far a cluster's mean must be from that of all rows before a name says so, in standard deviations.
_MARKED = 0.5
# Most features in a name, unless two clusters had the same.
_MOST = 2
# Kaufman and Rousseeuw, Finding Groups in Data (1990): below it, no substantial structure has been found.
_WEAK_SILHOUETTE = 0.25


class Clustering(FlowTask):
    """Models that find groups of rows without a target."""

    name = "clustering"
    # The baseline answers shuffled rows, which no sample of the held-out rows is paired with.
    paired_baseline = False

    def require_estimator(self, candidate: Candidate, estimator: Any) -> None:
        if not hasattr(estimator, "predict"):
            raise TrainingError(
                f"{self.spec.name}: {candidate.estimator} of the candidate {candidate.name} cannot say to "
                "which cluster a new row belongs. Choose another estimator."
            )

    def fold_score(self, pipeline: Pipeline, rows: Rows) -> float:
        return self.metrics(pipeline, rows)["silhouette"]

    def metrics(self, pipeline: Pipeline, rows: Rows) -> dict[str, float]:
        """Return the scores of clusters in the space of encoded features, and how many clusters there are.

        `silhouette` is -1..1, higher is better; `calinski_harabasz` higher, `davies_bouldin` lower.
        """
        space, numbers = pipeline[:-1].transform(rows.features), pipeline.predict(rows.features)
        clusters = len(np.unique(numbers))
        if not 2 <= clusters < len(numbers):
            return {"silhouette": -1.0, "clusters": float(clusters)}
        return {
            "silhouette": float(silhouette_score(space, numbers)),
            "calinski_harabasz": float(calinski_harabasz_score(space, numbers)),
            "davies_bouldin": float(davies_bouldin_score(space, numbers)),
            "clusters": float(clusters),
        }

    def sample_score(self, pipeline: Pipeline, rows: Rows) -> SampleScore:
        space = pipeline[:-1].transform(rows.features)
        return mean_of(row_silhouettes(space, pipeline.predict(rows.features)))

    def baseline(self, pipeline: Pipeline, train: Rows, test: Rows) -> tuple[str, SampleScore]:
        seed = self.spec.split.seed
        naive = clone(pipeline).fit(shuffled(train.features, seed))
        rows = replace(test, features=shuffled(test.features, seed + 1))
        return "the same on shuffled features", self.sample_score(naive, rows)

    def finish_graph(
        self, graph: ModelProto, pipeline: Pipeline, train: pd.DataFrame | None, things: pd.DataFrame | None
    ) -> tuple[ModelProto, dict[str, Any]]:
        if train is None:
            return graph, {}
        names = cluster_names(self.spec, fitted_profile(self.spec, pipeline, train))
        return onnx_graph.keep_labels_only(graph), {"classes": names}

    @staticmethod
    def agreement(pipeline: Pipeline, model: OnnxModel, features: pd.DataFrame) -> Agreement:
        predicted, _ = model.predict(features.to_numpy(dtype=np.float32))
        share = float(np.mean(predicted.astype(str) == pipeline.predict(features).astype(str)))
        return Agreement(share, 0.0, share >= MIN_LABEL_AGREEMENT)

    def plots(self, pipeline: Pipeline, train: Rows, test: Rows) -> Iterator[tuple[str, Any]]:
        distances = fitted_profile(self.spec, pipeline, train.features)
        numbers = pipeline.predict(test.features)
        shares = np.bincount(numbers, minlength=len(distances)) / len(numbers)
        names = cluster_names(self.spec, distances)
        yield "pictures/clusters.png", profile_plot(distances, names, shares)
        yield "clusters.json", dict(zip(names, distances.to_dict("records"), strict=True))

    def limits(self, metrics: Mapping[str, float]) -> Iterator[str]:
        if metrics["silhouette"] < _WEAK_SILHOUETTE:
            yield (
                f"A silhouette of {metrics['silhouette']:.2f} is a weak structure: the clusters are a way of "
                "cutting what shades into each other."
            )


def shuffled(rows: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Return rows in which every feature was shuffled by itself, so that none depends on another."""
    random = np.random.default_rng(seed)
    return rows.apply(lambda column: random.permutation(column.to_numpy()))


def fitted_profile(spec: ModelSpec, pipeline: Pipeline, rows: pd.DataFrame) -> pd.DataFrame:
    """Return the profile of a fitted clustering's clusters by its training rows."""
    return profile(spec, rows, pipeline.predict(rows), cluster_count(pipeline))


def cluster_count(pipeline: Pipeline) -> int:
    """Return the number of clusters of a fitted estimator, by scikit-learn's names for it."""
    model = pipeline[-1]
    return int(getattr(model, "n_clusters", 0) or getattr(model, "n_components", 0))


def profile(spec: ModelSpec, rows: pd.DataFrame, numbers: Numbers, clusters: int) -> pd.DataFrame:
    """Return how far each cluster is from all rows, by feature, in standard deviations of ranks.

    `numbers` are the clusters of `rows`; the result has shape (clusters, features). Of ranks, because a
    skewed feature's mean depends on a few large values.
    """
    ranks = rows[list(spec.features)].rank(pct=True)
    spread = ranks.std(ddof=0).replace(0.0, 1.0)
    distances = [(ranks[numbers == number].mean() - ranks.mean()) / spread for number in range(clusters)]
    return pd.DataFrame(distances).fillna(0.0).reset_index(drop=True)


def cluster_names(spec: ModelSpec, distances: pd.DataFrame) -> tuple[str, ...]:
    """Return a name for each cluster by the features that mark it most, as `acoustic, quiet`; all differ.

    `distances` is a `profile`. A third feature is in a name only where two do not tell clusters apart.
    """
    names: list[str] = []
    for number, row in distances.iterrows():
        order = row.abs().sort_values(ascending=False, kind="stable").index
        marks = [name for name in order[:_MOST] if abs(row[name]) >= _MARKED] or [order[0]]
        words = [_word(spec, name, row[name]) for name in marks]
        for name in order[len(marks) :]:
            if ", ".join(words) not in names:
                break
            words.append(_word(spec, name, row[name]))
        cluster = ", ".join(words)
        names.append(cluster if cluster not in names else f"{cluster} ({number})")
    return tuple(names)


def _word(spec: ModelSpec, feature: str, value: float) -> str:
    low, high = spec.dataset.words.get(feature, (f"low {feature}", f"high {feature}"))
    return high if value > 0 else low


def profile_plot(distances: pd.DataFrame, names: tuple[str, ...], shares: npt.NDArray[np.float64]) -> Figure:
    """Draw what marks each cluster, and its share of the held-out rows."""
    figure = Figure(figsize=(2.5 + 0.8 * distances.shape[1], 1.6 + 0.6 * len(names)), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(distances, cmap="RdBu_r", vmin=-2, vmax=2, aspect="auto")
    axes.set_xticks(range(distances.shape[1]), list(distances.columns), rotation=40, ha="right")
    labels = [f"{name} ({share:.0%})" for name, share in zip(names, shares, strict=True)]
    axes.set_yticks(range(len(names)), labels)
    axes.set(title="What marks each cluster, and its share of held-out rows")
    values = distances.to_numpy(dtype=np.float64)
    for row, column in np.ndindex(values.shape):
        axes.text(column, row, f"{values[row, column]:+.1f}", ha="center", va="center", fontsize=8)
    figure.colorbar(image, ax=axes, label="standard deviations from all rows")
    return figure
