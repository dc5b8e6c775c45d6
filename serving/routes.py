"""The HTTP surface: each handler hands over to the predictor and words nothing itself."""

from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from catalog.spec import ModelSpec
from serving.bodies import read_json
from serving.describing import model_info, readiness
from serving.http_errors import PREDICT, documented
from serving.openapi import RequestSchemas
from serving.predictor import Predictor
from serving.schemas import ClassPrediction, Liveness, ModelList, NumberPrediction, Prediction, Readiness
from serving.settings import ServingSettings


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

    for spec in predictor.specs.values():
        _add_predict(router, spec, predictor, settings, schemas)
    return router


def _add_predict(
    router: APIRouter,
    spec: ModelSpec,
    predictor: Predictor,
    settings: ServingSettings,
    schemas: RequestSchemas,
) -> None:
    # A coroutine that calls the model on the event loop: one row takes about 50 µs, less than handing
    # it to a thread and back. Batches, which take longer, will want a thread.
    async def predict(request: Request) -> Prediction:
        body = await read_json(
            request, max_bytes=settings.serving_max_body_bytes, timeout=settings.serving_body_timeout
        )
        return predictor.predict(spec.name, body)

    router.add_api_route(
        PREDICT + spec.name,
        predict,
        methods=["POST"],
        tags=["predict"],
        operation_id=f"predict_{spec.name}",
        summary=f"Predict {spec.name}",
        description=spec.description,
        response_model=ClassPrediction if spec.task == "classification" else NumberPrediction,
        responses={200: _success(spec), **documented(400, 408, 413, 415, 422, 500, 503)},
        # The body is declared by hand because it is read by hand: within bounds, and by Pydantic's
        # JSON parser, which refuses what Python's lets through (NaN) or chokes on (nesting, huge integers).
        openapi_extra=schemas.body(spec.name),
    )


def _success(spec: ModelSpec) -> dict[str, Any]:
    if spec.task == "classification":
        return {"description": "The predicted class and the probability of each."}
    return {"description": f"The predicted {spec.target}" + (f", {spec.unit}." if spec.unit else ".")}
