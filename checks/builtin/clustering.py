"""Is there something behind these clusters? Silhouette, sizes, and whether other rows give the same ones."""

from collections.abc import Callable, Mapping

import numpy as np
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, silhouette_samples
from threadpoolctl import threadpool_limits

from checks.builtin.context import Floats, Look, Measured
from registry.model_format.onnx_model import OnnxModel


def silhouettes(look: Look, of: OnnxModel | None = None) -> Floats:
    """Return the silhouette of each held-out row, -1..1, by the clusters of a model.

    (b - a) / max(a, b), with a the mean distance to its own cluster's rows and b that to the nearest other
    cluster's (Rousseeuw, Journal of Computational and Applied Mathematics 20, 1987). One cluster alone is -1.
    """
    rows = look.features("test")
    numbers, _ = look.answers(rows, of)
    if not 2 <= len(np.unique(numbers)) < len(rows):
        return np.full(len(rows), -1.0)
    found: Floats = silhouette_samples(look.space(rows), numbers)
    return found


def _silhouette(look: Look) -> Measured:
    value = float(silhouettes(look).mean())
    return Measured(value, f"the mean silhouette of held-out rows is {value:.3f}")


def _smallest(look: Look) -> Measured:
    numbers, _ = look.answers(look.features("test"))
    names = look.model.description.classes
    shares = np.bincount(numbers, minlength=len(names)) / len(numbers)
    least = int(shares.argmin())
    said = (
        f"the smallest of {len(names)} clusters, {names[least]!r}, has {shares[least]:.1%} of held-out rows"
    )
    return Measured(float(shares[least]), said)


def _stability(look: Look, *, refits: int = 20) -> Measured:
    """Compare with k-means on bootstrap samples of the training rows, which finds as many clusters.

    Adjusted Rand index (Hubert and Arabie, Journal of Classification 2, 1985): 1 is the same partition of the
    held-out rows, 0 what chance gives. Whatever the model is, k-means is the yardstick, so that the answer
    does not depend on how it was made.
    """
    train, rows = look.space(look.features("train")), look.features("test")
    numbers, _ = look.answers(rows)
    held_out = look.space(rows)
    random = np.random.default_rng(look.spec.split.seed)
    found = []
    # Threads of k-means wait by spinning: on busy processors two of them take many times as long as one.
    with threadpool_limits(1):
        for number in range(refits):
            drawn = train[random.integers(len(train), size=len(train))]
            again = KMeans(len(look.model.description.classes), n_init=3, random_state=number).fit(drawn)
            found.append(adjusted_rand_score(numbers, again.predict(held_out)))
    value = float(np.mean(found))
    return Measured(
        value,
        f"k-means on {refits} bootstrap samples finds the same clusters with an adjusted Rand index of "
        f"{value:.3f} (the least is {min(found):.3f})",
    )


MEASURES: Mapping[str, Callable[..., Measured]] = {
    "ClusterSilhouette": _silhouette,
    "ClusterSize": _smallest,
    "ClusterStability": _stability,
}
