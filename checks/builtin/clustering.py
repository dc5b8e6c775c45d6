"""Built-in checks of a clustering: silhouette, sizes, and whether other rows give the same clusters."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, silhouette_samples
from threadpoolctl import threadpool_limits

from checks.builtin.context import CheckContext, Floats, Measurement
from registry.model_format.onnx_model import OnnxModel


def silhouettes(context: CheckContext, model: OnnxModel | None = None) -> Floats:
    """Return the silhouette of each held-out row, -1..1, by the clusters of a model."""
    rows = context.features("test")
    return row_silhouettes(context.space(rows), context.answers(rows, model)[0])


def row_silhouettes(points: npt.NDArray[Any], clusters: npt.NDArray[Any]) -> Floats:
    """Return the silhouette of each row, -1..1, given its point in space and the number of its cluster.

    (b - a) / max(a, b), with a the mean distance to its own cluster's rows and b that to the nearest other
    cluster's (Rousseeuw, Journal of Computational and Applied Mathematics 20, 1987). One cluster alone is -1.
    """
    if not 2 <= len(np.unique(clusters)) < len(clusters):
        return np.full(len(clusters), -1.0)
    silhouette: Floats = silhouette_samples(points, clusters)
    return silhouette


def _silhouette(context: CheckContext) -> Measurement:
    value = float(silhouettes(context).mean())
    return Measurement(value, f"the mean silhouette of held-out rows is {value:.3f}")


def _smallest_share(context: CheckContext) -> Measurement:
    numbers, _ = context.answers(context.features("test"))
    names = context.model.description.classes
    shares = np.bincount(numbers, minlength=len(names)) / len(numbers)
    least = int(shares.argmin())
    return Measurement(
        float(shares[least]),
        f"the smallest of {len(names)} clusters, {names[least]!r}, has {shares[least]:.1%} of held-out rows",
    )


def _stability(context: CheckContext, *, refits: int = 20) -> Measurement:
    """Compare with k-means on bootstrap samples of the training rows, which finds as many clusters.

    Adjusted Rand index (Hubert and Arabie, Journal of Classification 2, 1985): 1 is the same partition of the
    held-out rows, 0 what chance gives. The yardstick is k-means for every model, so that the answer does not
    depend on how the model was made.
    """
    train, rows = context.space(context.features("train")), context.features("test")
    numbers, _ = context.answers(rows)
    held_out = context.space(rows)
    random = np.random.default_rng(context.spec.split.seed)
    indices = []
    # Threads of k-means wait by spinning: on busy processors two of them take many times as long as one.
    with threadpool_limits(1):
        for number in range(refits):
            drawn = train[random.integers(len(train), size=len(train))]
            again = KMeans(len(context.model.description.classes), n_init=3, random_state=number).fit(drawn)
            indices.append(adjusted_rand_score(numbers, again.predict(held_out)))
    value = float(np.mean(indices))
    return Measurement(
        value,
        f"k-means on {refits} bootstrap samples finds the same clusters with an adjusted Rand index of "
        f"{value:.3f} (the least is {min(indices):.3f})",
    )


MEASURES: Mapping[str, Callable[..., Measurement]] = {
    "ClusterSilhouette": _silhouette,
    "ClusterSize": _smallest_share,
    "ClusterStability": _stability,
}
