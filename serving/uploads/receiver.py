"""Receives an upload into a file without a name, within limits of size and time."""

import asyncio
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from email.message import Message
from typing import IO
from urllib.parse import urlsplit

from fastapi import Request
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect

from registry.settings import home
from serving.uploads.errors import TooLargeError, UploadError, no_room

# Bytes of an upload, as it is sent.
MAX_BYTES = 100 << 20
# Seconds for a whole upload; there is room for one at a time, and others wait for it.
MAX_SECONDS = 120.0
# Bytes a second that must come in on the average, and the seconds that an upload may lag behind that rate.
MIN_RATE, MAX_LAG = 16 << 10, 10.0

_PLAIN = ("text/csv", "application/csv")
_PACKED = ("application/gzip", "application/x-gzip")
_BUFFER = 1 << 20
_USAGE = (
    "Send a CSV as `curl -F file=@FILE.csv` does, or as the body with Content-Type: text/csv "
    "(curl --data-binary @FILE.csv -H 'Content-Type: text/csv'); compressed with gzip, add "
    "Content-Encoding: gzip, or use Content-Type: application/gzip."
)


def read_packaging(headers: Headers) -> tuple[str | None, bool]:
    """Return the boundary, if the body is a form, and whether the body is declared as gzip.

    Raises `UploadError` 415 for any other body than a form, a CSV and gzip.
    """
    header = Message()
    header["content-type"] = headers.get("content-type", "")
    kind, encoding = header.get_content_type(), headers.get("content-encoding", "identity").strip().lower()
    if kind == "multipart/form-data" and encoding == "identity":
        boundary = header.get_boundary("")
        if not 0 < len(boundary) <= 70:  # RFC 2046
            raise _unsupported("The form's Content-Type names no boundary of 1 to 70 characters.")
        return boundary, False
    if kind in _PACKED and encoding == "identity":
        return None, True
    if kind not in _PLAIN or encoding not in ("identity", "gzip", "x-gzip"):
        raise _unsupported(_USAGE)
    if header.get_content_charset("utf-8") not in ("utf-8", "us-ascii"):
        raise _unsupported("The CSV must be in UTF-8; save it so, and declare no other charset.")
    return None, encoding != "identity"


def _unsupported(message: str) -> UploadError:
    return UploadError(415, "unsupported_media_type", message)


def refuse_other_sites(headers: Headers) -> None:
    """Raise `UploadError` 403 for a request from a page of another site.

    A browser lets any page send a form to any address, with the user's rights there.
    """
    site, origin = headers.get("sec-fetch-site"), headers.get("origin", "")
    try:
        same_host = not origin or urlsplit(origin).netloc == headers.get("host")
    except ValueError:
        same_host = False
    if not (site in ("same-origin", "none") if site else same_host):
        raise UploadError(
            403,
            "cross_origin",
            "A page of another site sent this upload. Send it from the predictor's own, or by a program.",
        )


@contextmanager
def scratch_files() -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """Open two files without names, which are gone with the last process that has them open.

    Raises `UploadError` 503 when the disk does not take them.
    """
    folder = home() / "serving-uploads"
    with ExitStack() as stack:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            body, output = (
                stack.enter_context(tempfile.TemporaryFile(dir=folder, buffering=_BUFFER)) for _ in range(2)
            )
        except OSError as error:
            raise no_room(error) from error
        try:
            yield body, output
        finally:
            # A full disk does not take the rest of the buffer, either.
            with suppress(OSError):
                body.close()


async def receive(request: Request, target: IO[bytes], max_bytes: int) -> None:
    """Write the request's body to a file.

    Raises `UploadError`: 413 beyond `max_bytes`, declared or counted, 408 when it takes too long or falls
    behind the least rate, 400 when the connection closes before, 503 when the disk does not take it.
    """
    too_large = TooLargeError(
        f"The upload is larger than the {max_bytes} bytes that are accepted. Compress it with gzip, or send "
        "fewer rows."
    )
    if int(request.headers.get("content-length", 0)) > max_bytes:
        raise too_large
    loop = asyncio.get_running_loop()
    start, size = loop.time(), 0
    try:
        async with asyncio.timeout(min(MAX_LAG, MAX_SECONDS)) as timeout:
            async for chunk in request.stream():
                size += len(chunk)
                if size > max_bytes:
                    raise too_large
                # Each byte extends the time, up to the limit of the whole upload.
                timeout.reschedule(start + min(MAX_SECONDS, MAX_LAG + size / MIN_RATE))
                await asyncio.to_thread(target.write, chunk)
            await asyncio.to_thread(target.flush)
    except TimeoutError:
        raise UploadError(
            408,
            "request_timeout",
            f"After {loop.time() - start:.0f} s only {size} bytes were here. An upload must come in at "
            f"{MIN_RATE} bytes a second or more, and be complete after {MAX_SECONDS:g} s.",
        ) from None
    except ClientDisconnect:
        message = "The connection closed before the upload was whole; nothing was stored."
        raise UploadError(400, "incomplete_body", message) from None
    except OSError as error:
        raise no_room(error) from error
