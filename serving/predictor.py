"""Predicts with the versions that are in Production. Nothing here knows of HTTP or of a web framework."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Literal

from pydantic import BaseModel

from catalog.contract import request_model
from catalog.spec import ModelSpec
from serving.answering import answer_all, answer_one
from serving.errors import ModelUnavailableError, UnknownModelNameError
from serving.models import ServedModel
from serving.reading import is_list, read_list, read_object, to_matrix
from serving.schemas import Prediction, Predictions

_log = logging.getLogger("greenroom.serving")


@dataclass(frozen=True)
class Served:
    """A version that is loaded and answers; `source` says where it was loaded from."""

    version: int
    model: ServedModel
    loaded_at: datetime
    source: Literal["registry", "cache"] = "registry"


@dataclass(frozen=True)
class Unavailable:
    """Why no version of a model answers, and what to do about it."""

    reason: str


@dataclass(frozen=True)
class RefusedLoad:
    """A version in Production that was not taken: it could not be loaded, verified or warmed."""

    version: int
    reason: str
    at: datetime


@dataclass(frozen=True)
class RegistryState:
    """Whether the registry answered when it was asked last, and when that was."""

    problem: str | None = None
    checked_at: datetime | None = None


State = Served | Unavailable


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
        self.refused: Mapping[str, RefusedLoad] = MappingProxyType({})
        self.registry = RegistryState()

    @property
    def states(self) -> Mapping[str, State]:
        """What is loaded for each model now: a snapshot that never changes."""
        return self._states

    def swap(self, name: str, state: State) -> None:
        """Put `state` in the place of what is loaded for one model. One thread at a time may swap."""
        self._states = MappingProxyType({**self._states, name: state})

    def refuse(self, name: str, refused: RefusedLoad | None) -> None:
        """Remember which version in Production was not taken, or that there is none such any more."""
        others = {model: found for model, found in self.refused.items() if model != name}
        self.refused = MappingProxyType({**others, name: refused} if refused else others)

    def predict(
        self, name: str, body: bytes | bytearray, *, max_rows: int = 1000
    ) -> Prediction | Predictions:
        """Return the answer of the model `name` to a JSON object with its features, or to a list of them.

        A list of 1 to `max_rows` objects is answered in its order and by one version, or refused whole.
        Raises `UnknownModelNameError`, `UnreadableInputError`, `InvalidInputError`, `TooManyRowsError`,
        `ModelUnavailableError` or `PredictionFailedError`; each says which field or what to do.
        """
        if name not in self.specs:
            raise UnknownModelNameError.of(name, self.specs)
        state = self._states[name]
        if isinstance(state, Unavailable):
            raise ModelUnavailableError(state.reason)
        request, features = self.requests[name], state.model.description.features
        if is_list(body):
            rows = to_matrix(name, read_list(name, request, body, max_rows), features, listed=True)
            return answer_all(name, state.version, state.model, rows)
        rows = to_matrix(name, read_object(name, request, body), features, listed=False)
        return answer_one(name, state.version, state.model, rows)
