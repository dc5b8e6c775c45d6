"""Reads a request's body within bounds: declared as JSON, so long at most, in so many seconds."""

import asyncio
import json
from collections.abc import Iterable
from email.message import Message

from fastapi import Request
from starlette.requests import ClientDisconnect

from serving.http_errors import BodyError
from serving.reading import is_list

# A number's longest text is 24 characters; around it stand quotes, a colon, a comma, and white space.
_BYTES_PER_FIELD = 40
_BYTES_PER_ROW = 32


def list_bytes(fields: Iterable[str], rows: int) -> int:
    """Return the bytes that a list of objects of numbers can need, each at its longest and indented."""
    return rows * (_BYTES_PER_ROW + sum(len(json.dumps(field)) + _BYTES_PER_FIELD for field in fields))


async def read_json(request: Request, *, max_bytes: int, max_list_bytes: int, timeout: float) -> bytearray:
    """Return the body of a request that says it is JSON; whether it is, the parser finds out.

    Raises `BodyError`: 415 when it is declared as something else, 413 beyond `max_bytes`, or
    `max_list_bytes` when it begins like a list, 408 when it is not complete after `timeout` seconds.
    """
    _require_json(request)
    # The declared length refuses early; the count below does not believe it.
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > max_list_bytes:
        raise _too_large(max_bytes, max_list_bytes)
    body = bytearray()
    try:
        async with asyncio.timeout(timeout):
            async for chunk in request.stream():
                body += chunk
                if len(body) > max_bytes and len(body) > (max_list_bytes if is_list(body) else max_bytes):
                    raise _too_large(max_bytes, max_list_bytes)
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


def _too_large(max_bytes: int, max_list_bytes: int) -> BodyError:
    return BodyError(
        413,
        "body_too_large",
        f"The body is larger than is accepted: {max_bytes} bytes for an object, {max_list_bytes} bytes for a "
        "list. Send fewer objects at once.",
    )
