"""Adaptive batching: rows that arrive at once are predicted at once: a call costs more than a row in it.

No request waits for others. Requests whose bodies were read in the same turn of the event loop are answered
in its next turn, in one call per version; what a call costs beside the rows is then paid once. A call has at
most so many rows as were measured for the event loop (serving/limits.py), or those of one request.
"""

import asyncio
import logging
from contextvars import Context, copy_context
from typing import NamedTuple

from serving import limits
from serving.inference.predictor import ParsedRequest, Predictor
from serving.inference.response import PredictionResponse

_log = logging.getLogger("greenroom.serving")
# Rows of a request that comes here, at the most.
MAX_SHORT_ROWS = 16


class _Waiting(NamedTuple):
    """A request that waits for its answer; its context has its id, for log lines about it."""

    request: ParsedRequest
    answer: "asyncio.Future[PredictionResponse]"
    context: Context


class MicroBatcher:
    """Collects the requests of one turn of the event loop. For one event loop, so that it needs no lock."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self._waiting: list[_Waiting] = []

    async def answer(self, request: ParsedRequest) -> PredictionResponse:
        """Return the version's answer to a request; raises `PredictionFailedError`."""
        loop = asyncio.get_running_loop()
        if not self._waiting:
            loop.call_soon(self._flush, context=Context())  # of no request in particular
        future: asyncio.Future[PredictionResponse] = loop.create_future()
        self._waiting.append(_Waiting(request, future, copy_context()))
        return await future

    def _flush(self) -> None:
        batch, self._waiting = self._waiting, []
        groups: dict[int, list[_Waiting]] = {}
        for waiting in batch:
            if not waiting.answer.done():  # the future of a caller who has left is cancelled
                groups.setdefault(id(waiting.request.served), []).append(waiting)
        for group in groups.values():
            self._put_off(group)
            if len(group) == 1 or not self._answered_at_once(group):
                for waiting in group:
                    self._answer_alone(waiting)

    def _put_off(self, group: list[_Waiting]) -> None:
        """Leave the requests for the loop's next turn that are too many for one call."""
        if len(group) * MAX_SHORT_ROWS <= limits.LOOP_ROWS:
            return
        rows = 0
        for number, waiting in enumerate(group):
            rows += len(waiting.request.rows)
            if rows > limits.LOOP_ROWS and number:
                if not self._waiting:
                    asyncio.get_running_loop().call_soon(self._flush, context=Context())
                self._waiting += group[number:]
                del group[number:]
                return

    def _answered_at_once(self, group: list[_Waiting]) -> bool:
        """Answer requests for one version by one call; return False if that fails."""
        try:
            responses = self._predictor.answers([waiting.request for waiting in group])
        except Exception:  # noqa: BLE001 - one by one, so that only those fail that cannot be answered
            _log.debug("%d requests of one moment are answered one by one", len(group))
            return False
        for waiting, response in zip(group, responses, strict=True):
            waiting.answer.set_result(response)
        return True

    def _answer_alone(self, waiting: _Waiting) -> None:
        try:
            waiting.answer.set_result(waiting.context.run(self._predictor.answers, [waiting.request])[0])
        except Exception as error:  # noqa: BLE001 - the waiting request gets it
            waiting.answer.set_exception(error)
