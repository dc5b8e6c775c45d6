"""Keeps the predictor answering under a flood: so many requests at once, so many waiting, no more."""

import asyncio
import math
from collections import deque
from collections.abc import Callable
from typing import Literal

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.http_errors import PREDICTIONS, respond

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


class _RefusedError(Exception):
    """There is no turn for a request; raised through the app."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


class LimitConcurrency:
    """Plain ASGI: requests under some prefixes (predictions) take turns, everything else passes.

    A request takes its turn when its body is whole and gives it back when its answer is made: whoever sends
    or reads slowly keeps nobody waiting. A body is read without a turn up to `small` bytes; a larger one
    takes a turn of another kind for being read, so that memory stays bounded, and only large ones wait for
    each other. A caller who leaves keeps a place in the queue until its turn or its timeout, and then costs
    nothing more.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        turns: Turns,
        reading: Turns,
        small: int,
        timeout: float,
        rejected: Callable[[Reason], None],
        prefix: str | tuple[str, ...] = PREDICTIONS,
    ) -> None:
        """Refuse with the advice to come back after `timeout` seconds, and tell `rejected` why."""
        self._app, self._rejected, self._prefix = app, rejected, prefix
        self._turns, self._reading, self._small = turns, reading, small
        self._retry_after = str(max(1, math.ceil(timeout)))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on when its turn comes, or answer 503."""
        if scope["type"] != "http" or not scope["path"].startswith(self._prefix):
            await self._app(scope, receive, send)
            return
        held: Turns | None = None
        received = 0

        async def reading() -> Message:
            nonlocal held, received
            message = await receive()
            if message["type"] != "http.request" or held is self._turns:
                return message
            received += len(message.get("body", b""))
            if not message.get("more_body", False):
                await self._take(self._turns)
                if held:
                    held.give_back()
                held = self._turns
            elif held is None and received > self._small:
                await self._take(self._reading)
                held = self._reading
            return message

        async def sending(message: Message) -> None:
            nonlocal held
            if held:
                held.give_back()
                held = None
            await send(message)

        try:
            await self._app(scope, reading, sending)
        except _RefusedError as refused:
            self._rejected(refused.reason)
            await self._refuse()(scope, receive, send)
        finally:
            if held:
                held.give_back()

    @staticmethod
    async def _take(turns: Turns) -> None:
        if not turns.take_free() and (reason := await turns.wait()):
            raise _RefusedError(reason)

    def _refuse(self) -> Response:
        message = (
            f"The predictor has more requests than it can take. Send this one again after "
            f"{self._retry_after} s, and fewer at once; if that goes on, run another predictor beside it."
        )
        return respond(503, "overloaded", message, headers={"Retry-After": self._retry_after})
