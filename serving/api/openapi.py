"""The OpenAPI page: each model's request, in its two forms, with its rules and examples.

Models come and go while the process runs, so the page is made of what is known when it is asked for, and made
anew only when that has changed.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from serving.tasks.base import Contract, Question

_NONE: Mapping[str, Question] = {}
_REF = "#/components/schemas/{model}"

# Adds one model's routes to a router that is only there to be described.
Describe = Callable[[APIRouter, Contract, "RequestSchemas"], None]


class RequestSchemas:
    """The schemas of the request models, which the handlers read by themselves."""

    def __init__(
        self, requests: Mapping[str, type[BaseModel]], questions: Mapping[str, Question] = _NONE
    ) -> None:
        """Describe what each model reads, and the questions that are more than that (a similarity's)."""
        # All at once, so that Pydantic keeps apart what has the same name.
        forms = {name: question.request for name, question in questions.items()}
        refs, schema = models_json_schema(
            [(model, "validation") for model in (*requests.values(), *forms.values())], ref_template=_REF
        )
        self._refs = {name: refs[model, "validation"] for name, model in requests.items()}
        self._examples = {name: _examples(model) for name, model in requests.items()}
        self._questions = {
            name: (refs[model, "validation"], list(questions[name].examples)) for name, model in forms.items()
        }
        self.components: dict[str, Any] = schema.get("$defs", {})

    def body(self, name: str, max_rows: int = 1000, *, question: bool = False) -> dict[str, Any]:
        """Return the OpenAPI entry of one model's required JSON body: an object, or 1 to `max_rows`."""
        single, examples = self._questions[name] if question else (self._refs[name], self._examples[name])
        several = {"type": "array", "items": single, "minItems": 1, "maxItems": max_rows}
        content: dict[str, Any] = {"schema": {"oneOf": [single, several]}}
        if examples:
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


class OpenApi:
    """The page of an app whose models come and go."""

    def __init__(
        self, app: FastAPI, contracts: Callable[[], Mapping[str, Contract]], describe: Iterable[Describe]
    ) -> None:
        """Describe the app's own routes, and what each of `describe` adds for every model of `contracts`."""
        self._app, self._contracts, self.describe = app, contracts, list(describe)
        self._kept: tuple[tuple[Contract, ...], dict[str, Any]] | None = None
        # Changes that others make to the finished page, in their order.
        self.finish: list[Callable[[dict[str, Any]], None]] = []

    def page(self) -> dict[str, Any]:
        """Return the page, for `FastAPI.openapi`."""
        contracts = self._contracts()
        known = tuple(contracts.values())
        kept = self._kept
        if (
            kept is None
            or len(kept[0]) != len(known)
            or any(a is not b for a, b in zip(kept[0], known, strict=True))
        ):
            kept = self._kept = known, self._page(contracts)
        return kept[1]

    def _page(self, contracts: Mapping[str, Contract]) -> dict[str, Any]:
        schemas = RequestSchemas(
            {name: contract.request for name, contract in contracts.items()},
            {name: contract.question for name, contract in contracts.items() if contract.question},
        )
        described = APIRouter()
        for contract in contracts.values():
            for describe in self.describe:
                describe(described, contract, schemas)
        page = get_openapi(
            title=self._app.title,
            version=self._app.version,
            description=self._app.description,
            routes=[*self._app.routes, *described.routes],
        )
        page.setdefault("components", {}).setdefault("schemas", {}).update(schemas.components)
        for change in self.finish:
            change(page)
        return page


def _examples(model: type[BaseModel]) -> list[Any]:
    examples: list[Any] = model.model_json_schema().get("examples", [])
    return examples
