"""Takes an upload off the wire: into a file without a name, within limits of size and time."""

import asyncio
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from email.message import Message
from typing import IO
from urllib.parse import urlsplit

from fastapi import Request
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect

from serving.uploads.errors import TooLargeError, UploadError, no_room
from serving.uploads.settings import MIB, UploadSettings

_PLAIN = ("text/csv", "application/csv")
_PACKED = ("application/gzip", "application/x-gzip")
_HOW = (
    "Send a CSV as `curl -F file=@FILE.csv` does, or as the body with Content-Type: text/csv "
    "(curl --data-binary @FILE.csv -H 'Content-Type: text/csv'); compressed with gzip, add "
    "Content-Encoding: gzip, or use Content-Type: application/gzip."
)


@dataclass(frozen=True)
class Form:
    """How a body is packed: in a form with that boundary, or bare; declared as gzip, or not."""

    boundary: str | None
    gzipped: bool


def read_form(headers: Headers) -> Form:
    """Return how the body is packed; raises `UploadError` 415 when it is no form of upload."""
    header = Message()
    header["content-type"] = headers.get("content-type", "")
    kind, encoding = header.get_content_type(), headers.get("content-encoding", "identity").strip().lower()
    if kind == "multipart/form-data" and encoding == "identity":
        boundary = header.get_boundary("")
        if not 0 < len(boundary) <= 70:  # RFC 2046
            raise _unsupported("The form's Content-Type names no boundary of 1 to 70 characters.")
        return Form(boundary, gzipped=False)
    if kind in _PACKED and encoding == "identity":
        return Form(None, gzipped=True)
    if kind not in _PLAIN or encoding not in ("identity", "gzip", "x-gzip"):
        raise _unsupported(_HOW)
    if header.get_content_charset("utf-8") not in ("utf-8", "us-ascii"):
        raise _unsupported("The CSV must be in UTF-8; save it so, and declare no other charset.")
    return Form(None, gzipped=encoding != "identity")


def refuse_other_sites(headers: Headers) -> None:
    """Raise `UploadError` 403 for what a page of another site sends.

    Browsers let any page send forms anywhere, so a form is no proof that its sender was let in.
    """
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    same = site in ("same-origin", "none") if site else not origin or _host(origin) == headers.get("host")
    if not same:
        message = (
            "A page of another site sent this upload. Send it from the predictor's own, or by a program."
        )
        raise UploadError(403, "cross_origin", message)


def _host(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None


def _unsupported(message: str) -> UploadError:
    return UploadError(415, "unsupported_media_type", message)


@contextmanager
def scratch_files(settings: UploadSettings) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """Open two files without names, which are gone with the last process that has them open.

    Raises `UploadError` 503 when the disk does not take them.
    """
    folder = settings.serving_upload_path
    with ExitStack() as opened:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            body, output = (opened.enter_context(tempfile.TemporaryFile(dir=folder)) for _ in range(2))
        except OSError as error:
            raise no_room(error) from error
        yield body, output


async def receive(request: Request, target: IO[bytes], settings: UploadSettings) -> int:
    """Write the request's body to a file and return its length.

    Raises `UploadError`: 413 beyond the limit, 408 when it takes too long or falls behind the least rate,
    400 when the connection closes before.
    """
    most, loop = settings.serving_upload_max_bytes, asyncio.get_running_loop()
    refuse_length(request.headers, most)
    began, got, waiting = loop.time(), 0, bytearray()
    lag, rate = settings.serving_upload_lag, settings.serving_upload_min_rate
    try:
        async with asyncio.timeout(min(lag, settings.serving_upload_timeout)) as limit:
            async for chunk in request.stream():
                got += len(chunk)
                if got > most:
                    raise _too_large(most)
                # Each byte buys time, up to the limit of the whole.
                limit.reschedule(began + min(settings.serving_upload_timeout, lag + got / rate))
                waiting += chunk
                if len(waiting) >= MIB:
                    await _write(target, waiting)
                    waiting = bytearray()
            await _write(target, waiting)
    except TimeoutError:
        raise UploadError(
            408,
            "request_timeout",
            f"After {loop.time() - began:.0f} s only {got} bytes were here. An upload must come in at "
            f"{rate} bytes a second or more, and be complete after {settings.serving_upload_timeout:g} s.",
        ) from None
    except ClientDisconnect:
        message = "The connection closed before the upload was whole; nothing was stored."
        raise UploadError(400, "incomplete_body", message) from None
    return got


async def _write(target: IO[bytes], content: bytearray) -> None:
    def write() -> None:
        target.write(content)
        target.flush()

    try:
        await asyncio.to_thread(write)
    except OSError as error:
        raise no_room(error) from error


def refuse_length(headers: Headers, most: int) -> None:
    """Raise `UploadError` 413 for a declared length beyond `most` bytes; receiving does not believe it."""
    declared = headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > most:
        raise _too_large(most)


def _too_large(most: int) -> TooLargeError:
    return TooLargeError(
        f"The upload is larger than the {most} bytes that are accepted. Compress it with gzip, or send fewer "
        "rows."
    )
