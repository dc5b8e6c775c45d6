"""The OpenAPI page: each model's request, in its two forms, with its rules and examples."""

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

_REF = "#/components/schemas/{model}"


class RequestSchemas:
    """The schemas of the request models, which the handlers read by themselves."""

    def __init__(self, requests: Mapping[str, type[BaseModel]]) -> None:
        # All at once, so that Pydantic keeps apart what has the same name.
        refs, schema = models_json_schema(
            [(model, "validation") for model in requests.values()], ref_template=_REF
        )
        self._refs = {name: refs[model, "validation"] for name, model in requests.items()}
        self._examples = {name: _examples(model) for name, model in requests.items()}
        self._components: dict[str, Any] = schema.get("$defs", {})

    def body(self, name: str, max_rows: int = 1000) -> dict[str, Any]:
        """Return the OpenAPI entry of one model's required JSON body: an object, or 1 to `max_rows`."""
        one = self._refs[name]
        many = {"type": "array", "items": one, "minItems": 1, "maxItems": max_rows}
        content: dict[str, Any] = {"schema": {"oneOf": [one, many]}}
        if examples := self._examples[name]:
            content["examples"] = {
                "object": {"summary": "One object", "value": examples[0]},
                "list": {
                    "summary": f"A list of 1 to {max_rows} objects",
                    "value": [examples[0], examples[-1]][:max_rows],
                },
            }
        return {"requestBody": {"required": True, "content": {"application/json": content}}}

    def body_of_one(self, name: str) -> dict[str, Any]:
        """Return the OpenAPI entry of one model's required JSON body, where only an object will do."""
        content: dict[str, Any] = {"schema": self._refs[name]}
        if examples := self._examples[name]:
            content["examples"] = {"object": {"summary": "One object", "value": examples[0]}}
        return {"requestBody": {"required": True, "content": {"application/json": content}}}

    def install(self, app: FastAPI) -> None:
        """Add the schemas to the page of `app`."""
        described = app.openapi

        def openapi() -> dict[str, Any]:
            schema = described()
            schema.setdefault("components", {}).setdefault("schemas", {}).update(self._components)
            return schema

        app.openapi = openapi  # type: ignore[method-assign] # the hook that FastAPI documents


def _examples(model: type[BaseModel]) -> list[Any]:
    found: list[Any] = model.model_json_schema().get("examples", [])
    return found
