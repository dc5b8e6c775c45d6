"""Keeps the predictor answering under a flood: a bound on requests at work and on requests that wait."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving import limits
from serving.errors import OverloadedError
from serving.http_errors import answer_to
from serving.settings import ServingSettings

Reason = Literal["queue_full", "queue_timeout"]


class ConcurrencyLimiter:
    """Hands out turns in the order of arrival. For one event loop, so that it needs no lock.

    A turn that is given back goes straight to the caller who waits longest; no new one comes in between.
    """

    def __init__(self, at_once: int, may_wait: int, timeout: float) -> None:
        """Take at most `at_once` turns out, and let `may_wait` callers wait `timeout` seconds for one."""
        self._at_once, self._may_wait, self.timeout = at_once, may_wait, timeout
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
        turn: asyncio.Future[bool] = loop.create_future()
        self._waiting.append(turn)
        timer = loop.call_later(self.timeout, self._give_up, turn)
        try:
            return None if await turn else "queue_timeout"
        except asyncio.CancelledError:
            # The turn may have come at the same moment; then it goes to the next caller.
            if turn in self._waiting:
                self._waiting.remove(turn)
            elif not turn.cancelled() and turn.result():
                self.give_back()
            raise
        finally:
            timer.cancel()

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


@dataclass(frozen=True)
class Limits:
    """The bounds of one kind of requests: those whose path begins with one of `paths`.

    `working` bounds the requests that are worked on, `reading` those whose body, longer than `small` bytes,
    is read.
    """

    paths: tuple[str, ...]
    working: ConcurrencyLimiter
    reading: ConcurrencyLimiter
    small: int

    @classmethod
    def of(cls, settings: ServingSettings, at_once: int, *paths: str) -> "Limits":
        """Return the bounds for `paths`, `at_once` requests each; the rest stands in the settings."""
        working, reading = (
            ConcurrencyLimiter(at_once, settings.serving_max_queue, limits.QUEUE_TIMEOUT) for _ in range(2)
        )
        return cls(paths, working, reading, settings.serving_max_body_bytes)

    def taken(self) -> int:
        """Return how many requests are under way."""
        return self.working.taken + self.reading.taken

    def waiting(self) -> int:
        """Return how many requests wait."""
        return self.working.waiting + self.reading.waiting


class LimitConcurrency:
    """Plain ASGI: requests of one kind take turns, everything else passes.

    A request takes its turn when its body is whole and gives it back when its answer is made, so that a slow
    sender or reader keeps no other waiting. A body is read without a turn up to `small` bytes; a larger one
    takes a turn of another kind for being read, so that memory stays bounded, and only large ones wait for
    each other. A caller who leaves keeps a place in the queue until its turn or its timeout, and then costs
    nothing more.
    """

    def __init__(self, app: ASGIApp, *, bounds: Limits, rejected: Callable[[Reason], None]) -> None:
        """Refuse what is beyond `bounds`, and call `rejected` with the reason."""
        self._app, self._bounds, self._rejected = app, bounds, rejected

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on when its turn comes, or answer 503."""
        bounds = self._bounds
        if scope["type"] != "http" or not scope["path"].startswith(bounds.paths):
            await self._app(scope, receive, send)
            return
        working, received = bounds.working, 0
        held: ConcurrencyLimiter | None = None

        async def limited_receive() -> Message:
            nonlocal held, received
            message = await receive()
            if message["type"] != "http.request" or held is working:
                return message
            received += len(message.get("body", b""))
            if not message.get("more_body", False):
                await self._take(working)
                if held:
                    held.give_back()
                held = working
            elif held is None and received > bounds.small:
                await self._take(bounds.reading)
                held = bounds.reading
            return message

        async def limited_send(message: Message) -> None:
            nonlocal held
            if held:
                held.give_back()
                held = None
            await send(message)

        try:
            await self._app(scope, limited_receive, limited_send)
        except OverloadedError as error:  # FastAPI's handlers answer it as well
            await answer_to(error)(scope, receive, send)
        finally:
            if held:
                held.give_back()

    async def _take(self, limiter: ConcurrencyLimiter) -> None:
        if not limiter.take_free() and (reason := await limiter.wait()):
            self._rejected(reason)
            raise OverloadedError.of(limiter.timeout)
