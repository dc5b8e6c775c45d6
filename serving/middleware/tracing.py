"""Optional OpenTelemetry: one span per request for a prediction, sent by OTLP over HTTP."""

import importlib
from importlib.metadata import version
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from serving.http_errors import EXPLAIN, PREDICT

_MODULES = (
    "opentelemetry.sdk.trace",
    "opentelemetry.sdk.trace.export",
    "opentelemetry.sdk.resources",
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "opentelemetry.trace",
    "opentelemetry.trace.propagation.tracecontext",
)


class TracingUnavailableError(Exception):
    """Tracing is asked for and its library is not installed."""


def require_tracing() -> None:
    """Raise `TracingUnavailableError` unless the libraries for it are installed."""
    try:
        for name in _MODULES:
            importlib.import_module(name)
    except ImportError as error:
        raise TracingUnavailableError(
            f"GREENROOM_SERVING_OTLP_ENDPOINT is set, but {error.name} is not installed; install Greenroom "
            "with the extra `tracing`."
        ) from error


class Tracing:
    """Sends spans to a collector, in a thread, in batches; what it does not take is dropped."""

    def __init__(self, endpoint: str) -> None:
        """Send to `endpoint`, such as http://127.0.0.1:4318. Raises `TracingUnavailableError`."""
        require_tracing()
        sdk, export, resources, otlp, self._trace, context = map(importlib.import_module, _MODULES)
        about = {"service.name": "greenroom-predictor", "service.version": version("greenroom")}
        self._provider = sdk.TracerProvider(resource=resources.Resource.create(about))
        exporter = otlp.OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces", timeout=5)
        self._provider.add_span_processor(export.BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("greenroom.serving")
        self._reader = context.TraceContextTextMapPropagator()

    def span(self, scope: Scope) -> Any:
        """Return a context manager: the span of a request, child of the caller's (`traceparent`)."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        return self._tracer.start_as_current_span(
            f"{scope['method']} {_route(scope['path'])}",
            context=self._reader.extract(headers),
            kind=self._trace.SpanKind.SERVER,
            attributes={
                "http.request.method": scope["method"],
                "http.route": _route(scope["path"]),
                "greenroom.model": scope["path"].removeprefix(PREDICT).removeprefix(EXPLAIN)[:100],
            },
        )

    def stop(self) -> None:
        """Send what is left."""
        self._provider.shutdown()


class TraceRequests:
    """Plain ASGI: a span around each request for a prediction or an explanation."""

    def __init__(self, app: ASGIApp, tracing: Tracing, paths: tuple[str, ...]) -> None:
        """Trace the requests whose path begins with one of `paths`."""
        self._app, self._tracing, self._paths = app, tracing, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on within its span."""
        if scope["type"] != "http" or not scope["path"].startswith(self._paths):
            await self._app(scope, receive, send)
            return
        with self._tracing.span(scope) as span:
            await self._app(scope, receive, send)
            state = scope.get("state", {})
            if status := state.get("status"):
                span.set_attribute("http.response.status_code", status)
            if model := state.get("model"):
                span.set_attribute("greenroom.model", model)
            if answer := state.get("answer"):
                span.set_attribute("greenroom.version", answer[0])
                span.set_attribute("greenroom.rows", answer[1])


def _route(path: str) -> str:
    for prefix in (PREDICT, EXPLAIN):
        if path.startswith(prefix):
            return prefix + "{model}"
    return path
