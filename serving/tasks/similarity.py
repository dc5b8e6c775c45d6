"""Similarity: the nearest neighbours of a row, or of a thing in the model's index."""

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import orjson
from pydantic import Field, RootModel, create_model

from catalog.spec import Dataset, ModelSpec
from registry.errors import ModelFormatError
from registry.model_format.onnx_model import Description
from registry.model_format.similarity_index import SimilarityIndex, nearest_others, pick
from serving.errors import UnknownItemError, UnknownModelNameError
from serving.parsing import is_list, read_list, read_object
from serving.tasks.base import Column, Contract, ModelOutputs, ParsedRows, Question, ServingTask
from serving.tasks.responses import RESPONSE_CONFIG, ModelResponse
from serving.tasks.similarity_request import DEFAULT_NEIGHBOURS, SimilarityRequest, similarity_request

# The nearest are what drift is seen in, and a hundred of each answer would fill a log.
LOGGED = 10


class NeighbourQuery(NamedTuple):
    """How many neighbours are wanted, and the place of the thing that must not be among them; -1 is none."""

    k: int = DEFAULT_NEIGHBOURS
    itself: int = -1


class Similarity(ServingTask):
    """Places in `items` of shape (n, neighbours), nearest first; `shares` the distances."""

    name = "similarity"
    path = "/api/similar"
    summary = "Find what is similar"
    words = (
        "What is most like it? {description}\n\nSend {id_name}, for the neighbours of a thing that the index "
        "holds, which itself is left out; or the features of anything. `k` says how many are wanted."
    )
    unexplained = "Its answers say how far each neighbour is."

    def declared_fields(self, spec: ModelSpec) -> dict[str, Any]:
        return {"id_name": spec.dataset.id, "id_example": _id_example(spec.dataset), "shown": spec.shown}

    def derived_fields(self, description: Description) -> dict[str, Any]:
        items = _items(description)
        if taken := {"k", "distance", items.id_name} & {*description.features, *items.shown}:
            raise ValueError(f"requests and answers use these names themselves: {', '.join(sorted(taken))}")
        return {"id_name": items.id_name, "shown": tuple(items.shown)}

    def require_fit(self, contract: Contract, description: Description) -> None:
        items = _items(description)
        if (items.id_name, tuple(items.shown)) != (contract.id_name, contract.shown):
            raise ModelFormatError(
                f"The version finds things by {items.id_name} and shows "
                f"{', '.join(items.shown) or 'nothing'}; declared are {contract.id_name} and "
                f"{', '.join(contract.shown) or 'nothing'}."
            )

    def question(self, contract: Contract) -> Question | None:
        return similarity_request(
            contract.request, str(contract.id_name), contract.example, contract.id_example
        )

    def parse_question(
        self, contract: Contract, description: Description, body: bytes | bytearray, max_rows: int
    ) -> ParsedRows:
        """Return a request by ids or features as rows; `queries` are a `NeighbourQuery` for each row.

        Raises what `parse_features` raises, and `UnknownItemError`.
        """
        form, name = contract.question, contract.name
        if not isinstance(form, SimilarityRequest):
            raise UnknownModelNameError(f"The model {name!r} finds no neighbours; it does {contract.task}.")
        listed, items = is_list(body), _items(description)
        parsed = (
            read_list(name, form.request, body, max_rows, form.most_fields)
            if listed
            else read_object(name, form.request, body)
        )
        questions = [question.root for question in cast("list[RootModel[Any]]", parsed)]
        ids = [str(getattr(q, items.id_name)) if isinstance(q, form.by_id) else None for q in questions]
        places = _places(name, items, ids, listed=listed)
        rows = np.empty((len(questions), len(description.features)), dtype=np.float32)
        rows[places >= 0] = items.rows[places[places >= 0]]
        by_features = np.flatnonzero(places < 0).tolist()
        if by_features:
            features = [questions[number] for number in by_features]
            rows[by_features] = contract.matrix(description, features, listed=listed, numbers=by_features)
        queries = [NeighbourQuery(q.k, int(place)) for q, place in zip(questions, places, strict=True)]
        return ParsedRows(rows, listed, tuple(queries))

    def check(
        self, labels: npt.NDArray[Any], shares: npt.NDArray[np.float32] | None, description: Description
    ) -> ModelOutputs:
        items = _items(description)
        if shares is None or labels.ndim != 2 or labels.shape != shares.shape:
            raise ValueError("its neighbours and distances do not fit")
        if not ((labels >= 0) & (labels < len(items.ids))).all() or not np.isfinite(shares).all():
            raise ValueError("it finds what it does not name")
        return ModelOutputs(labels, shares, (), items)

    def select(self, outputs: ModelOutputs, queries: Sequence[Any]) -> ModelOutputs:
        """Return the nearest `k` of each row without the thing itself; -1 where there are fewer.

        The result is as wide as the largest k.
        """
        k, itself = np.array(
            [query or NeighbourQuery() for query in queries or [None] * len(outputs.labels)]
        ).T
        columns = nearest_others(outputs.labels != itself[:, None], k)
        labels, distances = pick(outputs.labels, columns, -1), pick(_distances(outputs), columns, 0.0)
        return outputs._replace(labels=labels, shares=distances)

    def logged(self, outputs: ModelOutputs) -> ModelOutputs:
        """Return the first few neighbours of each row."""
        return outputs._replace(labels=outputs.labels[:, :LOGGED], shares=_distances(outputs)[:, :LOGGED])

    def row(self, outputs: ModelOutputs, place: int) -> dict[str, Any]:
        pairs = zip(outputs.labels[place].tolist(), _distances(outputs)[place], strict=True)
        return {"neighbours": [_neighbour(outputs.items, *pair) for pair in pairs if pair[0] >= 0]}

    def columns(self, outputs: Sequence[ModelOutputs]) -> dict[str, Column]:
        """Return the ids of the nearest as a JSON list of text, and how far the nearest is."""
        texts: list[str] = []
        for part in outputs:
            ids = part.items.ids if part.items else ()
            for places in part.labels.tolist():
                texts.append(orjson.dumps([ids[place] for place in places if place >= 0]).decode())
        distances = np.concatenate([_distances(part)[:, 0] for part in outputs]).astype(np.float32)
        return {"prediction": texts, "distance": distances}

    def response_models(self, contract: Contract) -> Any:
        title = contract.request.__name__.removesuffix("Features")
        texts = {str(contract.id_name): "Id of the neighbour.", **{c: f"Its {c}." for c in contract.shown}}
        fields: dict[str, Any] = {name: (str, Field(description=words)) for name, words in texts.items()}
        distance = Field(ge=0, description="How far it is, in the space of the model; 0 is the same.")
        neighbour = create_model(
            f"{title}Neighbour", __config__=RESPONSE_CONFIG, **fields, distance=(float, distance)
        )
        neighbours: Any = (list[neighbour], Field(description="The nearest first."))
        row = create_model(f"{title}Row", __config__=RESPONSE_CONFIG, neighbours=neighbours)
        about: dict[str, Any] = {
            name: (field.annotation, Field(description=field.description))
            for name, field in ModelResponse.model_fields.items()
        }
        single = create_model(f"{title}Answer", __config__=RESPONSE_CONFIG, **about, neighbours=neighbours)
        rows: Any = (list[row], Field(description="One answer for each object, in their order."))
        return single | create_model(f"{title}Answers", __config__=RESPONSE_CONFIG, **about, predictions=rows)


