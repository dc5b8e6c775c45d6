"""From a model's output to the answer. Nothing here knows of HTTP or of a web framework."""

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import orjson

from registry.model_format.onnx_model import OnnxModel, Rows
from serving.errors import PredictionFailedError, PredictorError
from serving.inference.served_model import ServedModel
from serving.tasks.base import ModelOutputs, ServingTask
from serving.tasks.registry import TASKS

_log = logging.getLogger("greenroom.serving")

# From here on whole arrays are faster than one number after the other.
_MANY = 64
# From here on a list is worth two threads: 1,000 rows of a forest take 6 ms instead of 11.
_LONG = 256
_HALVES = ThreadPoolExecutor(1, thread_name_prefix="half") if (os.cpu_count() or 1) > 1 else None


class PredictionResponse(NamedTuple):
    """A version's answer to one object, or to a list of them (`listed`): some `places` of its outputs."""

    id: str
    model: str
    version: int
    outputs: ModelOutputs
    places: range
    listed: bool
    task: ServingTask

    @property
    def rows(self) -> int:
        """How many objects it answers."""
        return len(self.places)

    def json(self) -> bytes:
        """Return it as its task declares it; float32 by the shortest decimals that mean it."""
        about: dict[str, Any] = {"id": self.id, "model": self.model, "version": self.version}
        if self.listed:
            about["predictions"] = [self.task.row(self.outputs, place) for place in self.places]
        else:
            about.update(self.task.row(self.outputs, self.places[0]))
        return orjson.dumps(about, option=orjson.OPT_SERIALIZE_NUMPY)


def outputs(name: str, version: int, model: ServedModel, rows: Rows) -> ModelOutputs:
    """Return what a model answers, checked by its task; raises `PredictionFailedError`."""
    try:
        labels, shares = _predict(model, rows)
        if len(labels) != len(rows):
            raise ValueError(f"it answers {len(labels)} rows to {len(rows)}")
        return TASKS[model.description.task].check(labels, shares, model.description)
    except PredictorError:
        raise
    except Exception as error:  # onnxruntime's exceptions have no common base
        _log.exception("%s version %d failed on valid input", name, version)
        raise PredictionFailedError(
            f"The model {name!r} version {version} failed on this input; the predictor's log says "
            "more. Promote another version if it goes on."
        ) from error


def _predict(model: ServedModel, rows: Rows) -> tuple[npt.NDArray[Any], npt.NDArray[np.float32] | None]:
    if _HALVES is None or len(rows) < _LONG or not isinstance(model, OnnxModel):
        return model.predict(rows)
    middle = len(rows) // 2
    other = _HALVES.submit(model.predict, rows[middle:])
    parts = [model.predict(rows[:middle]), other.result()]
    labels = np.concatenate([part for part, _ in parts])
    shares = [part for _, part in parts if part is not None]
    return labels, np.concatenate(shares) if shares else None


def shortest_decimals(values: npt.NDArray[np.generic]) -> npt.NDArray[np.float64]:
    """Return float32 as the shortest decimals that mean them: 0.8, not 0.800000011920929.

    Of many it tries 1 to 9 decimals with all of them at once. A number of at most 24 bits times a power of
    ten up to 10^9 fits 53 bits, so nothing is rounded but on purpose, and dividing gives the very number
    that its decimals would be read as. What is left (tiny, huge, not finite) goes through its text.
    """
    decimals = np.full(values.shape, np.nan)
    if values.size >= _MANY and values.dtype == np.float32:
        with np.errstate(invalid="ignore"):  # callers deal with NaN
            exact = values.astype(np.float64)
        open_ = np.abs(exact) < 2**23  # beyond, fewer digits than the whole number's may do
        for scale in 10.0 ** np.arange(1, 10):
            near = np.rint(np.where(open_, exact, 0) * scale) / scale
            hit = open_ & (near.astype(np.float32) == values)
            decimals[hit] = near[hit]
            open_ &= ~hit
    rest = np.isnan(decimals)
    decimals[rest] = [float(str(value)) for value in values[rest]]
    return decimals
