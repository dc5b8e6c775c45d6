"""From a request's body to the explanation of one prediction. Nothing here knows of HTTP."""

import logging

import numpy as np
from pydantic import BaseModel

from registry.model_format.onnx_model import Rows
from serving.errors import (
    Detail,
    InvalidInputError,
    NotExplainableError,
    PredictionFailedError,
    PredictorError,
)
from serving.inference.predictor import Predictor, Served
from serving.inference.response import shortest_decimals
from serving.inference.shapley import Floats, Shapley, shapley
from serving.parsing import is_list, read_object
from serving.tasks.explanation import Contribution
from serving.tasks.registry import TASKS

_log = logging.getLogger("greenroom.serving")
# A walk costs a row per feature, and memory the square of that; no table of this project has so many.
_MOST_FEATURES = 512


def explain(predictor: Predictor, name: str, body: bytes | bytearray, max_rows: int) -> BaseModel:
    """Return why the model `name` answers what it does to a JSON object with its features.

    The model answers at most about `max_rows` rows for it (serving/inference/shapley.py). Raises
    `UnknownModelNameError`, `ModelUnavailableError`, `NotExplainableError`, `UnreadableInputError`,
    `InvalidInputError` or `PredictionFailedError`; each says which field or what to do.
    """
    state, contract = predictor.serving(name)
    background = _background(name, state)
    if is_list(body):
        problem = "An explanation is of one object, not of a list; send them one by one"
        raise InvalidInputError.of(name, [Detail("body", problem)])
    requests = read_object(name, contract.request, body)
    row = contract.matrix(state.model.description, requests, listed=False)
    try:
        return _explained(name, state, row, background, max_rows)
    except PredictorError:
        raise
    except Exception as error:  # onnxruntime's exceptions have no common base
        _log.exception("%s version %d failed on an explanation", name, state.version)
        raise PredictionFailedError(
            f"The model {name!r} version {state.version} failed while this was explained; the predictor's "
            "log says more. Promote another version if it goes on."
        ) from error


def _background(name: str, served: Served) -> Rows:
    description = served.model.description
    task = TASKS[description.task]
    if task.explanation is None:
        raise NotExplainableError(
            f"The model {name!r} does {task.name}, and what is explained is a number or a class. "
            f"{task.unexplained}"
        )
    rows = description.background_rows()
    if not len(rows):
        raise NotExplainableError(
            f"The model {name!r} version {served.version} predicts but cannot be explained: its file holds "
            f"no background rows. `greenroom train {name}` makes a version that does, unless its declaration "
            "says `background=0`."
        )
    if rows.shape[1] > _MOST_FEATURES:
        raise NotExplainableError(
            f"The model {name!r} version {served.version} reads {rows.shape[1]} features; models of up to "
            f"{_MOST_FEATURES} are explained."
        )
    return rows


def _explained(name: str, served: Served, row: Rows, background: Rows, max_rows: int) -> BaseModel:
    model = served.model
    label, probabilities = model.predict(row)
    column = None if probabilities is None else model.description.classes.index(str(label[0]))

    def value(rows: Rows) -> Floats:
        numbers, shares = model.predict(rows)
        values = (numbers if shares is None else shares[:, column]).astype(np.float64)
        if values.shape != (len(rows),) or not np.isfinite(values).all():
            raise ValueError("it does not answer a finite number for each row")
        return values

    shares = shapley(value, row[0], background, max_rows)
    common = {
        "model": name,
        "version": served.version,
        "method": shares.method,
        "base_value": shares.base_value,
        "contributions": _contributions(model.description.features, row, shares),
        "background_rows": shares.background_rows,
        "rows_evaluated": shares.rows_evaluated,
    }
    explained = float(shortest_decimals(np.array([shares.prediction], dtype=np.float32))[0])
    return TASKS[model.description.task].explain(label[0], explained, common)


def _contributions(features: tuple[str, ...], row: Rows, shares: Shapley) -> tuple[Contribution, ...]:
    columns = zip(
        features,
        shortest_decimals(row[0]).tolist(),
        shares.contributions.tolist(),
        shares.standard_errors.tolist(),
        strict=True,
    )
    contributions = [
        Contribution(feature=feature, value=value, contribution=share, standard_error=error)
        for feature, value, share, error in columns
    ]
    # sorted() keeps the model's order among equals.
    return tuple(sorted(contributions, key=lambda contribution: -abs(contribution.contribution)))
