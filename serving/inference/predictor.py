"""Predicts with the versions that are in Production. Nothing here knows of HTTP or of a web framework."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
from pydantic import RootModel

from catalog.spec import ModelSpec, Task
from registry.model_format.onnx_model import Rows
from registry.model_format.similarity_index import SimilarityIndex
from serving.errors import (
    Detail,
    InvalidInputError,
    ModelUnavailableError,
    UnknownItemError,
    UnknownModelNameError,
)
from serving.ids import new_id
from serving.inference.contracts import Contract, declared
from serving.inference.parsing import is_list, read_list, read_object, to_matrix
from serving.inference.response import Answer, Outputs, outputs
from serving.inference.served_model import ServedModel
from serving.inference.similarity_result import Wish, chosen, logged

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
    # Of a similarity, one for each row; none means as many neighbours as usual.
    wishes: tuple[Wish, ...] = ()


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
# From a model's name, a body and the most rows that it may have, to what is asked.
Read = Callable[[str, bytes | bytearray, int], Asked]


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

    def read_question(self, name: str, body: bytes | bytearray, max_rows: int = 1000) -> Asked:
        """Return what a JSON object asks of the similarity `name`, by id or by features; or a list of them.

        Raises what `read` does, and `UnknownItemError`.
        """
        served, contract = self.serving(name)
        items, ways = served.model.description.items, contract.asking
        if items is None or ways is None:
            raise UnknownModelNameError(f"The model {name!r} finds no neighbours; it does {contract.task}.")
        listed = is_list(body)
        found = (
            read_list(name, ways.request, body, max_rows, ways.most_fields)
            if listed
            else read_object(name, ways.request, body)
        )
        questions = [question.root for question in cast("list[RootModel[Any]]", found)]
        features = served.model.description.features
        rows = np.empty((len(questions), len(features)), dtype=np.float32)
        places = _places(name, items, [(isinstance(q, ways.by_id), q) for q in questions], listed=listed)
        by_features = [number for number, place in enumerate(places) if place < 0]
        rows[places >= 0] = items.rows[places[places >= 0]]
        if by_features:
            asked = [questions[number] for number in by_features]
            attributes = [contract.attributes[feature] for feature in features]
            rows[by_features] = to_matrix(
                name, asked, features, attributes=attributes, listed=listed, numbers=by_features
            )
        wishes = tuple(Wish(q.k, int(place)) for q, place in zip(questions, places, strict=True))
        return Asked(name, served, rows, listed, wishes)

    def doing(self, task: Task, wanted: str | None = None) -> str:
        """Return the name of the model that does a task: the only one, or the one that is wanted.

        Raises `UnknownModelNameError`, or `InvalidInputError` where there are several and none is wanted.
        """
        names = [
            name
            for name, state in self._states.items()
            if (contract := self._contract(name, state)) and contract.task == task
        ]
        if wanted is None and len(names) == 1:
            return names[0]
        if wanted in names:
            return str(wanted)
        if wanted is not None:
            raise UnknownModelNameError.of(wanted, names)
        if not names:
            raise UnknownModelNameError(f"No model here does {task}; the catalogue declares none.")
        problem = f"Several models do {task}: {', '.join(sorted(names))}. Say which with ?model=NAME"
        raise InvalidInputError(f"{problem}.", [Detail("model", problem)])

    def answer(self, asked: Asked, found: Outputs) -> Answer:
        """Return the answer to what was asked, and have it recorded."""
        name, served = asked.name, asked.served
        kept = found
        if found.items is not None:
            found = chosen(found, asked.wishes or (Wish(),) * len(asked.rows))
            kept = logged(found)
        made = Answer(new_id(), name, served.version, found, asked.listed)
        self.record(Made(made.id, time.time_ns(), name, served, asked.rows, kept))
        return made

    def predict(
        self, name: str, body: bytes | bytearray, max_rows: int = 1000, read: Read | None = None
    ) -> Answer:
        """Return the answer of the model `name` to a JSON object with its features, or to a list of them.

        A list is answered in its order and by one version, or refused whole. `read` is `read` or
        `read_question`. Raises what that does, and `PredictionFailedError`.
        """
        return self.answer_by_itself((read or self.read)(name, body, max_rows))

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


def _places(
    name: str, items: SimilarityIndex, questions: Sequence[tuple[bool, Any]], *, listed: bool
) -> npt.NDArray[np.int64]:
    """Return the place in the index of what is asked for by its id, and -1 for what has features."""
    asked = [str(getattr(q, items.id_name)) if by_id else None for by_id, q in questions]
    strange = [
        (f"{number}.{items.id_name}" if listed else items.id_name, one)
        for number, one in enumerate(asked)
        if one is not None and one not in items.places
    ]
    if strange:
        raise UnknownItemError.of(name, items.id_name, strange)
    return np.array([-1 if one is None else items.places[one] for one in asked], dtype=np.int64)


def _forget(_: Made) -> None:
    """Keep no record of a prediction."""
