"""Predicts with the versions that are in Production. Nothing here knows of HTTP or of a web framework."""

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType

import numpy as np
from pydantic import BaseModel, ValidationError

from catalog.contract import request_model, to_row
from catalog.spec import ModelSpec
from registry.errors import ModelFormatError, RegistryError
from registry.onnx_model import OnnxModel, Rows
from serving.errors import (
    Detail,
    InvalidInputError,
    ModelUnavailableError,
    PredictionFailedError,
    UnknownModelNameError,
    UnreadableInputError,
    describe,
)
from serving.schemas import ClassPrediction, NumberPrediction, Prediction

_log = logging.getLogger("greenroom.serving")


@dataclass(frozen=True)
class Served:
    """A version that is loaded and answers."""

    version: int
    model: OnnxModel
    loaded_at: datetime


@dataclass(frozen=True)
class Unavailable:
    """Why no version of a model answers, and what to do about it."""

    reason: str


State = Served | Unavailable
# Finds and loads the version to serve; any `RegistryError` says why there is none.
Loader = Callable[[ModelSpec], tuple[int, OnnxModel]]


class Predictor:
    """The catalogue's models and what is loaded for each.

    All that is loaded is one immutable mapping, replaced by a single assignment: a request reads it once
    and is answered whole by one version, whatever is swapped meanwhile.
    """

    def __init__(self, specs: Mapping[str, ModelSpec]) -> None:
        self.specs = MappingProxyType(dict(specs))
        self.requests: Mapping[str, type[BaseModel]] = MappingProxyType(
            {name: request_model(spec) for name, spec in specs.items()}
        )
        self._states: Mapping[str, State] = MappingProxyType(
            {name: Unavailable(f"The model {name!r} is being loaded. Try again shortly.") for name in specs}
        )

    @property
    def states(self) -> Mapping[str, State]:
        """What is loaded for each model now: a snapshot that never changes."""
        return self._states

    def swap(self, name: str, state: State) -> None:
        """Put `state` in the place of what is loaded for one model. One thread at a time may swap."""
        self._states = MappingProxyType({**self._states, name: state})

    def load(self, loader: Loader) -> None:
        """Load every model, each answering as soon as it is there; what cannot be loaded says why."""
        for name, spec in self.specs.items():
            try:
                number, model = loader(spec)
                check_fits(spec, model)
            except RegistryError as error:
                _log.warning("%s is not served: %s", name, error)
                self.swap(name, Unavailable(f"The model {name!r} is not served. {error}"))
            except Exception as error:  # noqa: BLE001 - one model must not take the others off the air
                _log.exception("%s is not served", name)
                reason = f"Loading it failed ({type(error).__name__}); the predictor's log says more."
                self.swap(name, Unavailable(f"The model {name!r} is not served. {reason}"))
            else:
                self.swap(name, Served(number, model, datetime.now(UTC)))
                _log.info("%s version %d is served, %s", name, number, model.digest)

    def predict(self, name: str, body: bytes | bytearray) -> Prediction:
        """Return the answer of the model `name` to one JSON object with its features.

        Raises `UnknownModelNameError`, `UnreadableInputError`, `InvalidInputError`,
        `ModelUnavailableError` or `PredictionFailedError`; each says which field or what to do.
        """
        if name not in self.specs:
            raise UnknownModelNameError.of(name, self.specs)
        state = self._states[name]
        if isinstance(state, Unavailable):
            raise ModelUnavailableError(state.reason)
        request = self._parse(name, body)
        return _answer(name, state, _rows(name, request, state.model.description.features))

    def _parse(self, name: str, body: bytes | bytearray) -> BaseModel:
        try:
            # Pydantic's own JSON parser: it bounds nesting, and its errors name the field.
            return self.requests[name].model_validate_json(body)
        except ValidationError as error:
            problems = error.errors(include_url=False, include_context=False, include_input=False)
            details = describe(problems)
            if problems[0]["type"] == "json_invalid":
                what = details[0].problem.removeprefix("Invalid JSON: ") if body else "it is empty"
                raise UnreadableInputError(
                    f"The body is not JSON: {what}. Send one JSON object with the model's features.",
                    [Detail("body", what)],
                ) from None
            raise InvalidInputError.of(name, details) from None


def check_fits(spec: ModelSpec, model: OnnxModel) -> None:
    """Raise `ModelFormatError` when a model does not fit its declaration.

    It must do the declared task and read nothing that the contract does not send.
    """
    found = model.description
    if found.task != spec.task:
        raise ModelFormatError(f"The version is a {found.task} model, the catalogue declares {spec.task}.")
    if strange := [feature for feature in found.features if feature not in spec.features]:
        raise ModelFormatError(
            f"The version reads features that the catalogue does not declare: {', '.join(strange)}. "
            "Declare them, or promote a version trained on the declared features."
        )


def _rows(name: str, request: BaseModel, features: tuple[str, ...]) -> Rows:
    """Return the request as float32 of shape (1, features); what float32 cannot hold is refused."""
    too_large = "Input should be a number that fits 32-bit floating point"
    try:
        values = to_row(request, features)
    except OverflowError:  # an integer beyond float64, where a contract sets no bound
        raise InvalidInputError.of(name, [Detail("body", too_large)]) from None
    with np.errstate(over="ignore"):
        rows = np.array([values], dtype=np.float32)
    if bad := [feature for feature, ok in zip(features, np.isfinite(rows[0]), strict=True) if not ok]:
        raise InvalidInputError.of(name, [Detail(feature, too_large) for feature in bad])
    return rows


def _answer(name: str, served: Served, rows: Rows) -> Prediction:
    try:
        labels, probabilities = served.model.predict(rows)
        if probabilities is None:
            prediction = _plain(labels[0])
            if not math.isfinite(prediction):
                raise ValueError("it is not a finite number")
            return NumberPrediction(model=name, version=served.version, prediction=prediction)
        classes = served.model.description.classes
        by_class = dict(zip(classes, map(_plain, probabilities[0]), strict=True))
        label = str(labels[0])
        if label not in by_class or not abs(sum(by_class.values()) - 1) < 1e-3:
            raise ValueError("its classes and probabilities do not fit")
    except Exception as error:  # onnxruntime's exceptions have no common base
        _log.exception("%s version %d failed on valid input", name, served.version)
        raise PredictionFailedError(
            f"The model {name!r} version {served.version} failed on this input; the predictor's log says "
            "more. Promote another version if it goes on."
        ) from error
    return ClassPrediction(model=name, version=served.version, prediction=label, probabilities=by_class)


def _plain(value: np.generic) -> float:
    """Return a float32 as the shortest number that means it: 0.8, not 0.800000011920929."""
    return float(str(value))
