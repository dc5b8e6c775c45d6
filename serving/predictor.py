"""Predicts with the versions that are in Production. Nothing here knows of HTTP or of a web framework."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Literal

from catalog.spec import ModelSpec
from registry.onnx_model import Rows
from serving.answering import Answer, Outputs, outputs
from serving.contracts import Contract, declared
from serving.errors import ModelUnavailableError, UnknownModelNameError
from serving.identity import new_id
from serving.models import ServedModel
from serving.reading import is_list, read_list, read_object, to_matrix

_log = logging.getLogger("greenroom.serving")


@dataclass(frozen=True)
class Served:
    """A version that is loaded and answers; `source` says where it was loaded from.

    `contract` is of a model that the catalogue does not declare: it comes and goes with the version.
    """

    version: int
    model: ServedModel
    loaded_at: datetime
    source: Literal["registry", "cache"] = "registry"
    contract: Contract | None = None


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


@dataclass(frozen=True, slots=True)
class Asked:
    """Rows for the version that was served when they were read: float32 of shape (n, its features)."""

    name: str
    served: Served
    rows: Rows
    listed: bool


@dataclass(frozen=True, slots=True)
class Made:
    """Predictions that were made: when (nanoseconds since 1970), by which version, of what, saying what."""

    id: str
    at: int
    model: str
    served: Served
    rows: Rows
    found: Outputs


State = Served | Unavailable


class Predictor:
    """The models that are known and what is loaded for each.

    All that is loaded is one immutable mapping, replaced by a single assignment: a request reads it once
    and is answered whole by one version, whatever is swapped meanwhile.
    """

    def __init__(self, specs: Mapping[str, ModelSpec]) -> None:
        self.specs = MappingProxyType(dict(specs))
        self.declared: Mapping[str, Contract] = MappingProxyType(
            {name: declared(spec) for name, spec in specs.items()}
        )
        self._states: Mapping[str, State] = MappingProxyType(
            {name: Unavailable(f"The model {name!r} is being loaded. Try again shortly.") for name in specs}
        )
        self.refused: Mapping[str, RefusedLoad] = MappingProxyType({})
        self.registry = RegistryState()
        # Told of every prediction, from whichever thread made it; it must not wait.
        self.record: Callable[[Made], None] = _forget

    @property
    def states(self) -> Mapping[str, State]:
        """What is loaded for each model now: a snapshot that never changes."""
        return self._states

    @property
    def versions(self) -> dict[str, int]:
        """The version that is served of each model of which one is."""
        return {name: state.version for name, state in self._states.items() if isinstance(state, Served)}

    @property
    def contracts(self) -> Mapping[str, Contract]:
        """What each model reads, of those of which that is known."""
        found = {name: self._contract(name, state) for name, state in sorted(self._states.items())}
        return {name: contract for name, contract in found.items() if contract}

    def swap(self, name: str, state: State | None) -> None:
        """Put `state` in the place of what is loaded for one model; None forgets the model.

        One thread at a time may swap.
        """
        others = {model: found for model, found in self._states.items() if model != name}
        self._states = MappingProxyType(others if state is None else {**self._states, name: state})

    def refuse(self, name: str, refused: RefusedLoad | None) -> None:
        """Remember which version in Production was not taken, or that there is none such any more."""
        if refused is None and name not in self.refused:
            return
        others = {model: found for model, found in self.refused.items() if model != name}
        self.refused = MappingProxyType({**others, name: refused} if refused else others)

    def object_bytes(self, name: str) -> int:
        """Return the bytes that one object for a model can need; 0 where that is not known."""
        state = self._states.get(name)
        contract = self._contract(name, state) if state else None
        return contract.object_bytes if contract else 0

    def read(self, name: str, body: bytes | bytearray, max_rows: int = 1000) -> Asked:
        """Return what a JSON object with the features of the model `name`, or a list of them, asks.

        A list has 1 to `max_rows` objects. The version that is served now will answer. Raises
        `UnknownModelNameError`, `UnreadableInputError`, `InvalidInputError`, `TooManyRowsError` or
        `ModelUnavailableError`; each says which field or what to do.
        """
        served, contract = self.serving(name)
        request, listed = contract.request, is_list(body)
        requests = read_list(name, request, body, max_rows) if listed else read_object(name, request, body)
        features = served.model.description.features
        attributes = [contract.attributes[feature] for feature in features]
        rows = to_matrix(name, requests, features, attributes=attributes, listed=listed)
        return Asked(name, served, rows, listed)

    def answer(self, asked: Asked, found: Outputs) -> Answer:
        """Return the answer to what was asked, and have it recorded."""
        name, served = asked.name, asked.served
        made = Answer(new_id(), name, served.version, found, asked.listed)
        self.record(Made(made.id, time.time_ns(), name, served, asked.rows, found))
        return made

    def predict(self, name: str, body: bytes | bytearray, max_rows: int = 1000) -> Answer:
        """Return the answer of the model `name` to a JSON object with its features, or to a list of them.

        A list is answered in its order and by one version, or refused whole. Raises what `read` does, and
        `PredictionFailedError`.
        """
        return self.answer_by_itself(self.read(name, body, max_rows))

    def answer_by_itself(self, asked: Asked) -> Answer:
        """Return the answer to what was asked; raises `PredictionFailedError`."""
        served = asked.served
        return self.answer(asked, outputs(asked.name, served.version, served.model, asked.rows))

    def serving(self, name: str) -> tuple[Served, Contract]:
        """Return the version of a model that answers now, and what it reads.

        Raises `UnknownModelNameError` or `ModelUnavailableError`.
        """
        states = self._states
        state = states.get(name)
        if state is None:
            raise UnknownModelNameError.of(name, states)
        if isinstance(state, Unavailable):
            raise ModelUnavailableError(state.reason)
        return state, state.contract or self.declared[name]

    def _contract(self, name: str, state: State) -> Contract | None:
        return (state.contract if isinstance(state, Served) else None) or self.declared.get(name)


def _forget(_: Made) -> None:
    """Keep no record of a prediction."""
