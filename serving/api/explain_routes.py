"""POST /api/explain/MODEL: hands over to serving/inference/explain.py, in a thread."""

import os
from asyncio import get_running_loop
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, FastAPI, Request, Response

from serving.api.body import read_json
from serving.api.openapi import Describe, OpenApi, RequestSchemas
from serving.api.routes import described
from serving.errors import UnknownModelNameError
from serving.http_errors import EXPLAIN, documented
from serving.inference.contracts import Contract
from serving.inference.explain import explain
from serving.inference.explanation import ClassExplanation, NumberExplanation
from serving.inference.predictor import Predictor
from serving.middleware.concurrency import LimitConcurrency, Turns
from serving.middleware.metrics import Metrics
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
    app: FastAPI, predictor: Predictor, settings: ServingSettings, metrics: Metrics, docs: OpenApi
) -> None:
    """Add the route to `app`, and what limits it; nothing if GREENROOM_SERVING_EXPLAIN is off."""
    if not settings.serving_explain:
        return
    router = APIRouter()
    threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="explain")
    most, max_bytes = settings.serving_explain_rows, settings.serving_max_body_bytes

    def answer(name: str, body: bytearray) -> Response:
        found = explain(predictor, name, body, most)
        return Response(found.model_dump_json(), media_type="application/json")

    @router.post(EXPLAIN + "{model:path}", include_in_schema=False)
    async def explain_one(model: str, request: Request) -> Response:
        if model not in predictor.states:
            raise UnknownModelNameError.of(model, predictor.states)
        timeout = settings.serving_body_timeout
        body = await read_json(
            request.scope, request.receive, max_bytes=max_bytes, max_list_bytes=max_bytes, timeout=timeout
        )
        return await get_running_loop().run_in_executor(threads, copy_context().run, answer, model, body)

    app.include_router(router)
    docs.describe.append(_describe_explain(predictor, most))
    app.add_middleware(
        LimitConcurrency,
        turns=Turns(_AT_ONCE, settings.serving_max_queue, settings.serving_queue_timeout),
        reading=Turns(_AT_ONCE, settings.serving_max_queue, settings.serving_queue_timeout),
        small=max_bytes,
        timeout=settings.serving_queue_timeout,
        rejected=metrics.rejected,
        prefix=EXPLAIN,
    )


def _describe_explain(predictor: Predictor, most: int) -> Describe:
    def describe(router: APIRouter, contract: Contract, schemas: RequestSchemas) -> None:
        if contract.task not in _ANSWERS:
            return  # asked all the same, it says why not
        spec = predictor.specs.get(contract.name)
        what = "the probability of the predicted class"
        router.add_api_route(
            EXPLAIN + quote(contract.name, safe=""),
            described,
            methods=["POST"],
            tags=["explain"],
            operation_id=f"explain_{contract.name}",
            summary=f"Explain a prediction of {contract.name}",
            description=_WORDS.format(
                what=what if contract.task == "classification" else "the prediction",
                rows=spec.background if spec else "",
                most=most,
            ),
            response_model=_ANSWERS[contract.task],
            responses={
                200: {"description": "What each feature contributes, the largest first."},
                **documented(400, 404, 408, 409, 413, 415, 422, 500, 503),
            },
            openapi_extra=schemas.body_of_one(contract.name),
        )

    return describe
