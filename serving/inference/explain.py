"""From a request's body to the explanation of one prediction. Nothing here knows of HTTP."""

import logging

import numpy as np

from catalog.tasks import task_spec
from registry.model_format.onnx_model import Rows
from serving.errors import (
    Detail,
    InvalidInputError,
    NotExplainableError,
    PredictionFailedError,
)
from serving.inference.explanation import ClassExplanation, Contribution, Explanation, NumberExplanation
from serving.inference.parsing import is_list, read_object, to_matrix
from serving.inference.predictor import Predictor, Served
from serving.inference.response import plain
from serving.inference.shapley import Floats, Shapley, shapley

_log = logging.getLogger("greenroom.serving")
# A walk costs a row per feature, and memory the square of that; no table of this project has so many.
_MOST_FEATURES = 512


def explain(predictor: Predictor, name: str, body: bytes | bytearray, max_rows: int) -> Explanation:
    """Return why the model `name` answers what it does to a JSON object with its features.

    The model answers at most about `max_rows` rows for it (serving/inference/shapley.py). Raises
    `UnknownModelNameError`, `ModelUnavailableError`, `NotExplainableError`, `UnreadableInputError`,
    `InvalidInputError` or `PredictionFailedError`; each says which field or what to do.
    """
    state, contract = predictor.serving(name)
    features = state.model.description.features
    background = _background(name, state)
    if is_list(body):
        problem = "An explanation is of one object, not of a list; send them one by one"
        raise InvalidInputError.of(name, [Detail("body", problem)])
    requests = read_object(name, contract.request, body)
    attributes = [contract.attributes[feature] for feature in features]
    row = to_matrix(name, requests, features, attributes=attributes, listed=False)
    try:
        return _explained(name, state, row, background, max_rows)
    except Exception as error:  # onnxruntime's exceptions have no common base
        _log.exception("%s version %d failed on an explanation", name, state.version)
        raise PredictionFailedError(
            f"The model {name!r} version {state.version} failed while this was explained; the predictor's "
            "log says more. Promote another version if it goes on."
        ) from error


def _background(name: str, served: Served) -> Rows:
    said = served.model.description
    if not task_spec(said.task).supervised:
        raise NotExplainableError(
            f"The model {name!r} does {said.task}, and what is explained is a number or a class. "
            + (
                "Its clusters' labels say what marks them."
                if said.task == "clustering"
                else "Its answers say how far each neighbour is."
            )
        )
    rows = said.background_rows()
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


def _explained(name: str, served: Served, row: Rows, background: Rows, max_rows: int) -> Explanation:
    model = served.model
    label, probabilities = model.predict(row)
    column = None if probabilities is None else model.description.classes.index(str(label[0]))

    def value(rows: Rows) -> Floats:
        numbers, shares = model.predict(rows)
        found = numbers if shares is None else shares[:, column]
        if found.shape != (len(rows),) or not np.isfinite(found.astype(np.float64)).all():
            raise ValueError("it does not answer a finite number for each row")
        return found.astype(np.float64)

    found = shapley(value, row[0], background, max_rows)
    common = {
        "model": name,
        "version": served.version,
        "method": found.method,
        "base_value": found.base_value,
        "contributions": _contributions(model.description.features, row, found),
        "background_rows": found.background_rows,
        "rows_evaluated": found.rows_evaluated,
    }
    explained = float(plain(np.array([found.prediction], dtype=np.float32))[0])
    if column is None:
        return NumberExplanation(prediction=explained, **common)
    return ClassExplanation(prediction=str(label[0]), probability=explained, **common)


def _contributions(features: tuple[str, ...], row: Rows, found: Shapley) -> tuple[Contribution, ...]:
    columns = zip(
        features,
        plain(row[0]).tolist(),
        found.contributions.tolist(),
        found.standard_errors.tolist(),
        strict=True,
    )
    all_of_them = [
        Contribution(feature=feature, value=value, contribution=share, standard_error=error)
        for feature, value, share, error in columns
    ]
    # sorted() keeps the model's order among equals.
    return tuple(sorted(all_of_them, key=lambda one: -abs(one.contribution)))
