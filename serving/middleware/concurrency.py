"""Keeps the predictor answering under a flood: a bound on requests at work and on requests that wait."""

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving import limits
from serving.errors import OverloadedError
from serving.http_errors import answer_to

Reason = Literal["queue_full", "queue_timeout"]
# From so many turns on, one caller has but half of them.
_SHARED = 8


class ConcurrencyLimiter:
    """Hands out turns: callers who wait take turns with each other, each one's requests in their order.

    A turn that is given back goes straight to the next who waits; no new one comes in between. Where too many
    wait, the caller with most of them loses one to another. For one event loop, so that it needs no lock.
    """

    def __init__(self, at_once: int, may_wait: int, timeout: float, of_caller: int | None = None) -> None:
        """Take at most `at_once` turns out, and let `may_wait` requests wait `timeout` seconds for one.

        One caller has at most `of_caller` turns, if that is not None.
        """
        self._at_once, self._may_wait, self.timeout = at_once, may_wait, timeout
        self._of_caller, self._held = of_caller, Counter[str]()
        # By caller; the first caller is the next. What each future gets is why there is no turn.
        self._queues: dict[str, deque[asyncio.Future[Reason | None]]] = {}
        self._taken = self._waiting = 0

    @property
    def taken(self) -> int:
        """How many turns are out now."""
        return self._taken

    @property
    def waiting(self) -> int:
        """How many callers wait now."""
        return self._waiting

    def take_free(self, caller: str = "") -> bool:
        """Take a turn if one is free: the way of nearly every request, which costs two comparisons.

        The caller matters where one may not have all turns.
        """
        if self._taken >= self._at_once:
            return False
        if self._of_caller is not None:
            if self._held[caller] >= self._of_caller:
                return False
            self._held[caller] += 1
        self._taken += 1
        return True

    async def wait(self, caller: str = "") -> Reason | None:
        """Wait for a turn; return None with one, or why there is none. For when `take_free` found none."""
        queue = self._queues.get(caller, ())
        if self._waiting >= self._may_wait and not self._displace(len(queue) + 1):
            return "queue_full"
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[Reason | None] = loop.create_future()
        self._queues.setdefault(caller, deque()).append(turn)
        self._waiting += 1
        timer = loop.call_later(self.timeout, self._end, caller, turn, "queue_timeout")
        try:
            return await turn
        except asyncio.CancelledError:
            # The turn may have come at the same moment; then it goes to the next caller.
            if not self._remove(caller, turn) and not turn.cancelled() and turn.result() is None:
                self.give_back(caller)
            raise
        finally:
            timer.cancel()

    def give_back(self, caller: str = "") -> None:
        """Give a turn back that was taken with `take_free` or `wait`, for the same caller."""
        if self._of_caller is not None:
            self._held -= Counter({caller: 1})  # and forget who has none
        while self._queues and (other := self._next()) is not None:
            queue = self._queues.pop(other)
            turn = queue.popleft()
            self._waiting -= 1
            if queue:
                self._queues[other] = queue  # behind the others
            if not turn.done():
                if self._of_caller is not None:
                    self._held[other] += 1
                turn.set_result(None)
                return
        self._taken -= 1

    def _next(self) -> str | None:
        """Return the caller who gets the next turn: the first who may have one more."""
        most = self._of_caller
        return next((name for name in self._queues if most is None or self._held[name] < most), None)

    def _displace(self, would_have: int) -> bool:
        """Take a place from the caller with most of them, if that is more than another would have with it."""
        caller = max(self._queues, key=lambda name: len(self._queues[name]), default="")
        if caller not in self._queues or len(self._queues[caller]) <= would_have:
            return False
        self._end(caller, self._queues[caller][-1], "queue_full")
        return True

    def _end(self, caller: str, turn: "asyncio.Future[Reason | None]", reason: Reason) -> None:
        if self._remove(caller, turn) and not turn.done():
            turn.set_result(reason)

    def _remove(self, caller: str, turn: "asyncio.Future[Reason | None]") -> bool:
        queue = self._queues.get(caller)
        if queue is None or turn not in queue:
            return False
        queue.remove(turn)
        self._waiting -= 1
        if not queue:
            del self._queues[caller]
        return True


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
    def of(cls, at_once: int, *paths: str) -> "Limits":
        """Return the bounds for `paths`, `at_once` requests each; the rest stands in serving/limits.py."""
        bounds = at_once, limits.MAX_QUEUE, limits.QUEUE_TIMEOUT
        # Who sends long bodies slowly leaves half of the turns to others, unless there are but a few.
        reading = ConcurrencyLimiter(*bounds, of_caller=at_once // 2 if at_once >= _SHARED else None)
        return cls(paths, ConcurrencyLimiter(*bounds), reading, limits.MAX_BODY_BYTES)

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

    def __init__(
        self,
        app: ASGIApp,
        *,
        bounds: Limits,
        rejected: Callable[[Reason], None],
        caller: Callable[[Scope], str] = lambda _: "",
    ) -> None:
        """Refuse what is beyond `bounds`, and call `rejected` with the reason; `caller` names who asks."""
        self._app, self._bounds, self._rejected, self._caller = app, bounds, rejected, caller

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on when its turn comes, or answer 503."""
        bounds = self._bounds
        if scope["type"] != "http" or not scope["path"].startswith(bounds.paths):
            await self._app(scope, receive, send)
            return
        working, received = bounds.working, 0
        held: ConcurrencyLimiter | None = None
        caller = ""  # found out only where somebody has to wait, or for a long body

        async def limited_receive() -> Message:
            nonlocal held, received, caller
            message = await receive()
            if message["type"] != "http.request" or held is working:
                return message
            received += len(message.get("body", b""))
            if not message.get("more_body", False):
                if not working.take_free():
                    await self._wait(working, self._caller(scope))
                if held:
                    held.give_back(caller)
                held = working
            elif held is None and received > bounds.small:
                caller = self._caller(scope)
                if not bounds.reading.take_free(caller):
                    await self._wait(bounds.reading, caller)
                held = bounds.reading
            return message

        async def limited_send(message: Message) -> None:
            nonlocal held
            if held:
                held.give_back(caller)
                held = None
            await send(message)

        try:
            await self._app(scope, limited_receive, limited_send)
        except OverloadedError as error:  # FastAPI's handlers answer it as well
            await answer_to(error)(scope, receive, send)
        finally:
            if held:
                held.give_back(caller)

    async def _wait(self, limiter: ConcurrencyLimiter, caller: str) -> None:
        if reason := await limiter.wait(caller):
            self._rejected(reason)
            raise OverloadedError.of(limiter.timeout)
