"""Reads a request's body within bounds: declared as JSON, so long at most, in so many seconds."""

import asyncio
from email.message import Message

from fastapi import Request
from starlette.requests import ClientDisconnect

from serving.http_errors import BodyError


async def read_json(request: Request, *, max_bytes: int, timeout: float) -> bytearray:
    """Return the body of a request that says it is JSON; whether it is, the parser finds out.

    Raises `BodyError`: 415 when it is declared as something else, 413 beyond `max_bytes`, 408 when it is
    not complete after `timeout` seconds.
    """
    _require_json(request)
    # The declared length refuses early; the count below does not believe it.
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > max_bytes:
        raise _too_large(max_bytes)
    body = bytearray()
    try:
        async with asyncio.timeout(timeout):
            async for chunk in request.stream():
                body += chunk
                if len(body) > max_bytes:
                    raise _too_large(max_bytes)
    except TimeoutError:
        message = f"The body did not arrive within {timeout:g} seconds; send it at once."
        raise BodyError(408, "request_timeout", message) from None
    except ClientDisconnect:
        raise BodyError(400, "incomplete_body", "The connection closed before the body was whole.") from None
    return body


def _require_json(request: Request) -> None:
    # Also a guard: a web page elsewhere cannot send this type across origins without asking first.
    header = Message()
    header["content-type"] = request.headers.get("content-type", "")
    kind = header.get_content_type()
    if kind != "application/json" or header.get_content_charset("utf-8") not in ("utf-8", "us-ascii"):
        raise BodyError(
            415,
            "unsupported_media_type",
            "Send the body as JSON with the header Content-Type: application/json.",
        )


def _too_large(max_bytes: int) -> BodyError:
    return BodyError(
        413, "body_too_large", f"The body is larger than {max_bytes} bytes, the largest that is accepted."
    )
