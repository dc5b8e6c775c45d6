"""Runs the process that checks and stores, and waits for it: as long as it may take, and its sender stays."""

import asyncio
import json
import logging
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Awaitable, Callable
from typing import Any

from serving.errors import Detail
from serving.uploads.errors import TooLargeError, UploadError

_log = logging.getLogger("greenroom.serving")
_MODULE = "serving.uploads.worker"
_MOST_ANSWER = 1 << 20


async def check_and_store(
    job: dict[str, Any], *, timeout: float, leaves: Callable[[], Awaitable[Any]]
) -> dict[str, Any]:
    """Run the job in a process of its own; return what it stored.

    `job` has the fields of `serving.uploads.worker.Job`; `leaves` waits until the sender hangs up. Raises
    the `UploadError` that the process found, 413 or 503 when it took more than `timeout` seconds, 400 when
    the sender left. In every case the process has ended when this returns.
    """
    # A session of its own: Ctrl-C in a terminal is for the predictor, which then ends it.
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", _MODULE, json.dumps(job)),
        stdin=PIPE,
        stdout=PIPE,
        pass_fds=(job["body"], job["output"]),
        start_new_session=True,
        limit=_MOST_ANSWER,
    )
    said: list[dict[str, Any]] = []
    assert process.stdout is not None  # noqa: S101 - a pipe, as asked for
    reading = asyncio.ensure_future(_read(process.stdout, said))
    left = asyncio.ensure_future(leaves())
    try:
        await asyncio.wait({reading, left}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if not reading.done():
            raise _left() if left.done() else _too_slow(timeout, storing=bool(said))
        await reading
    finally:
        for task in (reading, left):
            task.cancel()
        await _end(process)
    return _outcome(said, process.returncode)


async def _read(output: asyncio.StreamReader, said: list[dict[str, Any]]) -> None:
    while line := await output.readline():
        said.append(json.loads(line))


async def _end(process: Process) -> None:
    if process.returncode is None:
        try:
            process.kill()
        except ProcessLookupError:
            _log.debug("the checking process had just ended")
    # Also when this task is told to stop meanwhile: the process is killed, so it takes a moment only.
    await asyncio.shield(process.wait())


def _outcome(said: list[dict[str, Any]], returncode: int | None) -> dict[str, Any]:
    last = said[-1] if said else {}
    if "refused" in last:
        status, code, message, details, headers = last["refused"]
        raise UploadError(status, code, message, [Detail(*detail) for detail in details], headers)
    if "stored" not in last:
        raise RuntimeError(f"the process that checks an upload ended with {returncode}; its words are above")
    stored: dict[str, Any] = last["stored"]
    return stored


def _too_slow(timeout: float, *, storing: bool) -> UploadError:
    if storing:
        message = (
            f"Checking and storing took longer than {timeout:g} s; the S3 storage is slow. Send it again."
        )
        return UploadError(503, "storage_unavailable", message, headers={"Retry-After": "10"})
    return TooLargeError(
        f"Checking the file takes longer than {timeout:g} s; send fewer rows.", "too_much_work"
    )


def _left() -> UploadError:
    message = "The connection closed before the upload was answered; it may or may not be stored."
    return UploadError(400, "incomplete_body", message)
