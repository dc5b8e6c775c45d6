"""The protocol of a task: what its models read, what they answer, how both are described. No HTTP here."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from operator import itemgetter
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from catalog.spec import ModelSpec, Task
from registry.model_format.onnx_model import Description, Rows
from registry.model_format.similarity_index import SimilarityIndex
from serving.parsing import is_list, object_bytes, read_list, read_object, to_matrix

# A column of the prediction log: texts, or numbers.
Column = list[str] | npt.NDArray[np.number[Any]]


class ModelOutputs(NamedTuple):
    """What a model answers to n rows, checked by its task.

    `labels` has shape (n,). A similarity's has shape (n, neighbours): places in `items`, nearest first, -1
    for none. `shares` is float32: probabilities of shape (n, classes), or a similarity's distances, or None.
    """

    labels: npt.NDArray[Any]
    shares: npt.NDArray[np.float32] | None
    classes: tuple[str, ...] = ()
    items: SimilarityIndex | None = None


@dataclass(frozen=True)
class Question:
    """The form of a request at a task's own path, where it is more than features, and its examples."""

    request: type[BaseModel]
    examples: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Contract:
    """A model's input and meaning.

    `request` validates one object of features. `attributes` names, for each feature, the attribute of a
    validated request that holds it: a feature may be called what no attribute can be.
    """

    name: str
    description: str
    task: Task
    target: str | None
    unit: str | None
    request: type[BaseModel]
    attributes: Mapping[str, str]
    # Of a similarity: what ids are called, and which texts an answer shows beside each.
    id_name: str | None = None
    id_example: str | None = None
    shown: tuple[str, ...] = ()
    # The form of a request at the task's own path; None if it is the features.
    question: Question | None = None

    @property
    def features(self) -> tuple[str, ...]:
        """The names of the features that a request holds."""
        return tuple(self.attributes)

    @cached_property
    def object_bytes(self) -> int:
        """The bytes that one object of such features can need, each number at its longest and indented."""
        return object_bytes(self.attributes)

    @property
    def example(self) -> dict[str, Any] | None:
        """An object that meets the contract, if the contract brings one."""
        example: dict[str, Any] | None = (self.request.model_json_schema().get("examples") or [None])[0]
        return example

    def matrix(
        self,
        description: Description,
        requests: Sequence[BaseModel],
        *,
        listed: bool,
        numbers: Sequence[int] = (),
    ) -> Rows:
        """Return validated requests as rows in the order that the model reads; see `parsing.to_matrix`."""
        features = description.features
        values_of = self._values_of(features)
        return to_matrix(self.name, requests, features, values_of=values_of, listed=listed, numbers=numbers)

    @cached_property
    def _values_of(self) -> Callable[[tuple[str, ...]], "itemgetter[Any]"]:
        """For features, the function that takes their values from the attributes of a request."""
        return lru_cache(8)(lambda features: itemgetter(*map(self.attributes.__getitem__, features)))


class ParsedRows(NamedTuple):
    """A request's body as rows, float32 of shape (n, features); `listed` if it was a list.

    `queries` are what a task wants to know beside each row, if it does.
    """

    rows: Rows
    listed: bool
    queries: tuple[Any, ...] = ()


class ServingTask(ABC):
    """One task. An object of it has no state; serving/tasks/registry.py has one of each."""

    name: ClassVar[Task]
    # The path that asks the one model of this task, and its words on the docs page, in which `description`
    # and `id_name` are filled in. Without a path its models are asked by POST /api/predict/MODEL alone.
    path: ClassVar[str | None] = None
    summary: ClassVar[str] = ""
    words: ClassVar[str] = ""
    # What the contract of a model that no catalogue declares calls its target.
    derived_target: ClassVar[str | None] = None
    # Whether MLflow's pyfunc may serve a version of it that has no ONNX file.
    pyfunc: ClassVar[bool] = False
    # The form of an explanation and what it explains, or why there is none.
    explanation: ClassVar[type[BaseModel] | None] = None
    explains: ClassVar[str] = ""
    unexplained: ClassVar[str] = ""

    def declared_fields(self, spec: ModelSpec) -> dict[str, Any]:  # noqa: ARG002 - most tasks have none
        """Return what this task adds to the contract of a declared model."""
        return {}

    def derived_fields(self, description: Description) -> dict[str, Any]:  # noqa: ARG002
        """Return what this task adds to the contract of a model that only its file describes."""
        return {}

    def require_fit(self, contract: Contract, description: Description) -> None:  # noqa: B027 - most need none
        """Raise `ModelFormatError` unless a file does what this task's declaration says."""

    def question(self, contract: Contract) -> Question | None:  # noqa: ARG002
        """Return the form of a request at `path`; None if it is the model's features."""
        return None

    def parse_question(
        self, contract: Contract, description: Description, body: bytes | bytearray, max_rows: int
    ) -> ParsedRows:
        """Return a request at `path` as rows; raises what `parse_features` raises."""
        return parse_features(contract, description, body, max_rows)

    @abstractmethod
    def check(
        self,
        labels: npt.NDArray[Any],
        shares: npt.NDArray[np.float32] | None,
        description: Description,
    ) -> ModelOutputs:
        """Return what `OnnxModel.predict` returned, if it can be an answer; else raise `ValueError`."""

    def select(self, outputs: ModelOutputs, queries: Sequence[Any]) -> ModelOutputs:  # noqa: ARG002
        """Return the part of the outputs that was asked for.

        `queries` has one for each row, None where a request had none; it is empty where no request had one.
        """
        return outputs

    def logged(self, outputs: ModelOutputs) -> ModelOutputs:
        """Return the part of the outputs that the prediction log keeps."""
        return outputs

    @abstractmethod
    def row(self, outputs: ModelOutputs, place: int) -> dict[str, Any]:
        """Return one row's answer, ready for orjson."""

    @abstractmethod
    def columns(self, outputs: Sequence[ModelOutputs]) -> dict[str, Column]:
        """Return the answers of one model's versions as columns of the prediction log."""

    @abstractmethod
    def response_models(self, contract: Contract) -> Any:
        """Return the Pydantic models of an answer, to one object or to a list, for the OpenAPI page."""

    def success(self, contract: Contract) -> str:  # noqa: ARG002
        """Return the words of a good answer at POST /api/predict/MODEL, for the OpenAPI page."""
        return f"The same as POST {self.path} answers to features."

    def explain(self, label: object, explained: float, common: Mapping[str, Any]) -> BaseModel:
        """Return an explanation: of the answer `label`, whose number or probability is `explained`."""
        raise NotImplementedError(f"{self.name} is not explained")


def parse_features(
    contract: Contract, description: Description, body: bytes | bytearray, max_rows: int
) -> ParsedRows:
    """Return a JSON object of features, or a list of 1 to `max_rows`, as rows.

    Raises `UnreadableInputError`, `InvalidInputError` or `TooManyRowsError`.
    """
    listed = is_list(body)
    requests = (
        read_list(contract.name, contract.request, body, max_rows)
        if listed
        else read_object(contract.name, contract.request, body)
    )
    return ParsedRows(contract.matrix(description, requests, listed=listed), listed)
