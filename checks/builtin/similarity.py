"""Built-in checks of a similarity: does its index find what is near?

The answers are compared with an exact search that is written anew here, in float64.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from checks.builtin.context import CheckContext, Floats, Measurement
from registry.model_format.onnx_model import OnnxModel
from registry.model_format.similarity_index import SimilarityIndex, nearest_others, pick

Places = npt.NDArray[np.int64]
# Among float32 distances, so little is no difference.
_EPSILON = 1e-4


def _index(model: OnnxModel) -> SimilarityIndex:
    items = model.description.items
    if items is None:
        raise ValueError("the model's file names nothing that it finds")
    return items


def _all_rows(context: CheckContext) -> pd.DataFrame:
    """Return the rows that the index is to hold: those trained on, then those held out."""
    return pd.concat([context.train, context.test], ignore_index=True)


def _exact(context: CheckContext, queries: Floats, rows: Floats) -> Floats:
    """Return the distance of every query to every row, shape (queries, rows), both in raw features."""
    a, b = context.space(queries), context.space(rows)
    if cosine := _index(context.model).metric == "cosine":
        a, b = (points / np.linalg.norm(points, axis=1, keepdims=True) for points in (a, b))
    squares = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * a @ b.T
    squares = np.maximum(squares, 0)
    distances: Floats = squares / 2 if cosine else np.sqrt(squares)
    return distances


def _integrity(context: CheckContext) -> Measurement:
    """Share of rows that are not in the index by id, with their features, as their own nearest neighbour."""
    items, rows = _index(context.model), _all_rows(context)
    ids = rows[items.id_name].astype(str)
    places = np.array([items.places.get(name, -1) for name in ids])
    good = places >= 0
    raw = rows[list(context.spec.features)].to_numpy(np.float32)
    good &= (items.rows[places] == raw).all(axis=1)
    for column in context.spec.shown:
        texts = np.array(items.shown.get(column, ("",) * len(items.ids)), dtype=object)
        good &= texts[places] == rows[column].astype(str).to_numpy(dtype=object)
    near, far = context.answers(raw.astype(np.float64))
    # Rows with equal features are as near as the row itself.
    good &= ((near == places[:, None]) & (far <= far[:, :1] + _EPSILON)).any(axis=1)
    strange = len(set(items.ids) - set(ids))
    bad = int((~good).sum()) + strange
    value = bad / max(len(rows), len(items.ids))
    return Measurement(
        value,
        f"{bad:,} of {len(rows):,} rows are not in the index as they are: {int((places < 0).sum()):,} are "
        f"missing, {strange:,} are nobody's, the others have other features or do not find themselves",
    )


def _recall(context: CheckContext, *, k: int = 10) -> Measurement:
    """Share of the k nearest rows of each held-out row that the model finds, the row itself left out."""
    distances = _distances_to_others(context)
    # A row as near as the k-th nearest is as good as that.
    limit = np.partition(distances, k - 1, axis=1)[:, k - 1 : k] + _EPSILON
    nearest = _nearest_rows(context, context.features("test"), k)
    hit = (nearest >= 0) & (np.take_along_axis(distances, np.maximum(nearest, 0), axis=1) <= limit)
    value = float(hit.mean())
    return Measurement(value, f"the model finds {value:.2%} of the {k} nearest rows of an exact search")


def _stability(context: CheckContext, *, k: int = 10, noise: float = 0.01) -> Measurement:
    """Overlap of the k nearest when each feature is moved by a normal draw of `noise` standard deviations."""
    rows, train = context.features("test"), context.features("train")
    random = np.random.default_rng(context.spec.split.seed)
    moved = rows + random.normal(0, noise, rows.shape) * train.std(axis=0)
    moved = np.clip(moved, train.min(axis=0), train.max(axis=0))
    value = _overlap(_nearest_rows(context, rows, k), _nearest_rows(context, moved, k))
    return Measurement(
        value, f"{value:.1%} of the {k} nearest stay when features move by {noise:.0%} of their spread"
    )


def _resampling(context: CheckContext, *, k: int = 10, refits: int = 5) -> Measurement:
    """Overlap with an exact search in spaces that bootstrap samples of the training rows span; the least."""
    nearest = _nearest_rows(context, context.features("test"), k)
    random = np.random.default_rng(context.spec.split.seed)
    overlaps = []
    for _ in range(refits):
        sample = context.train.iloc[random.integers(len(context.train), size=len(context.train))]
        distances = _distances_to_others(context, replace(context, train=sample))
        overlaps.append(_overlap(nearest, np.argpartition(distances, k, axis=1)[:, :k]))
    value = float(min(overlaps))
    return Measurement(
        value,
        f"{np.mean(overlaps):.1%} of the {k} nearest stay when other rows set the scales "
        f"({refits} bootstrap samples; the least is {value:.1%})",
    )


def agreements(context: CheckContext, model: OnnxModel | None = None, *, k: int = 10) -> Floats:
    """Return, for each held-out row, the share of its k nearest training rows that have its label.

    Held-out rows in the index are passed over: they may be the row itself, or of the same artist.
    """
    index, label = _index(model or context.model), context.spec.related_by
    ids, texts = (context.train[name].astype(str) for name in (index.id_name, label))
    label_of = dict(zip(ids, texts, strict=True))
    labels = np.array([label_of.get(name, "") for name in index.ids], dtype=object)
    near = labels[context.answers(context.features("test"), model)[0]]
    nearest = pick(near, nearest_others(near != "", k), "")
    same = (nearest == context.test[label].astype(str).to_numpy(dtype=object)[:, None]) & (nearest != "")
    agreement: Floats = same.sum(axis=1) / k
    return agreement


def _agreement(context: CheckContext, *, k: int = 10) -> Measurement:
    value = float(agreements(context, k=k).mean())
    return Measurement(
        value,
        f"{value:.1%} of the {k} nearest training rows have the {context.spec.related_by} of a held-out row",
    )


def _positions(context: CheckContext) -> Places:
    """Return the position of each held-out row among all rows."""
    return np.arange(len(context.test), dtype=np.int64) + len(context.train)


def _distances_to_others(context: CheckContext, space: CheckContext | None = None) -> Floats:
    """Return the distances of held-out rows to all rows, infinite to itself, in the space of a context."""
    raw = _all_rows(context)[list(context.spec.features)].to_numpy(np.float64)
    distances = _exact(space or context, context.features("test"), raw)
    distances[np.arange(len(distances)), _positions(context)] = np.inf
    return distances


def _nearest_rows(context: CheckContext, queries: Floats, k: int) -> Places:
    """Return the k nearest rows that the model finds for each held-out row, without itself; -1 for none.

    `queries` are the features that the model is asked with, a row for each held-out row.
    """
    index = _index(context.model)
    position_of = {name: i for i, name in enumerate(_all_rows(context)[index.id_name].astype(str))}
    # The row of each place in the index; -1 where it is none.
    rows = np.array([position_of.get(name, -1) for name in index.ids], dtype=np.int64)
    neighbours = rows[context.answers(queries)[0]]
    return pick(neighbours, nearest_others(neighbours != _positions(context)[:, None], k), -1)


def _overlap(first: Places, second: Places) -> float:
    pairs = zip(first.tolist(), second.tolist(), strict=True)
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in pairs]))


MEASURES: Mapping[str, Callable[..., Measurement]] = {
    "IndexIntegrity": _integrity,
    "NeighbourRecall": _recall,
    "NeighbourStability": _stability,
    "NeighbourResampling": _resampling,
    "NeighbourAgreement": _agreement,
}
