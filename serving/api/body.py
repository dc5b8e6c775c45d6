"""Reads a request's body within bounds: declared as JSON, so long at most, in so many seconds."""

import asyncio
from email.message import Message

from starlette.types import Receive, Scope

from serving import limits
from serving.http_errors import BodyError
from serving.parsing import is_list
from serving.process.connections import WHOLE_REQUEST

# Values of the Content-Type header that were found to mean JSON: callers send the same few again and again.
_JSON: set[bytes] = set()
_MOST_REMEMBERED = 64
_INCOMPLETE = "The connection closed before the body was whole."


async def read_json(scope: Scope, receive: Receive, *, max_bytes: int, max_list_bytes: int) -> bytearray:
    """Return the body of a request that says it is JSON; whether it is, the parser finds out.

    Raises `BodyError`: 415 when it is declared as something else, 413 beyond `max_bytes`, or
    `max_list_bytes` when it begins like a list, 408 when it is not complete after `limits.BODY_TIMEOUT`.
    """
    declared = kind = b""
    for name, value in scope["headers"]:
        if name == b"content-type":
            kind = value
        elif name == b"content-length":
            declared = value
    if kind not in _JSON:
        _require_json(kind)
    # The declared length refuses early; the count below does not believe it.
    if declared.isdigit() and int(declared[:20]) > max_list_bytes:
        raise _too_large(max_bytes, max_list_bytes)
    if WHOLE_REQUEST in scope:  # there is nothing to wait for, and so no timer is needed
        return await _read(receive, max_bytes, max_list_bytes)
    try:
        async with asyncio.timeout(limits.BODY_TIMEOUT):
            return await _read(receive, max_bytes, max_list_bytes)
    except TimeoutError:
        late = f"The body did not arrive within {limits.BODY_TIMEOUT:g} seconds; send it at once."
        raise BodyError(408, "request_timeout", late) from None


async def _read(receive: Receive, max_bytes: int, max_list_bytes: int) -> bytearray:
    body, more = bytearray(), True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise BodyError(400, "incomplete_body", _INCOMPLETE)
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > max_bytes and len(body) > (max_list_bytes if is_list(body) else max_bytes):
            raise _too_large(max_bytes, max_list_bytes)
    return body


def _require_json(kind: bytes) -> None:
    # Also a guard: a web page elsewhere cannot send this type across origins without asking first.
    header = Message()
    header["content-type"] = kind.decode("latin-1")
    if header.get_content_type() != "application/json" or header.get_content_charset("utf-8") not in (
        "utf-8",
        "us-ascii",
    ):
        raise BodyError(
            415,
            "unsupported_media_type",
            "Send the body as JSON with the header Content-Type: application/json.",
        )
    if len(_JSON) < _MOST_REMEMBERED:
        _JSON.add(kind)


def _too_large(max_bytes: int, max_list_bytes: int) -> BodyError:
    return BodyError(
        413,
        "body_too_large",
        f"The body is larger than is accepted: {max_bytes} bytes for an object, {max_list_bytes} bytes for a "
        "list. Send fewer objects at once.",
    )
