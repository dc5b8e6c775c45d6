"""The HTTP surface: each handler hands over to the predictor and words nothing itself."""

import os
from asyncio import get_running_loop
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from serving.bodies import list_bytes, read_json
from serving.contracts import Contract
from serving.describing import model_info, readiness
from serving.http_errors import PREDICT, documented
from serving.metrics import note_answer
from serving.openapi import Describe, RequestSchemas
from serving.predictor import Predictor
from serving.schemas import (
    ClassPrediction,
    ClassPredictions,
    Liveness,
    ModelList,
    NumberPrediction,
    NumberPredictions,
    Readiness,
)
from serving.settings import ServingSettings

# Up to so many bytes and objects a body is answered on the event loop: a track takes about 250 bytes.
_SHORT_BYTES, _SHORT_ROWS = 4096, 16
_ANSWERS: dict[str, Any] = {
    "classification": ClassPrediction | ClassPredictions,
    "regression": NumberPrediction | NumberPredictions,
}


def health_routes(predictor: Predictor) -> APIRouter:
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
        answer = readiness(predictor)
        if answer.status != "ready":
            response.status_code = 503
        return answer

    return router


def model_routes(predictor: Predictor, settings: ServingSettings) -> APIRouter:
    """Return the routes that an app uses: the list of models, and the one that answers for each of them."""
    router = APIRouter()

    @router.get("/", include_in_schema=False)
    async def index() -> RedirectResponse:
        return RedirectResponse("docs")

    @router.get("/api/models", tags=["models"], operation_id="list_models", summary="What is served?")
    async def models() -> ModelList:
        return ModelList(models=tuple(model_info(predictor, name) for name in sorted(predictor.states)))

    # Starlette's plain route: FastAPI's would look at the signature for what is read by hand here.
    router.add_route(
        PREDICT + "{model}", _predict(predictor, settings), methods=["POST"], include_in_schema=False
    )
    return router


def _predict(predictor: Predictor, settings: ServingSettings) -> Callable[[Request], Awaitable[Response]]:
    most_rows, max_bytes = settings.serving_max_rows, settings.serving_max_body_bytes
    # One processor is left to the event loop.
    batches = ThreadPoolExecutor(max(1, min(5, os.cpu_count() or 1) - 1), thread_name_prefix="batch")

    def answer(request: Request, name: str, body: bytearray) -> Response:
        found = predictor.predict(name, body, max_rows=most_rows)
        note_answer(request.scope, found)
        return Response(found.model_dump_json(), media_type="application/json")

    # On the event loop one row takes about 50 µs, less than handing it to a thread and back. What is long
    # goes to a thread, so that single rows are answered meanwhile.
    async def predict(request: Request) -> Response:
        name = request.path_params["model"]
        _, contract = predictor.serving(name)
        body = await read_json(
            request,
            max_bytes=max_bytes,
            max_list_bytes=max(max_bytes, list_bytes(contract.features, most_rows)),
            timeout=settings.serving_body_timeout,
        )
        if len(body) <= _SHORT_BYTES and body.count(b"{") <= _SHORT_ROWS:
            return answer(request, name, body)
        return await get_running_loop().run_in_executor(batches, answer, request, name, body)

    return predict


def describe_predict(settings: ServingSettings) -> Describe:
    """Return what describes a model's prediction for the OpenAPI page."""
    most_rows, max_bytes = settings.serving_max_rows, settings.serving_max_body_bytes

    def describe(router: APIRouter, contract: Contract, schemas: RequestSchemas) -> None:
        max_list_bytes = max(max_bytes, list_bytes(contract.features, most_rows))
        router.add_api_route(
            PREDICT + quote(contract.name, safe=""),
            _described,
            methods=["POST"],
            tags=["predict"],
            operation_id=f"predict_{contract.name}",
            summary=f"Predict {contract.name}",
            description=f"{contract.description}\n\nSend one object, or a list of 1 to {most_rows} objects: "
            "one version answers the whole list, in its order, or one invalid object refuses the whole. "
            f"An object may be {max_bytes} bytes long, a list {max_list_bytes} bytes.",
            response_model=_ANSWERS[contract.task],
            responses={200: _success(contract), **documented(400, 404, 408, 413, 415, 422, 500, 503)},
            # The body is declared by hand because it is read by hand: within bounds, and by Pydantic's JSON
            # parser, which refuses what Python's lets through (NaN) or chokes on (nesting, huge integers).
            openapi_extra=schemas.body(contract.name, most_rows),
        )

    return describe


async def _described() -> None:
    """Stand for a handler in routes that are described and never asked."""


def _success(contract: Contract) -> dict[str, Any]:
    if contract.task == "classification":
        return {"description": "The predicted class and the probability of each."}
    unit = f", {contract.unit}." if contract.unit else "."
    return {"description": f"The predicted {contract.target}{unit}"}
