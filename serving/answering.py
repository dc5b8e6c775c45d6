"""From a model's output to the answer. Nothing here knows of HTTP or of a web framework."""

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from registry.onnx_model import OnnxModel, Rows
from serving.errors import PredictionFailedError
from serving.schemas import (
    ClassPrediction,
    ClassPredictions,
    ClassRow,
    NumberPrediction,
    NumberPredictions,
    NumberRow,
    Prediction,
    Predictions,
)

_log = logging.getLogger("greenroom.serving")

# From here on whole arrays are faster than one number after the other.
_MANY = 64


@dataclass(frozen=True, slots=True)
class Outputs:
    """What a model said to some rows, checked: a number each, or a class each and the share of every class.

    `shares` has one list for each row, in the order of `classes`; None for a regression.
    """

    predictions: list[Any]
    shares: list[list[float]] | None
    classes: tuple[str, ...]


def outputs(name: str, version: int, model: OnnxModel, rows: Rows) -> Outputs:
    """Ask a model and check that what it says can be an answer; raises `PredictionFailedError`."""
    try:
        labels, probabilities = model.predict(rows)
        if len(labels) != len(rows):
            raise ValueError(f"it answers {len(labels)} rows to {len(rows)}")
        if probabilities is None:
            return _numbers(labels)
        return _classes(model.description.classes, labels, probabilities)
    except Exception as error:  # onnxruntime's exceptions have no common base
        _log.exception("%s version %d failed on valid input", name, version)
        raise PredictionFailedError(
            f"The model {name!r} version {version} failed on this input; the predictor's log says "
            "more. Promote another version if it goes on."
        ) from error


def answer_one(found: Outputs, **about: str | int) -> Prediction:
    """Return the answer to one row; `about` are its id, model and version."""
    if found.shares is None:
        return NumberPrediction.model_validate({**about, "prediction": found.predictions[0]})
    shares = dict(zip(found.classes, found.shares[0], strict=True))
    return ClassPrediction.model_validate(
        {**about, "prediction": found.predictions[0], "probabilities": shares}
    )


def answer_all(found: Outputs, **about: str | int) -> Predictions:
    """Return the answers to one row or more, in their order; `about` are their id, model and version."""
    if found.shares is None:
        numbers = [NumberRow.model_construct(prediction=number) for number in found.predictions]
        return NumberPredictions.model_validate({**about, "predictions": numbers})
    rows = [
        ClassRow.model_construct(
            prediction=label, probabilities=dict(zip(found.classes, shares, strict=True))
        )
        for label, shares in zip(found.predictions, found.shares, strict=True)
    ]
    return ClassPredictions.model_validate({**about, "predictions": rows})


def _numbers(values: npt.NDArray[np.generic]) -> Outputs:
    numbers = plain(values)
    if not np.isfinite(numbers).all():
        raise ValueError("it is not a finite number")
    return Outputs(numbers.tolist(), None, ())


def _classes(
    classes: tuple[str, ...], values: npt.NDArray[np.generic], probabilities: npt.NDArray[np.float32]
) -> Outputs:
    labels = list(map(str, values.tolist()))
    shares = plain(probabilities)
    # Written so that NaN fails as well.
    if shares.shape != (len(labels), len(classes)) or not (np.abs(shares.sum(axis=1) - 1) < 1e-3).all():
        raise ValueError("its classes and probabilities do not fit")
    if not set(labels) <= set(classes):
        raise ValueError("it answers a class that it does not name")
    return Outputs(labels, shares.tolist(), classes)


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
