"""What a model reads, as its callers must send it: declared in the catalogue, or derived from the model.

Nothing here knows of HTTP or of a web framework.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic.fields import FieldInfo

from catalog.contract import request_model
from catalog.spec import Dataset, ModelSpec, Task
from registry.model_format.onnx_model import Description
from serving.inference.parsing import object_bytes
from serving.inference.similarity_query import Asking, asking

# Without a declaration nothing is known of a feature but that it is a number.
_NUMBER = Annotated[float, Field(strict=True, allow_inf_nan=False)]


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

    @property
    def features(self) -> tuple[str, ...]:
        """The names of the features that a request holds."""
        return tuple(self.attributes)

    @cached_property
    def object_bytes(self) -> int:
        """The bytes that one object of such features can need, each number at its longest and indented."""
        return object_bytes(self.attributes)

    @cached_property
    def asking(self) -> Asking | None:
        """How a similarity is asked, by id or by features; None of other tasks."""
        return (
            None
            if self.id_name is None
            else asking(self.request, self.id_name, self.example, self.id_example)
        )

    @property
    def example(self) -> dict[str, Any] | None:
        """An object that meets the contract, if the contract brings one."""
        found = self.request.model_json_schema().get("examples") or [None]
        example: dict[str, Any] | None = found[0]
        return example


def declared(spec: ModelSpec) -> Contract:
    """Return the contract of a model that the catalogue declares."""
    request = request_model(spec)
    return Contract(
        name=spec.name,
        description=spec.description,
        task=spec.task,
        target=spec.target,
        unit=spec.unit,
        request=request,
        attributes={name: name for name in request.model_fields},
        id_name=spec.dataset.id if spec.task == "similarity" else None,
        id_example=_id_example(spec.dataset),
        shown=spec.shown,
    )


def _id_example(dataset: Dataset) -> str | None:
    field = dataset.row.model_fields[dataset.id] if dataset.id else None
    return str(field.examples[0]) if field and field.examples else None


def derived(name: str, description: Description, datasets: Iterable[Dataset]) -> Contract:
    """Return the contract of a registered model that the catalogue does not declare.

    Which features it reads, and in what order, stands in its file. If one dataset's contract has all of
    them, it reads that dataset's rows and its rules hold; else each feature is a finite number.
    """
    known = next(
        (d.features for d in datasets if set(description.features) <= set(d.features.model_fields)), None
    )
    fields: dict[str, Any] = {}
    attributes: dict[str, str] = {}
    for number, feature in enumerate(description.features):
        # Any text may be a feature's name, and Pydantic reads some as its own.
        attributes[feature] = f"feature_{number}"
        field = known.model_fields[feature] if known else None
        fields[attributes[feature]] = _renamed(field, feature) if field else (_NUMBER, Field(alias=feature))
    config = ConfigDict(extra="forbid", strict=True)
    if known:
        config = ConfigDict(
            **{**known.model_config, "extra": "forbid", "json_schema_extra": _example(known, fields)}
        )
    title = "".join(part.capitalize() for part in re.findall(r"[A-Za-z0-9]+", name)) or "Model"
    request = create_model(f"{title}Features", __config__=config, **fields)
    request.__doc__ = f"Features that the model {name!r} reads."
    rules = f"rules of {known.__name__}" if known else "no rules but that each feature is a finite number"
    return Contract(
        name=name,
        description=f"A registered {description.task} model that the catalogue does not declare; {rules}.",
        task=description.task,
        target="label" if description.task == "classification" else "value",
        unit=None,
        request=request,
        attributes=attributes,
        **_found(description),
    )


def _found(description: Description) -> dict[str, Any]:
    if (items := description.items) is None:
        return {}
    if taken := {"k", "distance", items.id_name} & {*description.features, *items.shown}:
        raise ValueError(f"requests and answers have these names for themselves: {', '.join(sorted(taken))}")
    return {"id_name": items.id_name, "shown": tuple(items.shown)}


def _renamed(field: FieldInfo, feature: str) -> tuple[Any, Any]:
    """Return a field of a dataset's contract, with its rules, as one that callers know by its name alone."""
    rules: Any = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
    default = ... if field.is_required() else field.default
    return rules, Field(default, alias=feature, description=field.description)


def _example(known: type[BaseModel], fields: Mapping[str, Any]) -> dict[str, Any] | None:
    names = {field[1].alias for field in fields.values()}
    examples = known.model_json_schema().get("examples") or []
    return {"examples": [{k: v for k, v in e.items() if k in names} for e in examples]} if examples else None
