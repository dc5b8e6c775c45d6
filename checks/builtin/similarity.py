"""Does the index find what is near? Held against an exact search that is written anew here, in float64."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from checks.builtin.context import Floats, Look, Measured
from registry.model_format.onnx_model import OnnxModel
from registry.model_format.similarity_index import Items

Places = npt.NDArray[np.int64]
# Among float32 distances, so little is no difference.
_EPSILON = 1e-4


def _items(look: Look) -> Items:
    items = look.model.description.items
    if items is None:
        raise ValueError("the model's file names nothing that it finds")
    return items


def _all_rows(look: Look) -> pd.DataFrame:
    """Return the rows that the index is to hold: those trained on, then those held out."""
    return pd.concat([look.train, look.test], ignore_index=True)


def _exact(look: Look, queries: Floats, rows: Floats) -> Floats:
    """Return the distance of every query to every row, shape (queries, rows), both in raw features."""
    asked, there = look.space(queries), look.space(rows)
    if cosine := _items(look).metric == "cosine":
        asked, there = (m / np.linalg.norm(m, axis=1, keepdims=True) for m in (asked, there))
    squares = (asked**2).sum(axis=1)[:, None] + (there**2).sum(axis=1) - 2 * asked @ there.T
    squares = np.maximum(squares, 0)
    distances: Floats = squares / 2 if cosine else np.sqrt(squares)
    return distances


def _whole(look: Look) -> Measured:
    """Share of rows that the file does not give back: by id, with their features, as their own neighbour."""
    items, rows = _items(look), _all_rows(look)
    ids = rows[items.id_name].astype(str)
    places = np.array([items.places.get(name, -1) for name in ids])
    good = places >= 0
    raw = rows[list(look.spec.features)].to_numpy(np.float32)
    good &= (items.rows[places] == raw).all(axis=1)
    for column in look.spec.shown:
        texts = np.array(items.shown.get(column, ("",) * len(items.ids)), dtype=object)
        good &= texts[places] == rows[column].astype(str).to_numpy(dtype=object)
    near, far = look.answers(raw.astype(np.float64))
    # Rows with equal features are as near as the row itself.
    good &= ((near == places[:, None]) & (far <= far[:, :1] + _EPSILON)).any(axis=1)
    strange = len(set(items.ids) - set(ids))
    bad = int((~good).sum()) + strange
    value = bad / max(len(rows), len(items.ids))
    return Measured(
        value,
        f"{bad:,} of {len(rows):,} rows are not in the index as they are: {int((places < 0).sum()):,} are "
        f"missing, {strange:,} are nobody's, the others have other features or do not find themselves",
    )


def _recall(look: Look, *, k: int = 10) -> Measured:
    """Share of the k nearest rows of each held-out row that the model finds, the row itself left out."""
    rows = look.features("test")
    everything = _all_rows(look)
    distances = _exact(look, rows, everything[list(look.spec.features)].to_numpy(np.float64))
    own = _own(look)
    distances[np.arange(len(rows)), own] = np.inf
    # A row as near as the k-th nearest is as good as that.
    limit = np.partition(distances, k - 1, axis=1)[:, k - 1 : k] + _EPSILON
    at = _at(look, everything[_items(look).id_name].astype(str))
    found = _first(at[look.answers(rows)[0]], own, k)
    hit = (found >= 0) & (np.take_along_axis(distances, np.maximum(found, 0), axis=1) <= limit)
    value = float(hit.mean())
    return Measured(value, f"the model finds {value:.2%} of the {k} nearest rows of an exact search")


def _jittered(look: Look, *, k: int = 10, noise: float = 0.01) -> Measured:
    """Overlap of the k nearest when each feature is moved by a normal draw of `noise` standard deviations."""
    rows, train = look.features("test"), look.features("train")
    random = np.random.default_rng(look.spec.split.seed)
    moved = rows + random.normal(0, noise, rows.shape) * train.std(axis=0)
    moved = np.clip(moved, train.min(axis=0), train.max(axis=0))
    at, own = _at(look, _all_rows(look)[_items(look).id_name].astype(str)), _own(look)
    before, after = (_first(at[look.answers(asked)[0]], own, k) for asked in (rows, moved))
    value = _overlap(before, after)
    return Measured(
        value, f"{value:.1%} of the {k} nearest stay when features move by {noise:.0%} of their spread"
    )


def _resampled(look: Look, *, k: int = 10, refits: int = 5) -> Measured:
    """Overlap with an exact search in spaces that bootstrap samples of the training rows span; the least."""
    rows = look.features("test")
    everything = _all_rows(look)
    raw = everything[list(look.spec.features)].to_numpy(np.float64)
    own = _own(look)
    at = _at(look, everything[_items(look).id_name].astype(str))
    found = _first(at[look.answers(rows)[0]], own, k)
    random = np.random.default_rng(look.spec.split.seed)
    overlaps = []
    for _ in range(refits):
        drawn = look.train.iloc[random.integers(len(look.train), size=len(look.train))]
        distances = _exact(replace(look, train=drawn), rows, raw)
        distances[np.arange(len(rows)), own] = np.inf
        overlaps.append(_overlap(found, np.argpartition(distances, k, axis=1)[:, :k]))
    value = float(min(overlaps))
    return Measured(
        value,
        f"{np.mean(overlaps):.1%} of the {k} nearest stay when other rows set the scales "
        f"({refits} bootstrap samples; the least is {value:.1%})",
    )


def agreements(look: Look, of: OnnxModel | None = None, *, k: int = 10) -> Floats:
    """Return, for each held-out row, the share of its k nearest training rows that have its label.

    Held-out rows in the index are passed over: they may be the row itself, or of the same artist.
    """
    model = of or look.model
    items = model.description.items
    if items is None:
        raise ValueError("the model's file names nothing that it finds")
    label = look.spec.related_by
    label_of = dict(zip(look.train[items.id_name].astype(str), look.train[label].astype(str), strict=True))
    labels = np.array([label_of.get(name, "") for name in items.ids], dtype=object)
    near = labels[look.answers(look.features("test"), of)[0]]
    counted = (near != "") & (np.cumsum(near != "", axis=1) <= k)
    same = (near == look.test[label].astype(str).to_numpy(dtype=object)[:, None]) & counted
    found: Floats = same.sum(axis=1) / k
    return found


def _agreement(look: Look, *, k: int = 10) -> Measured:
    value = float(agreements(look, k=k).mean())
    return Measured(
        value,
        f"{value:.1%} of the {k} nearest training rows have the {look.spec.related_by} of a held-out row",
    )


def _own(look: Look) -> Places:
    """Return which of all rows each held-out row is."""
    return np.arange(len(look.test), dtype=np.int64) + len(look.train)


def _at(look: Look, ids: "pd.Series[str]") -> Places:
    """Return the row of each place in the index; -1 where it is none."""
    row_of = {name: row for row, name in enumerate(ids)}
    return np.array([row_of.get(name, -1) for name in _items(look).ids], dtype=np.int64)


def _first(found: Places, own: Places, k: int) -> Places:
    """Return the first k of each row of `found` that are not the row itself; -1 where there are fewer."""
    others = found != own[:, None]
    place = np.cumsum(others, axis=1) - 1
    result = np.full((len(found), k), -1, dtype=np.int64)
    row, column = np.nonzero(others & (place < k))
    result[row, place[row, column]] = found[row, column]
    return result


def _overlap(one: Places, other: Places) -> float:
    pairs = zip(one.tolist(), other.tolist(), strict=True)
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in pairs]))


MEASURES: Mapping[str, Callable[..., Measured]] = {
    "IndexIntegrity": _whole,
    "NeighbourRecall": _recall,
    "NeighbourStability": _jittered,
    "NeighbourResampling": _resampled,
    "NeighbourAgreement": _agreement,
}
