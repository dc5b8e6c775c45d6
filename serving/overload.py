"""Keeps the predictor answering under a flood: so many requests at once, so many waiting, no more."""

import asyncio
import math
from collections import deque
from collections.abc import Callable
from typing import Literal

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.http_errors import PREDICT, respond

Reason = Literal["queue_full", "queue_timeout"]


class Turns:
    """Hands out turns in the order of arrival. For one event loop, so that it needs no lock.

    A turn that is given back goes straight to whoever waits longest; nobody new can come in between.
    """

    def __init__(self, at_once: int, may_wait: int, timeout: float) -> None:
        """Take at most `at_once` turns out, and let `may_wait` callers wait `timeout` seconds for one."""
        self._at_once, self._may_wait, self._timeout = at_once, may_wait, timeout
        self._waiting: deque[asyncio.Future[bool]] = deque()
        self._taken = 0

    @property
    def taken(self) -> int:
        """How many turns are out now."""
        return self._taken

    @property
    def waiting(self) -> int:
        """How many callers wait now."""
        return len(self._waiting)

    def take_free(self) -> bool:
        """Take a turn if one is free: the way of nearly every request, which costs a comparison."""
        if self._taken < self._at_once:
            self._taken += 1
            return True
        return False

    async def wait(self) -> Reason | None:
        """Wait for a turn; return None with one, or why there is none. For when `take_free` found none."""
        if len(self._waiting) >= self._may_wait:
            return "queue_full"
        loop = asyncio.get_running_loop()
        mine: asyncio.Future[bool] = loop.create_future()
        self._waiting.append(mine)
        late = loop.call_later(self._timeout, self._give_up, mine)
        try:
            return None if await mine else "queue_timeout"
        except asyncio.CancelledError:
            # The turn may have come in the same breath; then it is someone else's now.
            if mine in self._waiting:
                self._waiting.remove(mine)
            elif not mine.cancelled() and mine.result():
                self.give_back()
            raise
        finally:
            late.cancel()

    def give_back(self) -> None:
        """Give a turn back."""
        while self._waiting:
            longest = self._waiting.popleft()
            if not longest.done():
                longest.set_result(True)
                return
        self._taken -= 1

    def _give_up(self, waiter: asyncio.Future[bool]) -> None:
        if not waiter.done():
            self._waiting.remove(waiter)  # the first: all wait equally long
            waiter.set_result(False)


class LimitConcurrency:
    """Plain ASGI: requests under one prefix (/api/predict) take turns, everything else passes.

    A request keeps its turn until its answer is made, so reading a slow caller's body counts; sending does
    not, or a few callers who never read could keep every turn. A caller who leaves keeps a place in the queue
    until its turn or its timeout, and then costs nothing more.
    """

    def __init__(
        self,
        app: ASGIApp,
        turns: Turns,
        timeout: float,
        rejected: Callable[[Reason], None],
        prefix: str = PREDICT,
    ) -> None:
        """Refuse with the advice to come back after `timeout` seconds, and tell `rejected` why."""
        self._app, self._turns, self._rejected, self._prefix = app, turns, rejected, prefix
        self._retry_after = str(max(1, math.ceil(timeout)))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on when its turn comes, or answer 503."""
        if scope["type"] != "http" or not scope["path"].startswith(self._prefix):
            await self._app(scope, receive, send)
            return
        if not self._turns.take_free() and (reason := await self._turns.wait()):
            self._rejected(reason)
            await self._refuse(scope, receive, send)
            return
        held = True

        async def sending(message: Message) -> None:
            nonlocal held
            if held:
                held = False
                self._turns.give_back()
            await send(message)

        try:
            await self._app(scope, receive, sending)
        finally:
            if held:
                self._turns.give_back()

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        message = (
            f"The predictor has more requests than it can take. Send this one again after "
            f"{self._retry_after} s, and fewer at once; if that goes on, run another predictor beside it."
        )
        answer = respond(503, "overloaded", message, headers={"Retry-After": self._retry_after})
        await answer(scope, receive, send)
