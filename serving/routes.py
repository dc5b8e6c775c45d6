"""The HTTP surface: each handler hands over to the predictor and words nothing itself."""

import os
from asyncio import get_running_loop
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from catalog.spec import ModelSpec
from serving.bodies import list_bytes, read_json
from serving.describing import model_info, readiness
from serving.http_errors import PREDICT, documented
from serving.metrics import note_answer
from serving.models import Lane
from serving.openapi import RequestSchemas
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


def model_routes(predictor: Predictor, settings: ServingSettings, schemas: RequestSchemas) -> APIRouter:
    """Return the routes that an app uses: the list of models, and one route per model."""
    router = APIRouter()

    @router.get("/", include_in_schema=False)
    async def index() -> RedirectResponse:
        return RedirectResponse("docs")

    @router.get("/api/models", tags=["models"], operation_id="list_models", summary="What is served?")
    async def models() -> ModelList:
        return ModelList(models=tuple(model_info(predictor, name) for name in predictor.specs))

    # One processor is left to the event loop.
    batches = ThreadPoolExecutor(max(1, min(5, os.cpu_count() or 1) - 1), thread_name_prefix="batch")
    for spec in predictor.specs.values():
        _add_predict(router, spec, predictor, settings, schemas, batches=batches)
    return router


def _add_predict(
    router: APIRouter,
    spec: ModelSpec,
    predictor: Predictor,
    settings: ServingSettings,
    schemas: RequestSchemas,
    *,
    batches: Executor,
) -> None:
    most_rows, fields = settings.serving_max_rows, predictor.requests[spec.name].model_fields
    max_bytes = settings.serving_max_body_bytes
    max_list_bytes = max(max_bytes, list_bytes(fields, most_rows))
    lane = Lane(predictor, spec.name)

    def answer(request: Request, body: bytearray) -> Response:
        found = predictor.predict(spec.name, body, max_rows=most_rows)
        note_answer(request.scope, found)
        return Response(found.model_dump_json(), media_type="application/json")

    # On the event loop one row takes about 50 µs, less than handing it to a thread and back. What is long
    # goes to a thread, so that single rows are answered meanwhile.
    async def predict(request: Request) -> Response:
        body = await read_json(
            request,
            max_bytes=max_bytes,
            max_list_bytes=max_list_bytes,
            timeout=settings.serving_body_timeout,
        )
        if lane.needed:
            return await lane.run(answer, request, body)
        if len(body) <= _SHORT_BYTES and body.count(b"{") <= _SHORT_ROWS:
            return answer(request, body)
        return await get_running_loop().run_in_executor(batches, answer, request, body)

    router.add_api_route(
        PREDICT + spec.name,
        predict,
        methods=["POST"],
        tags=["predict"],
        operation_id=f"predict_{spec.name}",
        summary=f"Predict {spec.name}",
        description=f"{spec.description}\n\nSend one object, or a list of 1 to {most_rows} objects: one "
        "version answers the whole list, in its order, or one invalid object refuses the whole. "
        f"An object may be {max_bytes} bytes long, a list {max_list_bytes} bytes.",
        response_model=_ANSWERS[spec.task],
        responses={200: _success(spec), **documented(400, 408, 413, 415, 422, 500, 503)},
        # The body is declared by hand because it is read by hand: within bounds, and by Pydantic's
        # JSON parser, which refuses what Python's lets through (NaN) or chokes on (nesting, huge integers).
        openapi_extra=schemas.body(spec.name, most_rows),
    )


def _success(spec: ModelSpec) -> dict[str, Any]:
    if spec.task == "classification":
        return {"description": "The predicted class and the probability of each."}
    return {"description": f"The predicted {spec.target}" + (f", {spec.unit}." if spec.unit else ".")}
