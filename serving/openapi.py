"""The OpenAPI page: each model's request with its rules and an example."""

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
        self._components: dict[str, Any] = schema.get("$defs", {})

    def body(self, name: str) -> dict[str, Any]:
        """Return the OpenAPI entry of one model's required JSON body."""
        content = {"application/json": {"schema": self._refs[name]}}
        return {"requestBody": {"required": True, "content": content}}

    def install(self, app: FastAPI) -> None:
        """Add the schemas to the page of `app`."""
        described = app.openapi

        def openapi() -> dict[str, Any]:
            schema = described()
            schema.setdefault("components", {}).setdefault("schemas", {}).update(self._components)
            return schema

        app.openapi = openapi  # type: ignore[method-assign] # the hook that FastAPI documents
