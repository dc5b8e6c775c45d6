"""POST /api/predict/MODEL, the one path that must be fast; and its kin, /api/cluster and /api/similar.

Plain ASGI, in front of FastAPI's router, which costs twice as much as a prediction. FastAPI describes it
(serving/api/routes.py) and answers what else is asked there: unknown models, other methods.
"""

import os
from asyncio import get_running_loop
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from urllib.parse import parse_qs

from starlette.types import ASGIApp, Receive, Scope, Send

from registry.model_format.onnx_model import OnnxModel
from serving.api.body import read_json
from serving.errors import PredictorError
from serving.http_errors import PATHS, PREDICT, answer_to
from serving.inference.batching import Together
from serving.inference.predictor import Predictor, Served
from serving.inference.response import Answer
from serving.inference.served_model import Lanes
from serving.middleware.metrics import note_answer
from serving.settings import ServingSettings

# Up to so many bytes and objects a body is answered on the event loop: a track takes about 250 bytes.
_SHORT_BYTES, _SHORT_ROWS = 4096, 16
_TASKS = {path: task for task, path in PATHS.items()}


class Predicting:
    """Answers requests for a prediction by a model that is known, and passes all others on."""

    def __init__(self, app: ASGIApp, predictor: Predictor, settings: ServingSettings) -> None:
        self._app, self._predictor, self._settings = app, predictor, settings
        self._together, self._lanes = Together(), Lanes()
        # One processor is left to the event loop.
        threads = max(1, min(5, os.cpu_count() or 1) - 1)
        self._batches = ThreadPoolExecutor(threads, thread_name_prefix="batch")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass the request on."""
        path = scope["path"] if scope["type"] == "http" and scope["method"] == "POST" else ""
        if path.startswith(PREDICT) and (name := path[len(PREDICT) :]) in self._predictor.states:
            task = None
        elif (task := _TASKS.get(path)) is None:
            await self._app(scope, receive, send)
            return
        try:
            if task is not None:
                name = self._predictor.doing(task, _wanted(scope["query_string"]))
                scope.setdefault("state", {})["model"] = name
            found = await self._answer(name, scope, receive, question=task == "similarity")
        except PredictorError as error:
            await answer_to(error)(scope, receive, send)
            return
        note_answer(scope, found)
        body = found.json()
        length = str(len(body)).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", length)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, name: str, scope: Scope, receive: Receive, *, question: bool) -> Answer:
        predictor, settings = self._predictor, self._settings
        read = predictor.read_question if question else predictor.read
        most_rows, max_bytes = settings.serving_max_rows, settings.serving_max_body_bytes
        body = await read_json(
            scope,
            receive,
            max_bytes=max_bytes,
            max_list_bytes=max(max_bytes, most_rows * predictor.object_bytes(name)),
            timeout=settings.serving_body_timeout,
        )
        # On the event loop one row takes less than handing it to a thread and back. What is long goes to a
        # thread, so that single rows are answered meanwhile.
        if len(body) <= _SHORT_BYTES and body.count(b"{") <= _SHORT_ROWS:
            asked = read(name, body, most_rows)
            if not isinstance(asked.served.model, OnnxModel):
                return await self._lanes.run(name, predictor.answer_by_itself, asked)
            return predictor.answer(asked, await self._together.outputs(asked))
        state = predictor.states.get(name)
        if isinstance(state, Served) and not isinstance(state.model, OnnxModel):
            return await self._lanes.run(name, predictor.predict, name, body, most_rows)
        return await get_running_loop().run_in_executor(
            self._batches, copy_context().run, predictor.predict, name, body, most_rows, read
        )


def _wanted(query: bytes) -> str | None:
    """Return the model that a query names, as `model=NAME`; None if it names none."""
    return parse_qs(query.decode("latin-1")).get("model", [None])[0] if query else None
