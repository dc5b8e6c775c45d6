"""From a declaration to the request an app sends, and from a request to the row a model reads."""

from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ConfigDict, create_model

from catalog.spec import ModelSpec


def request_model(spec: ModelSpec) -> type[BaseModel]:
    """Return the Pydantic model of one request: the contract's fields that this model reads, same rules.

    Unknown fields are refused, so that an app learns at once that a feature is misspelt or not read.
    """
    contract = spec.dataset.features
    fields: dict[str, Any] = {
        name: (field.annotation, field)
        for name, field in contract.model_fields.items()
        if name in spec.features
    }
    examples = [
        {name: value for name, value in example.items() if name in fields}
        for example in contract.model_json_schema().get("examples", [])
    ]
    extra: Any = {"examples": examples} if examples else None
    config = ConfigDict(**{**contract.model_config, "extra": "forbid", "json_schema_extra": extra})
    name = "".join(part.capitalize() for part in spec.name.replace("-", "_").split("_")) + "Features"
    model = create_model(name, __config__=config, **fields)
    model.__doc__ = f"Features that the model {spec.name!r} reads."
    return model


def to_row(request: BaseModel, features: Iterable[str]) -> list[float]:
    """Return the request's values as numbers, in the order of `features`; booleans become 0 and 1."""
    return [float(getattr(request, name)) for name in features]
