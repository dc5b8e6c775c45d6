"""From a model's output to the answer. Nothing here knows of HTTP or of a web framework."""

import logging

import numpy as np
import numpy.typing as npt

from registry.onnx_model import Rows
from serving.errors import PredictionFailedError, PredictorError
from serving.models import ServedModel
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


def answer_one(name: str, version: int, model: ServedModel, rows: Rows) -> Prediction:
    """Return the answer to one row; raises `PredictionFailedError`."""
    row = _predict(name, version, model, rows)[0]
    if isinstance(row, NumberRow):
        return NumberPrediction(model=name, version=version, prediction=row.prediction)
    return ClassPrediction(
        model=name, version=version, prediction=row.prediction, probabilities=row.probabilities
    )


def answer_all(name: str, version: int, model: ServedModel, rows: Rows) -> Predictions:
    """Return the answers to one row or more, in their order; raises `PredictionFailedError`."""
    answers = _predict(name, version, model, rows)
    kind = ClassPredictions if model.description.task == "classification" else NumberPredictions
    return kind.model_validate({"model": name, "version": version, "predictions": answers})


def _predict(name: str, version: int, model: ServedModel, rows: Rows) -> list[ClassRow] | list[NumberRow]:
    try:
        labels, probabilities = model.predict(rows)
        if len(labels) != len(rows):
            raise ValueError(f"it answers {len(labels)} rows to {len(rows)}")
        if probabilities is None:
            return _numbers(labels)
        return _classes(model.description.classes, labels, probabilities)
    except PredictorError:  # it says itself what is the matter
        raise
    except Exception as error:  # onnxruntime's exceptions have no common base
        _log.exception("%s version %d failed on valid input", name, version)
        raise PredictionFailedError(
            f"The model {name!r} version {version} failed on this input; the predictor's log says "
            "more. Promote another version if it goes on."
        ) from error


def _numbers(values: npt.NDArray[np.generic]) -> list[NumberRow]:
    numbers = plain(values)
    if not np.isfinite(numbers).all():
        raise ValueError("it is not a finite number")
    return [NumberRow(prediction=number) for number in numbers.tolist()]


def _classes(
    classes: tuple[str, ...], values: npt.NDArray[np.generic], probabilities: npt.NDArray[np.float32]
) -> list[ClassRow]:
    labels = list(map(str, values.tolist()))
    shares = plain(probabilities)
    # Written so that NaN fails as well.
    if shares.shape != (len(labels), len(classes)) or not (np.abs(shares.sum(axis=1) - 1) < 1e-3).all():
        raise ValueError("its classes and probabilities do not fit")
    if not set(labels) <= set(classes):
        raise ValueError("it answers a class that it does not name")
    return [
        ClassRow(prediction=label, probabilities=dict(zip(classes, row, strict=True)))
        for label, row in zip(labels, shares.tolist(), strict=True)
    ]


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
