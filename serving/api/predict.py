"""POST /api/predict/MODEL, the one path that must be fast, and the paths of tasks, such as /api/cluster.

Plain ASGI, in front of FastAPI, whose layers cost more than a prediction. FastAPI describes these paths
(serving/api/routes.py) and answers the rest of their requests: unknown models, other methods.
"""

import os
from asyncio import get_running_loop
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from urllib.parse import parse_qs

from starlette.types import ASGIApp, Receive, Scope, Send

from registry.model_format.onnx_model import OnnxModel
from serving import limits
from serving.api.body import read_json
from serving.errors import PredictorError
from serving.http_errors import PREDICT, answer_to
from serving.inference.batching import MAX_SHORT_ROWS, MicroBatcher
from serving.inference.predictor import Predictor, Read, Served
from serving.inference.response import PredictionResponse
from serving.inference.served_model import ModelExecutors, ServedModel
from serving.middleware.metrics import note_answer
from serving.models.process_model import ProcessModel
from serving.settings import ServingSettings
from serving.tasks.registry import task_paths

# A body of up to so many bytes, and `MAX_SHORT_ROWS`, is answered on the event loop: a track takes 250 bytes.
_SHORT_BYTES = 4096


class PredictMiddleware:
    """Answers requests for a prediction by a model that is known, and passes all others on."""

    def __init__(self, app: ASGIApp, predictor: Predictor, settings: ServingSettings) -> None:
        self._app, self._predictor = app, predictor
        self._most_rows, self._max_bytes = settings.serving_max_rows, limits.MAX_BODY_BYTES
        self._batcher, self._executors, self._tasks = MicroBatcher(predictor), ModelExecutors(), task_paths()
        # One processor is left to the event loop.
        threads = max(1, min(5, os.cpu_count() or 1) - 1)
        self._lists = ThreadPoolExecutor(threads, thread_name_prefix="list")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass the request on."""
        path = scope["path"] if scope["type"] == "http" and scope["method"] == "POST" else ""
        if path.startswith(PREDICT) and (name := path[len(PREDICT) :]) in self._predictor.states:
            task = None
        elif (task := self._tasks.get(path)) is None:
            await self._app(scope, receive, send)
            return
        read = self._predictor.read
        try:
            if task is not None:
                name = self._predictor.doing(task.name, _query_model(scope["query_string"]))
                scope.setdefault("state", {})["model"] = name
                read = self._predictor.read_question
            response = await self._respond(name, scope, receive, read)
        except PredictorError as error:
            await answer_to(error)(scope, receive, send)
            return
        note_answer(scope, response)
        body = response.json()
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _respond(self, name: str, scope: Scope, receive: Receive, read: Read) -> PredictionResponse:
        predictor, most_rows = self._predictor, self._most_rows
        max_list_bytes = max(self._max_bytes, most_rows * predictor.object_bytes(name))
        body = await read_json(scope, receive, max_bytes=self._max_bytes, max_list_bytes=max_list_bytes)
        # On the event loop one row takes less than handing it to a thread and back. What is long goes to a
        # thread, so that single rows are answered meanwhile.
        if len(body) <= _SHORT_BYTES and body.count(b"{") <= MAX_SHORT_ROWS:
            request = read(name, body, most_rows)
            if not isinstance(model := request.served.model, OnnxModel):
                deadline = _deadline(model)
                return (await self._executors.run(name, predictor.answers, [request], deadline=deadline))[0]
            return await self._batcher.answer(request)
        state = predictor.states.get(name)
        if isinstance(state, Served) and not isinstance(state.model, OnnxModel):
            whole = (predictor.predict, name, body, most_rows, read)
            return await self._executors.run(name, *whole, deadline=_deadline(state.model))
        return await get_running_loop().run_in_executor(
            self._lists, copy_context().run, predictor.predict, name, body, most_rows, read
        )


def _deadline(model: ServedModel) -> float | None:
    return model.deadline if isinstance(model, ProcessModel) else None


def _query_model(query: bytes) -> str | None:
    """Return the model that a query names, as `model=NAME`; None if it names none."""
    return parse_qs(query.decode("latin-1")).get("model", [None])[0] if query else None
