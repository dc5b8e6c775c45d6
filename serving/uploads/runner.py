"""Runs the worker process that checks and stores an upload, while its sender stays and its time lasts."""

import asyncio
import json
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from pydantic import BaseModel

from serving.errors import Detail
from serving.uploads.errors import TooLargeError, UploadError

# Seconds to check and store a file. The largest file takes about 30 on a quiet machine.
MAX_SECONDS = 300.0

_MAX_MESSAGE_BYTES = 1 << 20


class Job(BaseModel):
    """One upload for the worker: its dataset, how its body is packed, and the descriptors of two open files.

    `body` holds the request's body, and the rows go to `output`. `boundary` is a form's; a `gzipped` body was
    declared as gzip; more rows than `max_rows` are refused.
    """

    dataset: str
    body: int
    output: int
    boundary: str | None
    gzipped: bool
    max_rows: int


async def check_and_store(job: Job, disconnect: Callable[[], Awaitable[Any]]) -> dict[str, Any]:
    """Run a job in a worker process and return what it stored.

    `disconnect` waits until the sender hangs up. Raises the worker's `UploadError`, 413 or 503 after
    `MAX_SECONDS`, 400 when the sender hung up. In every case the process has ended when this returns.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "serving.uploads.worker", job.model_dump_json()),
        stdin=PIPE,
        stdout=PIPE,
        pass_fds=(job.body, job.output),
        # Ctrl-C in a terminal is for the predictor alone, which then ends the worker.
        start_new_session=True,
        limit=_MAX_MESSAGE_BYTES,
    )
    messages: list[dict[str, Any]] = []
    reading = asyncio.ensure_future(_read(process, messages))
    leaving = asyncio.ensure_future(disconnect())
    try:
        await asyncio.wait({reading, leaving}, timeout=MAX_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if not reading.done():
            raise _disconnected() if leaving.done() else _too_slow(storing=bool(messages))
        await reading
    finally:
        reading.cancel()
        leaving.cancel()
        if process.returncode is None:
            with suppress(ProcessLookupError):  # it had just ended
                process.kill()
        # Shielded, so that a cancelled task waits too. The process is killed, so the wait is short.
        await asyncio.shield(process.wait())
    last = messages[-1] if messages else {}
    if "refused" in last:
        status, code, message, details, headers = last["refused"]
        raise UploadError(status, code, message, [Detail(*detail) for detail in details], headers)
    if "stored" not in last:
        raise RuntimeError(
            f"the upload's worker process ended with {process.returncode}; its output is above"
        )
    stored: dict[str, Any] = last["stored"]
    return stored


async def _read(process: Process, messages: list[dict[str, Any]]) -> None:
    assert process.stdout is not None  # noqa: S101 - it is a pipe
    while line := await process.stdout.readline():
        messages.append(json.loads(line))


def _disconnected() -> UploadError:
    message = "The connection closed before the upload was answered; it may or may not be stored."
    return UploadError(400, "incomplete_body", message)


def _too_slow(*, storing: bool) -> UploadError:
    if not storing:
        message = f"Checking the file takes longer than {MAX_SECONDS:g} s; send fewer rows."
        return TooLargeError(message, "too_much_work")
    message = (
        f"Checking and storing took longer than {MAX_SECONDS:g} s; the S3 storage is slow. Send it again."
    )
    return UploadError(503, "storage_unavailable", message, headers={"Retry-After": "10"})
