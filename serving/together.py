"""Rows that arrive at once are predicted at once: a model answers sixteen rows in little more time than one.

Nobody waits for company. Requests whose bodies were read in the same turn of the event loop are answered in
its next turn, in one call per version; what a call costs beside the rows is then paid once.
"""

import asyncio

import numpy as np

from serving.answering import Outputs, outputs
from serving.errors import PredictionFailedError
from serving.predictor import Asked


class Together:
    """Collects what is asked in one turn of the event loop. For one event loop, so that it needs no lock."""

    def __init__(self) -> None:
        self._asked: list[tuple[Asked, asyncio.Future[Outputs]]] = []

    async def outputs(self, asked: Asked) -> Outputs:
        """Return what the version says to the rows; raises `PredictionFailedError`."""
        loop = asyncio.get_running_loop()
        if not self._asked:
            loop.call_soon(self._flush)
        mine: asyncio.Future[Outputs] = loop.create_future()
        self._asked.append((asked, mine))
        return await mine

    def _flush(self) -> None:
        asked, self._asked = self._asked, []
        groups: dict[int, list[tuple[Asked, asyncio.Future[Outputs]]]] = {}
        for one in asked:
            groups.setdefault(id(one[0].served), []).append(one)
        for group in groups.values():
            _answer(group)


def _answer(group: list[tuple[Asked, "asyncio.Future[Outputs]"]]) -> None:
    """Answer requests that one version answers."""
    if len(group) > 1:
        try:
            found = _outputs(group[0][0], [asked for asked, _ in group])
        except PredictionFailedError:
            pass  # it is logged; one by one, so that only those fail that cannot be answered
        else:
            first = 0
            for asked, waiting in group:
                last = first + len(asked.rows)
                if not waiting.done():  # who has left is cancelled
                    waiting.set_result(found.part(first, last))
                first = last
            return
    for asked, waiting in group:
        if waiting.done():
            continue
        try:
            waiting.set_result(_outputs(asked, [asked]))
        except PredictionFailedError as error:
            waiting.set_exception(error)


def _outputs(one: Asked, group: list[Asked]) -> Outputs:
    rows = one.rows if len(group) == 1 else np.concatenate([asked.rows for asked in group])
    return outputs(one.name, one.served.version, one.served.model, rows)
