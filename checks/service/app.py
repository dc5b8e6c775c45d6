"""The gate's HTTP service: `POST /verdicts` judges one version of one model, `GET /health` answers.

It takes a name and a number and nothing else. It reads and writes the registry with the login that the
caller sends, so that it can do no more than the caller may; the key never leaves this process.
"""

import asyncio
import binascii
from base64 import b64decode
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from checks.errors import DataError, GateInputError, GateUnavailableError
from registry.errors import (
    EvidenceError,
    KeyFileError,
    ModelFormatError,
    NotFoundError,
    RegistryError,
    RegistryRefusedError,
    RegistryUnavailableError,
)
from registry.evidence.verdict import Verdict
from registry.settings import RegistrySettings

# A name and a number are short.
_MAX_BODY = 4096
# Requests that may wait for the one under way; a verdict takes seconds.
MAX_WAITING = 16
# The first class that an error is an instance of gives the status; `kind` is what the client raises.
_ERRORS: tuple[tuple[type[Exception], int, str], ...] = (
    (NotFoundError, 404, "not-found"),
    (GateInputError, 409, "input"),
    (DataError, 409, "input"),
    (ModelFormatError, 409, "input"),
    (EvidenceError, 409, "bytes"),
    (KeyFileError, 503, "unavailable"),
    (GateUnavailableError, 503, "unavailable"),
    (RegistryUnavailableError, 503, "unavailable"),
    (RegistryRefusedError, 403, "refused"),
    (RegistryError, 503, "unavailable"),
    (OSError, 503, "unavailable"),
)

# Judges a version with the login in the settings (checks/service/process.py).
Judge = Callable[[RegistrySettings, str, int], Verdict]


class VerdictRequest(BaseModel):
    """Which version to judge."""

    model_config = ConfigDict(extra="forbid", strict=True)

    # No control characters: PostgreSQL has no NUL, and a line feed belongs to no name.
    model: str = Field(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f\x7f]+$")
    version: int = Field(ge=1, le=2**31 - 1)


class Gate:
    """Judges one version at a time; a bounded number of requests waits."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self._turn = asyncio.Lock()
        self._waiting = 0

    async def verdict(self, request: Request) -> Response:
        """Judge the version that the body names, and return the verdict."""
        if request.headers.get("origin"):
            raise HTTPException(403, "The gate answers programs, not web pages.")
        order = await _read(request)
        settings = _settings(request)
        if self._waiting >= MAX_WAITING:
            raise HTTPException(503, "The gate is busy; ask again in a minute.", {"Retry-After": "60"})
        self._waiting += 1
        try:
            async with self._turn:
                # To its end even if the caller leaves: half a verdict helps nobody.
                verdict = await run_in_threadpool(self._judge, settings, order.model, order.version)
        finally:
            self._waiting -= 1
        return JSONResponse(verdict.model_dump(mode="json"))


def create_app(judge: Judge, hosts: Sequence[str] = ("127.0.0.1", "localhost")) -> Starlette:
    """Return the service; it answers requests whose Host header names one of `hosts`."""
    handlers: dict[Any, Any] = {HTTPException: _http_error}
    for kind, status, name in reversed(_ERRORS):
        handlers[kind] = _handler(status, name)
    return Starlette(
        routes=[
            Route("/verdicts", Gate(judge).verdict, methods=["POST"]),
            Route("/health", _health, methods=["GET"]),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)],
        exception_handlers=handlers,
    )


async def _health(_: Request) -> Response:
    return JSONResponse({"status": "ok"})


async def _read(request: Request) -> VerdictRequest:
    content = b""
    async for part in request.stream():
        content += part
        if len(content) > _MAX_BODY:
            raise HTTPException(413, f"The body is longer than {_MAX_BODY} bytes.")
    try:
        return VerdictRequest.model_validate_json(content)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, problem["loc"])) or "body"
        raise HTTPException(
            422, f'{where}: {problem["msg"]}. Send {{"model": "genre", "version": 1}}.'
        ) from error


def _settings(request: Request) -> RegistrySettings:
    """Return how to reach the registry as the caller: with the login of the request, or with none."""
    scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
    username = password = ""
    if scheme:
        try:
            username, _, password = b64decode(credentials, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            username = ""
        if scheme.lower() != "basic" or not username:
            raise HTTPException(401, "Send the login of the tracking server as HTTP Basic.")
    update = {"tracking_username": username, "tracking_password": SecretStr(password)}
    return RegistrySettings().model_copy(update=update)


def _handler(status: int, kind: str) -> Callable[[Request, Exception], Awaitable[Response]]:
    async def handle(_: Request, error: Exception) -> Response:
        return JSONResponse({"detail": str(error), "kind": kind}, status)

    return handle


async def _http_error(_: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    kind = "unavailable" if error.status_code == 503 else "request"
    return JSONResponse({"detail": error.detail, "kind": kind}, error.status_code, error.headers)
