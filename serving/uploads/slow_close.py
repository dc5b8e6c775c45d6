"""Answers a sender who is still sending, so that the answer arrives.

To close a connection with bytes unread is to reset it, and many clients then report that, not the answer.
"""

import asyncio

from fastapi.responses import Response
from starlette.types import Message, Receive, Scope, Send

# After the answer a sender has so long to stop; what comes meanwhile is thrown away, and slowly: predictions
# have the same event loop.
_SECONDS, _PAUSE = 2.0, 0.01


class LingeringResponse(Response):
    """An answer after which what is left of the request's body is taken for a while, and dropped."""

    def __init__(self, answer: Response) -> None:
        super().__init__(status_code=answer.status_code)
        self._answer = answer
        # What is left then is not read, so the connection cannot be used again.
        answer.headers["Connection"] = "close"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer whole, and end it only when its receiver had the time to read it."""

        async def unfinished(message: Message) -> None:
            await send({**message, "more_body": True} if message["type"] == "http.response.body" else message)

        await self._answer(scope, receive, unfinished)
        # Who waits for leave to send has sent nothing, and must not be given it now.
        if not any(name == b"expect" for name, _ in scope["headers"]):
            await _drop_rest(receive)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _drop_rest(receive: Receive) -> None:
    try:
        async with asyncio.timeout(_SECONDS):
            while (await receive()).get("more_body"):
                await asyncio.sleep(_PAUSE)
    except TimeoutError:
        return
