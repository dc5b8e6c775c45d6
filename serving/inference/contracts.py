"""Contracts of models: declared in the catalogue, or derived from a model's file. No HTTP here."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic.fields import FieldInfo

from catalog.contract import request_model
from catalog.spec import Dataset, ModelSpec
from registry.model_format.onnx_model import Description
from serving.tasks.base import Contract
from serving.tasks.registry import TASKS

# Without a declaration nothing is known of a feature but that it is a number.
_NUMBER = Annotated[float, Field(strict=True, allow_inf_nan=False)]


def declared(spec: ModelSpec) -> Contract:
    """Return the contract of a model that the catalogue declares."""
    request, task = request_model(spec), TASKS[spec.task]
    contract = Contract(
        name=spec.name,
        description=spec.description,
        task=spec.task,
        target=spec.target,
        unit=spec.unit,
        request=request,
        attributes={name: name for name in request.model_fields},
        **task.declared_fields(spec),
    )
    return replace(contract, question=task.question(contract))


def derived(name: str, description: Description, datasets: Iterable[Dataset]) -> Contract:
    """Return the contract of a registered model that the catalogue does not declare.

    Which features it reads, and in what order, stands in its file. If one dataset's contract has all of
    them, it reads that dataset's rows and its rules hold; else each feature is a finite number.
    """
    known = next(
        (d.features for d in datasets if set(description.features) <= set(d.features.model_fields)), None
    )
    task, fields = TASKS[description.task], dict[str, Any]()
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
    contract = Contract(
        name=name,
        description=f"A registered {description.task} model that the catalogue does not declare; {rules}.",
        task=description.task,
        target=task.derived_target,
        unit=None,
        request=request,
        attributes=attributes,
        **task.derived_fields(description),
    )
    return replace(contract, question=task.question(contract))


def _renamed(field: FieldInfo, feature: str) -> tuple[Any, Any]:
    """Return a field of a dataset's contract, with its rules, as one that callers know by its name alone."""
    rules: Any = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
    default = ... if field.is_required() else field.default
    return rules, Field(default, alias=feature, description=field.description)


def _example(known: type[BaseModel], fields: Mapping[str, Any]) -> dict[str, Any] | None:
    names = {field[1].alias for field in fields.values()}
    examples = known.model_json_schema().get("examples") or []
    return {"examples": [{k: v for k, v in e.items() if k in names} for e in examples]} if examples else None