def _items(description: Description) -> SimilarityIndex:
    if description.items is None:
        raise ValueError("a similarity's file must hold its index")
    return description.items


def _distances(outputs: ModelOutputs) -> npt.NDArray[np.float32]:
    if outputs.shares is None:
        raise ValueError("it finds no neighbours")
    return outputs.shares


def _neighbour(items: SimilarityIndex | None, place: int, distance: np.float32) -> dict[str, Any]:
    if items is None:
        raise ValueError("it finds no neighbours")
    shown = {column: texts[place] for column, texts in items.shown.items()}
    return {items.id_name: items.ids[place], **shown, "distance": distance}


def _id_example(dataset: Dataset) -> str | None:
    field = dataset.row.model_fields[dataset.id] if dataset.id else None
    return str(field.examples[0]) if field and field.examples else None


def _places(
    name: str, items: SimilarityIndex, ids: Sequence[str | None], *, listed: bool
) -> npt.NDArray[np.int64]:
    """Return the place in the index of each id, and -1 where there is none."""
    unknown = [
        (f"{number}.{items.id_name}" if listed else items.id_name, item)
        for number, item in enumerate(ids)
        if item is not None and item not in items.places
    ]
    if unknown:
        raise UnknownItemError.of(name, items.id_name, unknown)
    return np.array([-1 if item is None else items.places[item] for item in ids], dtype=np.int64)
