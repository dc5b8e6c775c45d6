"""Adaptive batching: rows that arrive at once are predicted at once: a call costs more than a row in it.

No request waits for others. Requests whose bodies were read in the same turn of the event loop are answered
in its next turn, in one call per version; what a call costs beside the rows is then paid once.
"""

import asyncio
import logging
from contextvars import Context, copy_context
from dataclasses import dataclass

import numpy as np

from serving.inference.predictor import ParsedRequest
from serving.inference.response import outputs
from serving.tasks.base import ModelOutputs

_log = logging.getLogger("greenroom.serving")


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A request that waits for its outputs; what is logged about it has its id from its context."""

    request: ParsedRequest
    outputs: "asyncio.Future[ModelOutputs]"
    context: Context


class MicroBatcher:
    """Collects the requests of one turn of the event loop. For one event loop, so that it needs no lock."""

    def __init__(self) -> None:
        self._waiting: list[_Waiting] = []

    async def outputs(self, request: ParsedRequest) -> ModelOutputs:
        """Return the version's outputs for the rows; raises `PredictionFailedError`."""
        loop = asyncio.get_running_loop()
        if not self._waiting:
            loop.call_soon(self._flush, context=Context())  # of no request in particular
        future: asyncio.Future[ModelOutputs] = loop.create_future()
        self._waiting.append(_Waiting(request, future, copy_context()))
        return await future

    def _flush(self) -> None:
        batch, self._waiting = self._waiting, []
        groups: dict[int, list[_Waiting]] = {}
        for waiting in batch:
            groups.setdefault(id(waiting.request.served), []).append(waiting)
        for group in groups.values():
            _answer(group)


def _answer(group: list[_Waiting]) -> None:
    """Answer requests that one version answers."""
    if len(group) > 1:
        try:
            batch = _outputs([waiting.request for waiting in group])
        except Exception:  # noqa: BLE001 - one by one, so that only those fail that cannot be answered
            _log.debug("%d requests of one moment are answered one by one", len(group))
        else:
            first = 0
            for waiting in group:
                last = first + len(waiting.request.rows)
                if not waiting.outputs.done():  # the future of a caller who has left is cancelled
                    waiting.outputs.set_result(batch.part(first, last))
                first = last
            return
    for waiting in group:
        if waiting.outputs.done():
            continue
        try:
            waiting.outputs.set_result(waiting.context.run(_outputs, [waiting.request]))
        except Exception as error:  # noqa: BLE001 - the waiting request gets it, of whatever kind it is
            waiting.outputs.set_exception(error)


def _outputs(group: list[ParsedRequest]) -> ModelOutputs:
    first = group[0]
    rows = first.rows if len(group) == 1 else np.concatenate([request.rows for request in group])
    return outputs(first.name, first.served.version, first.served.model, rows)
