"""Puts the table of routes (routes.py) in front of MLflow's server, whichever app and web server it runs as.

MLflow builds a Flask app, and under uvicorn a FastAPI app around it; with a login, its `basic-auth` does so.
In a process that serves, each app is made with the check in it: so no app of MLflow's, nor of a later release
of it, comes without. FastAPI's answers first, and passes the rest to Flask's.
"""

import json
import logging
import os
from collections.abc import Callable
from functools import cache, wraps
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

from registry.errors import RegistryError
from registry.server import routes

_log = logging.getLogger(__name__)
_MARK = "greenroom_routes"
_ARTIFACT = "/2.0/mlflow-artifacts/artifacts/<path:artifact_path>"


class RouteGuardError(RegistryError):
    """MLflow's server would answer more than the table of routes opens; it must not start so."""


def install() -> None:
    """Give every app that this process makes from now on the check."""
    from fastapi import FastAPI  # noqa: PLC0415 - a server alone needs them
    from flask import Flask  # noqa: PLC0415

    _afterwards(Flask, _guard_flask)
    _afterwards(FastAPI, _guard_fastapi)


def require_installed(app: Any) -> None:
    """Raise `MlflowException` unless a Flask app has the check."""
    if _MARK not in app.extensions:
        raise MlflowException(
            "This server answers more routes than Greenroom opens, so its registry stays closed. Start it "
            "with `mlflow server --registry-store-uri greenroom://` (docs/promotion.md).",
            error_code=INVALID_PARAMETER_VALUE,
        )


def require_options() -> None:
    """Raise `RouteGuardError` for an option of `mlflow server` that the guard cannot keep its word with."""
    if os.environ.get("MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE", "").lower() in ("true", "1"):
        raise RouteGuardError(
            "MLflow's check of Host and Origin is switched off, so any web page could use this server. Start "
            "it without --disable-security-middleware (MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE)."
        )
    for option in ("MLFLOW_SERVER_ALLOWED_HOSTS", "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"):
        if "*" in {entry.strip() for entry in os.environ.get(option, "").split(",")}:
            raise RouteGuardError(
                f"{option} is *, so any web page could use this server. Name the hosts, or the origins, that "
                "it has (--allowed-hosts, --cors-allowed-origins)."
            )
    if os.environ.get("_MLFLOW_SERVER_READ_REPLICA_BACKEND_STORE"):
        raise RouteGuardError(
            "Greenroom's registry has no read replica: a promotion must be decided on what is there now. "
            "Start MLflow without --read-replica-backend-store-uri (MLFLOW_READ_REPLICA_BACKEND_STORE_URI)."
        )


class RouteGuard:
    """ASGI middleware: answers 404 or 403 to what the table does not open."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on, or refuse it; websockets are closed."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})
            return
        refusal = None
        if scope["type"] == "http":
            headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
            refusal = routes.refusal(
                scope["method"], scope["path"], headers.get(b"host"), headers.get(b"origin")
            )
        if refusal is None:
            await self._app(scope, receive, send)
            return
        _log.warning("Refused %s %.200r: %s", scope["method"], scope["path"], refusal.code)
        body = json.dumps(refusal.body).encode()
        kind = (b"content-type", b"application/json")
        await send({"type": "http.response.start", "status": refusal.status, "headers": [kind]})
        await send({"type": "http.response.body", "body": body if scope["method"] != "HEAD" else b""})


def _afterwards(kind: Any, add: Callable[[Any], None]) -> None:
    """Let `add` have each new app of a kind."""
    original = kind.__init__
    if hasattr(original, _MARK):
        return

    @wraps(original)
    def made(app: Any, *args: Any, **kwargs: Any) -> None:
        original(app, *args, **kwargs)
        add(app)

    setattr(made, _MARK, True)
    kind.__init__ = made


def _guard_fastapi(app: Any) -> None:
    app.add_middleware(RouteGuard)


def _guard_flask(app: Any) -> None:
    app.before_request(_refuse)
    app.extensions[_MARK] = True
    add = app.add_url_rule

    def add_url_rule(rule: str, endpoint: str | None = None, view_func: Any = None, **options: Any) -> None:
        if rule.endswith(_ARTIFACT) and "DELETE" in (options.get("methods") or ()):
            # Around the route, and so behind MLflow's login.
            view_func = _kept_first(view_func)
        add(rule, endpoint, view_func, **options)

    app.add_url_rule = add_url_rule


@cache
def _kept_first(delete: Callable[..., Any]) -> Callable[..., Any]:
    """Return MLflow's deletion of an artifact, after the registry was asked whether a version needs it."""

    @wraps(delete)
    def deleted(artifact_path: str) -> Any:
        import flask  # noqa: PLC0415
        from mlflow.server.handlers import _get_model_registry_store  # noqa: PLC0415

        try:
            store: Any = _get_model_registry_store()
            store.require_unneeded(artifact_path)
        except MlflowException as error:
            status = error.get_http_status_code()
            return flask.Response(error.serialize_as_json(), status=status, mimetype="application/json")
        return delete(artifact_path)

    return deleted


def _refuse() -> Any:
    """Refuse by the rule that Flask itself chose; a path that it has no rule for is checked by its text."""
    import flask  # noqa: PLC0415

    request = flask.request
    refusal = routes.refusal(
        request.method, request.path, request.headers.get("Host"), request.headers.get("Origin")
    )
    if (
        refusal is None
        and request.url_rule
        and not routes.is_open_rule(request.method, request.url_rule.rule)
    ):
        refusal = routes.closed(request.method, request.path)
    if refusal is None:
        return None
    return flask.Response(json.dumps(refusal.body), status=refusal.status, mimetype="application/json")
