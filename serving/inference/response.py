"""From a model's output to the answer. Nothing here knows of HTTP or of a web framework."""

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from registry.model_format.onnx_model import OnnxModel, Rows
from registry.model_format.similarity_index import SimilarityIndex
from serving.errors import PredictionFailedError, PredictorError
from serving.inference.served_model import ServedModel

_log = logging.getLogger("greenroom.serving")

# From here on whole arrays are faster than one number after the other.
_MANY = 64
# Up to so many rows Python's own sums are faster than NumPy's calls.
_FEW = 16
# From here on a list is worth two threads: 1,000 rows of a forest take 6 ms instead of 11.
_LONG = 256
_HALVES = ThreadPoolExecutor(1, thread_name_prefix="half") if (os.cpu_count() or 1) > 1 else None


@dataclass(frozen=True, slots=True)
class Outputs:
    """What a model said to n rows, checked: a finite number each, or a class and the share of every class.

    `labels` has shape (n,); `shares` is float32 of shape (n, classes) in the order of `classes`, or None
    for a regression. A clustering has numbers of clusters, whose names are `classes`, and no shares. A
    similarity has places in `items`, shape (n, neighbours), nearest first and -1 for none, and distances.
    """

    labels: npt.NDArray[Any]
    shares: npt.NDArray[np.float32] | None
    classes: tuple[str, ...]
    items: SimilarityIndex | None = None

    def part(self, first: int, last: int) -> "Outputs":
        """Return what was said to the rows from `first` up to but not including `last`."""
        shares = None if self.shares is None else self.shares[first:last]
        return Outputs(self.labels[first:last], shares, self.classes, self.items)


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one object, or to a list of them (`listed`), and who gave it."""

    id: str
    model: str
    version: int
    found: Outputs
    listed: bool

    @property
    def rows(self) -> int:
        """How many objects it answers."""
        return len(self.found.labels)

    def json(self) -> bytes:
        """Return it as serving/api/schemas.py declares it; float32 by the shortest decimals that mean it."""
        about: dict[str, Any] = {"id": self.id, "model": self.model, "version": self.version}
        if self.listed:
            about["predictions"] = list(map(self._row, range(self.rows)))
        else:
            about.update(self._row(0))
        return orjson.dumps(about, option=orjson.OPT_SERIALIZE_NUMPY)

    def _row(self, row: int) -> dict[str, Any]:
        label, shares, classes = self.found.labels[row], self.found.shares, self.found.classes
        if shares is None:
            return {"cluster": int(label), "label": classes[label]} if classes else {"prediction": label}
        if (items := self.found.items) is not None:
            return {
                "neighbours": [
                    _neighbour(items, *one)
                    for one in zip(label.tolist(), shares[row], strict=True)
                    if one[0] >= 0
                ]
            }
        return {
            "prediction": str(label),
            "probabilities": dict(zip(classes, shares[row], strict=True)),
        }


def _neighbour(items: SimilarityIndex, place: int, distance: np.float32) -> dict[str, Any]:
    shown = {column: texts[place] for column, texts in items.shown.items()}
    return {items.id_name: items.ids[place], **shown, "distance": distance}


def outputs(name: str, version: int, model: ServedModel, rows: Rows) -> Outputs:
    """Ask a model and check that what it says can be an answer; raises `PredictionFailedError`."""
    try:
        labels, probabilities = _asked(model, rows)
        if len(labels) != len(rows):
            raise ValueError(f"it answers {len(labels)} rows to {len(rows)}")
        said = model.description
        if said.items is not None:
            return _neighbours(said.items, labels, probabilities)
        if probabilities is not None:
            return _classes(said.classes, labels, probabilities)
        return _clusters(said.classes, labels) if said.task == "clustering" else _numbers(labels)
    except PredictorError:
        raise
    except Exception as error:  # onnxruntime's exceptions have no common base
        _log.exception("%s version %d failed on valid input", name, version)
        raise PredictionFailedError(
            f"The model {name!r} version {version} failed on this input; the predictor's log says "
            "more. Promote another version if it goes on."
        ) from error


def _asked(model: ServedModel, rows: Rows) -> tuple[npt.NDArray[Any], npt.NDArray[np.float32] | None]:
    if _HALVES is None or len(rows) < _LONG or not isinstance(model, OnnxModel):
        return model.predict(rows)
    middle = len(rows) // 2
    other = _HALVES.submit(model.predict, rows[middle:])
    parts = [model.predict(rows[:middle]), other.result()]
    labels = np.concatenate([part for part, _ in parts])
    shares = [part for _, part in parts if part is not None]
    return labels, np.concatenate(shares) if shares else None


def _numbers(values: npt.NDArray[Any]) -> Outputs:
    if not np.isfinite(values).all():
        raise ValueError("it is not a finite number")
    return Outputs(values, None, ())


def _clusters(names: tuple[str, ...], numbers: npt.NDArray[Any]) -> Outputs:
    if not ((numbers >= 0) & (numbers < len(names))).all():
        raise ValueError("it answers a cluster that it does not name")
    return Outputs(numbers, None, names)


def _neighbours(
    items: SimilarityIndex, places: npt.NDArray[Any], distances: npt.NDArray[np.float32] | None
) -> Outputs:
    if distances is None or places.ndim != 2 or places.shape != distances.shape:
        raise ValueError("its neighbours and distances do not fit")
    if not ((places >= 0) & (places < len(items.ids))).all() or not np.isfinite(distances).all():
        raise ValueError("it finds what it does not name")
    return Outputs(places, distances, (), items)


def _classes(classes: tuple[str, ...], labels: npt.NDArray[Any], shares: npt.NDArray[np.float32]) -> Outputs:
    if shares.shape != (len(labels), len(classes)) or not _sum_to_one(shares):
        raise ValueError("its classes and probabilities do not fit")
    if not {str(label) for label in labels.tolist()} <= set(classes):
        raise ValueError("it answers a class that it does not name")
    return Outputs(labels, shares, classes)


def _sum_to_one(shares: npt.NDArray[np.float32]) -> bool:
    # Written so that NaN fails as well.
    if len(shares) <= _FEW:
        return all(abs(sum(row) - 1) < 1e-3 for row in shares.tolist())
    return bool((np.abs(shares.sum(axis=1) - 1) < 1e-3).all())


def plain(values: npt.NDArray[np.generic]) -> npt.NDArray[np.float64]:
    """Return float32 as the shortest decimals that mean them: 0.8, not 0.800000011920929.

    Of many it tries 1 to 9 decimals with all of them at once. A number of at most 24 bits times a power of
    ten up to 10^9 fits 53 bits, so nothing is rounded but on purpose, and dividing gives the very number
    that its decimals would be read as. What is left (tiny, huge, not finite) goes through its text.
    """
    found = np.full(values.shape, np.nan)
    if values.size >= _MANY and values.dtype == np.float32:
        with np.errstate(invalid="ignore"):  # NaN is dealt with by whoever calls
            exact = values.astype(np.float64)
        open_ = np.abs(exact) < 2**23  # beyond, fewer digits than the whole number's may do
        for scale in 10.0 ** np.arange(1, 10):
            near = np.rint(np.where(open_, exact, 0) * scale) / scale
            hit = open_ & (near.astype(np.float32) == values)
            found[hit] = near[hit]
            open_ &= ~hit
    rest = np.isnan(found)
    found[rest] = [float(str(value)) for value in values[rest]]
    return found
