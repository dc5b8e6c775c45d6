"""Predicts with the versions that are in Production. No HTTP here."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import accumulate
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import numpy as np

from catalog.spec import ModelSpec, Task
from registry.model_format.onnx_model import Rows
from serving.errors import Detail, InvalidInputError, ModelUnavailableError, UnknownModelNameError
from serving.ids import new_id
from serving.inference.contracts import declared
from serving.inference.response import PredictionResponse, outputs
from serving.inference.served_model import ServedModel
from serving.tasks.base import Contract, ModelOutputs, ParsedRows, parse_features
from serving.tasks.registry import TASKS


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


class ParsedRequest(NamedTuple):
    """Rows for the version that was served when they were read: float32 of shape (n, its features)."""

    name: str
    served: Served
    parsed: ParsedRows

    @property
    def rows(self) -> Rows:
        """The rows."""
        return self.parsed.rows


class PredictionRecord(NamedTuple):
    """The answers of one call of a model, for the log; `at` is its time, in nanoseconds since 1970.

    `ids` are of the answers and `counts` their numbers of rows; `rows` and `outputs` are those of all.
    """

    ids: Sequence[str]
    counts: Sequence[int]
    at: int
    model: str
    served: Served
    rows: Rows
    outputs: ModelOutputs


State = Served | Unavailable
# From a model's name, a body and the most rows that it may have, to the request.
Read = Callable[[str, bytes | bytearray, int], ParsedRequest]


class Predictor:
    """The models that are known and what is loaded for each.

    All that is loaded is one immutable mapping, replaced by a single assignment: a request reads it once
    and is answered whole by one version, even if another takes its place meanwhile.
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
        self.record: Callable[[PredictionRecord], None] = lambda _: None

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
        contracts = {name: self._contract(name, state) for name, state in sorted(self._states.items())}
        return {name: contract for name, contract in contracts.items() if contract}

    def swap(self, name: str, state: State | None) -> None:
        """Put `state` in the place of what is loaded for one model; None forgets the model.

        One thread at a time may swap.
        """
        others = {model: loaded for model, loaded in self._states.items() if model != name}
        self._states = MappingProxyType(others if state is None else {**self._states, name: state})

    def refuse(self, name: str, refused: RefusedLoad | None) -> None:
        """Remember which version in Production was not taken, or that there is none such any more."""
        if refused is None and name not in self.refused:
            return
        others = {model: refusal for model, refusal in self.refused.items() if model != name}
        self.refused = MappingProxyType({**others, name: refused} if refused else others)

    def object_bytes(self, name: str) -> int:
        """Return the bytes that one object for a model can need; 0 where that is not known."""
        state = self._states.get(name)
        contract = self._contract(name, state) if state else None
        return contract.object_bytes if contract else 0

    def read(self, name: str, body: bytes | bytearray, max_rows: int = 1000) -> ParsedRequest:
        """Return what a JSON object with the features of the model `name`, or a list of them, asks.

        A list has 1 to `max_rows` objects. The version that is served now will answer. Raises
        `UnknownModelNameError`, `UnreadableInputError`, `InvalidInputError`, `TooManyRowsError` or
        `ModelUnavailableError`; each says which field or what to do.
        """
        served, contract = self.serving(name)
        return ParsedRequest(name, served, parse_features(contract, served.model.description, body, max_rows))

    def read_question(self, name: str, body: bytes | bytearray, max_rows: int = 1000) -> ParsedRequest:
        """Return what a JSON object, or a list, asks at the path of the task of the model `name`.

        Raises what `read` does, and `UnknownItemError`.
        """
        served, contract = self.serving(name)
        description = served.model.description
        parsed = TASKS[description.task].parse_question(contract, description, body, max_rows)
        return ParsedRequest(name, served, parsed)

    def doing(self, task: Task, named: str | None = None) -> str:
        """Return the name of the model that does a task: the only one, or the one that is wanted.

        Raises `UnknownModelNameError`, or `InvalidInputError` where there are several and none is wanted.
        """
        names = [
            name
            for name, state in self._states.items()
            if (contract := self._contract(name, state)) and contract.task == task
        ]
        if named is None and len(names) == 1:
            return names[0]
        if named in names:
            return str(named)
        if named is not None:
            raise UnknownModelNameError.of(named, names)
        if not names:
            raise UnknownModelNameError(f"No model here does {task}; the catalogue declares none.")
        problem = f"Several models do {task}: {', '.join(sorted(names))}. Say which with ?model=NAME"
        raise InvalidInputError(f"{problem}.", [Detail("model", problem)])

    def answers(self, requests: Sequence[ParsedRequest]) -> list[PredictionResponse]:
        """Return the answers to requests for one version, by one call of it, and record them.

        Raises `PredictionFailedError`.
        """
        name, served, parsed = requests[0]
        rows = parsed.rows if len(requests) == 1 else np.concatenate([request.rows for request in requests])
        task = TASKS[served.model.description.task]
        queries: Sequence[Any] = ()
        if any(request.parsed.queries for request in requests):
            queries = [query for _, _, each in requests for query in each.queries or [None] * len(each.rows)]
        selected = task.select(outputs(name, served.version, served.model, rows), queries)
        ids = [new_id() for _ in requests]
        counts = [len(request.rows) for request in requests]
        self.record(PredictionRecord(ids, counts, time.time_ns(), name, served, rows, task.logged(selected)))
        ends = accumulate(counts)
        return [
            PredictionResponse(id_, name, served.version, selected, range(end - count, end), listed, task)
            for id_, count, end, (_, _, (_, listed, _)) in zip(ids, counts, ends, requests, strict=True)
        ]

    def predict(
        self, name: str, body: bytes | bytearray, max_rows: int = 1000, read: Read | None = None
    ) -> PredictionResponse:
        """Return the answer of the model `name` to a JSON object with its features, or to a list of them.

        A list is answered in its order and by one version, or refused whole. `read` is `read` or
        `read_question`. Raises what that does, and `PredictionFailedError`.
        """
        return self.answers([(read or self.read)(name, body, max_rows)])[0]

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
