"""POST /api/explain/MODEL: hands over to serving/explain_answers.py, in a thread."""

import os
from asyncio import get_running_loop
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response

from catalog.spec import ModelSpec
from serving.bodies import read_json
from serving.explain_answers import explain
from serving.explain_schemas import ClassExplanation, NumberExplanation
from serving.http_errors import EXPLAIN, documented
from serving.metrics import Metrics
from serving.openapi import RequestSchemas
from serving.overload import LimitConcurrency, Turns
from serving.predictor import Predictor
from serving.settings import ServingSettings

# An explanation is thousands of predictions. These have turns of their own, so that a flood of them can take
# none of those of predictions: as many at work as leave a processor free, and some whose body is being read.
_THREADS = max(1, min(3, (os.cpu_count() or 1) - 1))
_AT_ONCE = _THREADS + 6
_ANSWERS: dict[str, Any] = {"classification": ClassExplanation, "regression": NumberExplanation}
_WORDS = """\
How much each feature of one object moves {what} away from the base value, its mean over the {rows} \
training rows that travel in the model's file (the background).

The contributions are Shapley values: the base value and all of them add up to what is explained. At most \
about {most} rows are evaluated; where that is too few to count every coalition of features, orders are \
sampled, always the same ones, and each contribution carries its standard error.

They say what the model does with its input, not what causes the target; correlated features are varied \
independently of each other.
"""


def install(
    app: FastAPI, predictor: Predictor, settings: ServingSettings, schemas: RequestSchemas, metrics: Metrics
) -> None:
    """Add one route per model to `app`, and what limits them; nothing if GREENROOM_SERVING_EXPLAIN is off."""
    if not settings.serving_explain:
        return
    router = APIRouter()
    threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="explain")
    for spec in predictor.specs.values():
        _add_explain(router, spec, predictor, settings, schemas, threads=threads)
    app.include_router(router)
    app.add_middleware(
        LimitConcurrency,
        turns=Turns(_AT_ONCE, settings.serving_max_queue, settings.serving_queue_timeout),
        timeout=settings.serving_queue_timeout,
        rejected=metrics.rejected,
        prefix=EXPLAIN,
    )


def _add_explain(
    router: APIRouter,
    spec: ModelSpec,
    predictor: Predictor,
    settings: ServingSettings,
    schemas: RequestSchemas,
    *,
    threads: Executor,
) -> None:
    most, max_bytes = settings.serving_explain_rows, settings.serving_max_body_bytes

    def answer(body: bytearray) -> Response:
        found = explain(predictor, spec.name, body, most)
        return Response(found.model_dump_json(), media_type="application/json")

    async def explain_one(request: Request) -> Response:
        body = await read_json(
            request, max_bytes=max_bytes, max_list_bytes=max_bytes, timeout=settings.serving_body_timeout
        )
        return await get_running_loop().run_in_executor(threads, answer, body)

    what = "the probability of the predicted class" if spec.task == "classification" else "the prediction"
    router.add_api_route(
        EXPLAIN + spec.name,
        explain_one,
        methods=["POST"],
        tags=["explain"],
        operation_id=f"explain_{spec.name}",
        summary=f"Explain a prediction of {spec.name}",
        description=_WORDS.format(what=what, rows=spec.background, most=most),
        response_model=_ANSWERS[spec.task],
        responses={
            200: {"description": "What each feature contributes, the largest first."},
            **documented(400, 408, 409, 413, 415, 422, 500, 503),
        },
        openapi_extra=schemas.body_of_one(spec.name),
    )
