"""Rows that arrive at once are predicted at once: a model's call costs more than a row in it.

Nobody waits for company. Requests whose bodies were read in the same turn of the event loop are answered in
its next turn, in one call per version; what a call costs beside the rows is then paid once.
"""

import asyncio
import logging
from contextvars import Context, copy_context
from dataclasses import dataclass

import numpy as np

from serving.inference.predictor import Asked
from serving.inference.response import Outputs, outputs

_log = logging.getLogger("greenroom.serving")


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A request that waits for its answer; what is logged about it bears its id by its context."""

    asked: Asked
    answer: "asyncio.Future[Outputs]"
    context: Context


class Together:
    """Collects what is asked in one turn of the event loop. For one event loop, so that it needs no lock."""

    def __init__(self) -> None:
        self._asked: list[_Waiting] = []

    async def outputs(self, asked: Asked) -> Outputs:
        """Return what the version says to the rows; raises `PredictionFailedError`."""
        loop = asyncio.get_running_loop()
        if not self._asked:
            loop.call_soon(self._flush, context=Context())  # of no request in particular
        mine: asyncio.Future[Outputs] = loop.create_future()
        self._asked.append(_Waiting(asked, mine, copy_context()))
        return await mine

    def _flush(self) -> None:
        asked, self._asked = self._asked, []
        groups: dict[int, list[_Waiting]] = {}
        for one in asked:
            groups.setdefault(id(one.asked.served), []).append(one)
        for group in groups.values():
            _answer(group)


def _answer(group: list[_Waiting]) -> None:
    """Answer requests that one version answers."""
    if len(group) > 1:
        try:
            found = _outputs(group[0].asked, [one.asked for one in group])
        except Exception:  # noqa: BLE001 - one by one, so that only those fail that cannot be answered
            _log.debug("%d requests of one moment are answered one by one", len(group))
        else:
            first = 0
            for one in group:
                last = first + len(one.asked.rows)
                if not one.answer.done():  # who has left is cancelled
                    one.answer.set_result(found.part(first, last))
                first = last
            return
    for one in group:
        if one.answer.done():
            continue
        try:
            one.answer.set_result(one.context.run(_outputs, one.asked, [one.asked]))
        except Exception as error:  # noqa: BLE001 - whoever waits is told, whatever it is
            one.answer.set_exception(error)


def _outputs(one: Asked, group: list[Asked]) -> Outputs:
    rows = one.rows if len(group) == 1 else np.concatenate([asked.rows for asked in group])
    return outputs(one.name, one.served.version, one.served.model, rows)
