"""The request of a similarity: the neighbours of a thing by its id, or of features. No HTTP here."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, Discriminator, Field, RootModel, Tag, create_model

from catalog.spec import MAX_NEIGHBOURS
from serving.errors import BY_FEATURES, BY_ID
from serving.tasks.base import Question

DEFAULT_NEIGHBOURS = 10


@dataclass(frozen=True)
class SimilarityRequest(Question):
    """`request` is a RootModel of a `by_id` or of features; neither has more than `most_fields` fields."""

    by_id: type[BaseModel]
    most_fields: int


def similarity_request(
    features: type[BaseModel], id_name: str, example: Mapping[str, Any] | None, example_id: str | None = None
) -> SimilarityRequest:
    """Return the form of a request: `id_name`, or what `features` validates, each with its own errors.

    Each has its example on the docs page, where there is one.
    """
    how_many = Field(
        DEFAULT_NEIGHBOURS,
        ge=1,
        le=MAX_NEIGHBOURS,
        description="How many neighbours are wanted; there are fewer where the index holds fewer.",
    )
    title, count = features.__name__.removesuffix("Features"), {"k": (int, how_many)}
    named: Any = Annotated[str, Field(min_length=1, description="Id of a thing that the index holds.")]
    ids = [{id_name: example_id, "k": 5}] if example_id else []
    rows = [{**example, "k": 5}] if example else []
    by_id: type[BaseModel] = _model(f"{title}ById", BaseModel, ids, {id_name: (named, ...), **count})
    by_id.__doc__ = "Asks for the neighbours of a thing in the index, which is not among them."
    by_features = _model(f"{title}ByFeatures", features, rows, count)
    by_features.__doc__ = "Asks for the neighbours of a thing with these features."

    def kind(value: object) -> str:
        return BY_ID if isinstance(value, dict) and id_name in value else BY_FEATURES

    either: Any = Annotated[
        Annotated[by_id, Tag(BY_ID)] | Annotated[by_features, Tag(BY_FEATURES)], Discriminator(kind)
    ]
    request = create_model(f"{title}Question", __base__=RootModel[either])
    return SimilarityRequest(request, (*ids, *rows), by_id, len(features.model_fields) + 2)


def _model(name: str, base: type[BaseModel], examples: list[Any], fields: dict[str, Any]) -> type[BaseModel]:
    # Pydantic takes the arguments of a class for its configuration, which adds to that of its base.
    config: Any = {"extra": "forbid", "strict": True, "json_schema_extra": {"examples": examples}}
    return create_model(name, __base__=base, __cls_kwargs__=config, **fields)
