"""POST /api/cluster and POST /api/similar, described: whatever model does these tasks.

serving/predicting.py answers them, like predictions.
"""

from typing import Any

from fastapi import APIRouter

from catalog.spec import Task
from serving.contracts import Contract
from serving.http_errors import PATHS, documented
from serving.openapi import Describe, RequestSchemas
from serving.routes import described
from serving.settings import ServingSettings
from serving.task_schemas import answers

_WORDS: dict[Task, str] = {
    "clustering": "In which cluster is it? {description}\n\nThe cluster's label says what marks it.",
    "similarity": "What is most like it? {description}\n\nSend {id_name}, for the neighbours of what the "
    "index holds, which itself is left out; or the features of anything. `k` says how many are wanted.",
}
_MODEL: list[dict[str, Any]] = [
    {
        "name": "model",
        "in": "query",
        "required": False,
        "schema": {"type": "string"},
        "description": "Which model, where several do this.",
    }
]


def describe_tasks(settings: ServingSettings) -> Describe:
    """Return what describes the two paths for the OpenAPI page, each by the first model that does it."""
    most_rows = settings.serving_max_rows

    def describe(router: APIRouter, contract: Contract, schemas: RequestSchemas) -> None:
        path = PATHS.get(contract.task)
        if path is None or any(getattr(route, "path", None) == path for route in router.routes):
            return
        router.add_api_route(
            path,
            described,
            methods=["POST"],
            tags=["predict"],
            operation_id=path.removeprefix("/api/"),
            summary={"clustering": "Find its cluster", "similarity": "Find what is similar"}[contract.task],
            description=_WORDS[contract.task].format(
                description=contract.description, id_name=f"`{contract.id_name}`"
            )
            + f"\n\nSend one object, or a list of 1 to {most_rows} objects.",
            response_model=answers(contract),
            responses={
                200: {"description": "The answer, in the form of the question."},
                **documented(400, 404, 408, 413, 415, 422, 500, 503),
            },
            openapi_extra={
                **schemas.body(contract.name, most_rows, question=contract.asking is not None),
                "parameters": _MODEL,
            },
        )

    return describe


def task_routes() -> APIRouter:
    """Return the routes that say which methods the two paths know; POST is answered before them."""
    router = APIRouter()
    for path in PATHS.values():
        router.add_api_route(path, described, methods=["POST"], include_in_schema=False)
    return router
