"""What the predictor writes to its log: lines for people, or one JSON object per line for machines.

Every line that is about a request bears its id, which the answer bears as well (`X-Request-Id`).
"""

import logging
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from time import perf_counter
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from registry.text import one_line
from serving.http_errors import unexpected
from serving.ids import request_id

# Requests and what went wrong; "DEBUG" is for the predictor's own developers.
LEVEL = "INFO"
_access = logging.getLogger("greenroom.access")
_current: ContextVar[str | None] = ContextVar("request_id", default=None)
# What orchestrators ask every few seconds.
_QUIET = frozenset({"/healthz", "/readyz", "/metrics"})
_FIELDS = "%(asctime)s %(levelname)s %(name)s %(message)s"


class WithRequestId(logging.Filter):
    """Puts the id of the request under way on every record; `-` when there is none."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass."""
        record.__dict__.pop("color_message", None)  # uvicorn's, for terminals
        if not hasattr(record, "request_id"):
            record.request_id = _current.get() or "-"
        return True


def config(form: str) -> dict[str, Any]:
    """Return the configuration for `logging.config`: `form` is `json`, else text. All goes to stderr."""
    logger = {"handlers": ["stderr"], "level": LEVEL, "propagate": False}
    formatters: dict[str, dict[str, Any]] = {
        "text": {"format": "%(asctime)s %(levelname)s %(message)s [%(request_id)s]"},
        "json": {
            "()": "pythonjsonlogger.json.JsonFormatter",
            "fmt": f"{_FIELDS} %(request_id)s",
            "rename_fields": {"asctime": "time", "levelname": "level", "name": "logger"},
        },
    }
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {"request_id": {"()": WithRequestId}},
        "formatters": {"line": formatters.get(form, formatters["text"])},
        "handlers": {
            "stderr": {"class": "logging.StreamHandler", "formatter": "line", "filters": ["request_id"]}
        },
        "loggers": {"uvicorn": logger, "greenroom": logger},
    }


class AccessLog:
    """Plain ASGI, the outermost: gives each request its id, and writes a line about its answer if `lines`.

    An id that a caller sends in `X-Request-Id` is kept if it is up to 64 letters, digits, `.`, `_` or `-`.
    The answer's status is noted in the request's state as `status`, for the middleware within. An exception
    that nothing within has answered is answered here, and goes on to the server, which logs it.
    """

    def __init__(self, app: ASGIApp, lines: bool) -> None:
        self._app, self._lines = app, lines

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and its answer with the id."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        name, state, began = _request_id(scope["headers"]), scope.setdefault("state", {}), perf_counter()
        _current.set(name)  # a task per request: no other request sees it
        header = (b"x-request-id", name.encode())

        async def observe(message: Message) -> None:
            if message["type"] == "http.response.start":
                state["status"] = message["status"]
                message["headers"] = [*message.get("headers", ()), header]
            await send(message)

        try:
            await self._app(scope, receive, observe)
        except Exception:
            if "status" not in state:
                await unexpected(scope)(scope, receive, observe)
            raise
        finally:
            if self._lines and scope["path"] not in _QUIET:
                _write(scope, state, perf_counter() - began)


def _request_id(headers: Iterable[tuple[bytes, bytes]]) -> str:
    for name, value in headers:
        if name == b"x-request-id":
            return request_id(value)
    return request_id(None)


def _write(scope: Scope, state: Mapping[str, Any], seconds: float) -> None:
    status = state.get("status", 500)
    version, rows = state.get("answer") or (None, None)
    fields = {
        "method": scope["method"],
        "path": scope["path"],  # no query: a caller may have put a key into one
        "status": status,
        "milliseconds": round(1000 * seconds, 3),
        "client": scope["client"][0] if scope.get("client") else None,
        "key": state.get("api_key_name"),
        "version": version,
        "rows": rows,
    }
    line = '%s "%s %s" %d %.1f ms'
    _access.info(
        *(line, fields["client"], scope["method"], one_line(scope["path"]), status, 1000 * seconds),
        extra={name: value for name, value in fields.items() if value is not None},
    )
