"""POST /api/explain/MODEL: hands over to serving/inference/explain.py, in a thread."""

import os
from asyncio import get_running_loop
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from urllib.parse import quote

from fastapi import APIRouter, Request, Response

from serving import limits
from serving.api.body import read_json
from serving.api.openapi import Describe, RequestSchemas
from serving.api.routes import described
from serving.errors import UnknownModelNameError
from serving.http_errors import EXPLAIN, documented
from serving.inference.explain import explain
from serving.inference.predictor import Predictor, Served
from serving.inference.served_model import ModelExecutors
from serving.models.process_model import ProcessModel
from serving.tasks.base import Contract
from serving.tasks.registry import TASKS

# An explanation is thousands of predictions. It takes turns of its own, so that a flood of them takes none of
# the predictions' turns: as many at work as leave a processor free, and some whose body is being read.
_THREADS = max(1, min(3, (os.cpu_count() or 1) - 1))
EXPLANATIONS = _THREADS + 6
_WORDS = """\
How much each feature of one object moves {what} away from the base value, its mean over the {rows} \
training rows that travel in the model's file (the background).

The contributions are Shapley values: the base value and all of them add up to the explained number. At most \
about {most} rows are evaluated; where that is too few to count every coalition of features, orders are \
sampled, always the same ones, and each contribution carries its standard error.

They say what the model does with its input, not what causes the target; correlated features are varied \
independently of each other.
"""


def explain_routes(predictor: Predictor) -> APIRouter:
    """Return the route; its description is `describe_explain`'s."""
    router = APIRouter()
    threads, lanes = ThreadPoolExecutor(_THREADS, thread_name_prefix="explain"), ModelExecutors()
    max_bytes = limits.MAX_BODY_BYTES

    def answer(name: str, body: bytearray) -> Response:
        explanation = explain(predictor, name, body, limits.EXPLAIN_ROWS)
        return Response(explanation.model_dump_json(), media_type="application/json")

    @router.post(EXPLAIN + "{model:path}", include_in_schema=False)
    async def explain_one(model: str, request: Request) -> Response:
        if model not in predictor.states:
            raise UnknownModelNameError.of(model, predictor.states)
        body = await read_json(request.scope, request.receive, max_bytes=max_bytes, max_list_bytes=max_bytes)
        state = predictor.states[model]
        if isinstance(state, Served) and isinstance(state.model, ProcessModel):  # it may hang
            return await lanes.run(model, answer, model, body, deadline=state.model.deadline)
        return await get_running_loop().run_in_executor(threads, copy_context().run, answer, model, body)

    return router


def describe_explain(predictor: Predictor) -> Describe:
    """Return what describes the explanation of a model's predictions for the OpenAPI page."""

    def describe(router: APIRouter, contract: Contract, schemas: RequestSchemas) -> None:
        task = TASKS[contract.task]
        if task.explanation is None:
            return  # a request for it all the same is answered with the reason
        spec = predictor.specs.get(contract.name)
        router.add_api_route(
            EXPLAIN + quote(contract.name, safe=""),
            described,
            methods=["POST"],
            tags=["explain"],
            operation_id=f"explain_{contract.name}",
            summary=f"Explain a prediction of {contract.name}",
            description=_WORDS.format(
                what=task.explains,
                rows=spec.background if spec else "",
                most=limits.EXPLAIN_ROWS,
            ),
            response_model=task.explanation,
            responses={
                200: {"description": "What each feature contributes, the largest first."},
                **documented(400, 404, 408, 409, 413, 415, 422, 500, 503, 504),
            },
            openapi_extra=schemas.body_of_one(contract.name),
        )

    return describe
