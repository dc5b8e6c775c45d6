"""The HTTP surface beside predictions, and the description of those."""

from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, Response
from fastapi.responses import RedirectResponse

from serving import limits
from serving.api.openapi import Describe, RequestSchemas
from serving.api.schemas import Liveness, ModelList, Readiness
from serving.api.status import model_info, readiness
from serving.errors import UnknownModelNameError
from serving.http_errors import PREDICT, documented
from serving.inference.predictor import Predictor
from serving.process.workers import Workers
from serving.settings import ServingSettings
from serving.tasks.base import Contract
from serving.tasks.registry import TASKS, task_paths


def health_routes(predictor: Predictor, workers: Workers) -> APIRouter:
    """Return the routes that an orchestrator asks."""
    router = APIRouter(tags=["health"])

    @router.get("/healthz", operation_id="healthz", summary="Does the process live?")
    async def healthz() -> Liveness:
        return Liveness()

    @router.get(
        "/readyz",
        operation_id="readyz",
        summary="Is at least one model served?",
        responses={503: {"model": Readiness, "description": "No model is served; each says why."}},
    )
    async def readyz(response: Response) -> Readiness:
        answer = readiness(predictor, workers)
        if answer.status != "ready":
            response.status_code = 503
        return answer

    return router


def model_routes(predictor: Predictor) -> APIRouter:
    """Return the routes that an app uses beside predictions."""
    router = APIRouter()

    @router.get("/", include_in_schema=False)
    async def index() -> RedirectResponse:
        return RedirectResponse("docs")

    @router.get("/api/models", tags=["models"], operation_id="list_models", summary="What is served?")
    async def models() -> ModelList:
        return ModelList(models=tuple(model_info(predictor, name) for name in sorted(predictor.states)))

    # serving/api/predict.py has answered for every model that is known.
    @router.post(PREDICT + "{model:path}", include_in_schema=False)
    async def predict(model: str) -> None:
        raise UnknownModelNameError.of(model, predictor.states)

    return router


def describe_predict(settings: ServingSettings) -> Describe:
    """Return what describes a model's prediction for the OpenAPI page."""
    most_rows, max_bytes = settings.serving_max_rows, limits.MAX_BODY_BYTES

    def describe(router: APIRouter, contract: Contract, schemas: RequestSchemas) -> None:
        task = TASKS[contract.task]
        max_list_bytes = max(max_bytes, most_rows * contract.object_bytes)
        router.add_api_route(
            PREDICT + quote(contract.name, safe=""),
            described,
            methods=["POST"],
            tags=["predict"],
            operation_id=f"predict_{contract.name}",
            summary=f"Predict {contract.name}",
            description=f"{contract.description}\n\nSend one object, or a list of 1 to {most_rows} objects: "
            "one version answers the whole list, in its order, or one invalid object refuses the whole. "
            f"An object may be {max_bytes} bytes long, a list {max_list_bytes} bytes. An integer is written "
            "without a fraction: 10, not 10.0.",
            response_model=task.response_models(contract),
            responses={
                200: {"description": task.success(contract)},
                **documented(400, 404, 408, 413, 415, 422, 500, 503, 504),
            },
            # The body is declared by hand because it is read by hand: within bounds, and by Pydantic's JSON
            # parser, which refuses what Python's lets through (NaN) or chokes on (nesting, huge integers).
            openapi_extra=schemas.body(contract.name, most_rows),
        )

    return describe


async def described() -> None:
    """Stand for a handler in routes that are described and never asked."""


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
    """Return what describes the paths of tasks for the OpenAPI page, each by the first model that does it."""
    most_rows = settings.serving_max_rows

    def describe(router: APIRouter, contract: Contract, schemas: RequestSchemas) -> None:
        task = TASKS[contract.task]
        if task.path is None or any(getattr(route, "path", None) == task.path for route in router.routes):
            return
        router.add_api_route(
            task.path,
            described,
            methods=["POST"],
            tags=["predict"],
            operation_id=task.path.removeprefix("/api/"),
            summary=task.summary,
            description=task.words.format(description=contract.description, id_name=f"`{contract.id_name}`")
            + f"\n\nSend one object, or a list of 1 to {most_rows} objects.",
            response_model=task.response_models(contract),
            responses={
                200: {"description": "The answer, in the form of the question."},
                **documented(400, 404, 408, 413, 415, 422, 500, 503, 504),
            },
            openapi_extra={
                **schemas.body(contract.name, most_rows, question=contract.question is not None),
                "parameters": _MODEL,
            },
        )

    return describe


def task_routes() -> APIRouter:
    """Return the routes that say which methods the paths of tasks know; POST is answered before them."""
    router = APIRouter()
    for path in task_paths():
        router.add_api_route(path, described, methods=["POST"], include_in_schema=False)
    return router
