"""Composition root: the only place that knows how the parts fit together."""

from asyncio import to_thread
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from starlette.middleware import Middleware
from starlette.types import ASGIApp

from catalog.loader import load_catalog
from serving import http_errors, limits
from serving.api.explain import EXPLANATIONS, describe_explain, explain_routes
from serving.api.feedback import feedback_routes
from serving.api.openapi import OpenApi
from serving.api.predict import PredictMiddleware
from serving.api.routes import describe_predict, describe_tasks, health_routes, model_routes, task_routes
from serving.callers import caller_of
from serving.http_errors import EXPLAIN, FEEDBACK, PREDICT
from serving.inference.predictor import Predictor
from serving.middleware import api_keys
from serving.middleware.access_log import AccessLog
from serving.middleware.concurrency import LimitConcurrency, Limits
from serving.middleware.metrics import MeasureRequests, Metrics, metrics_routes
from serving.middleware.security_headers import SecurityHeaders
from serving.middleware.tracing import TraceRequests, Tracing
from serving.models.watcher import Watcher
from serving.process.connections import set_bounds
from serving.process.memory import tune_malloc
from serving.process.workers import Workers
from serving.recording.recorder import Recorder
from serving.settings import ServingSettings
from serving.tasks.registry import task_paths
from serving.uploads.routes import upload_routes

# Bodies of feedback that are read, and worked on, at once.
_FEEDBACKS = 8
_DESCRIPTION = """\
Predictions by the model versions that are in Production.

One POST per model, with one JSON object of features or a list of them; `GET /api/models` lists the
served models and their units. Every error has the form
`{"error": {"code", "message", "details": [{"field", "problem"}]}}`.
"""


@dataclass(frozen=True)
class PredictorApp:
    """The predictor's parts that a server or a test gets at; `asgi` is what a server runs."""

    asgi: ASGIApp
    api: FastAPI
    predictor: Predictor
    metrics: Metrics


def create_app(settings: ServingSettings | None = None) -> PredictorApp:
    """Return the predictor; its models are loaded once it runs.

    Raises `catalog.loader.CatalogError` when a declaration cannot be read.
    """
    settings = settings or ServingSettings()
    predictor = Predictor(load_catalog())
    metrics = Metrics(predictor.specs)
    workers = Workers.of_this_process()

    def after_each_look() -> None:
        metrics.refresh()
        workers.tell(predictor.versions)
        workers.stop_if_orphaned()

    watcher = Watcher(predictor, settings, metrics, after_each_look)
    recorder = Recorder(settings, metrics) if settings.records else None
    tracing = Tracing(settings.serving_otlp_endpoint) if settings.serving_otlp_endpoint else None
    if recorder:
        predictor.record = recorder.record

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        # In the background, so that the process answers (and stops) while a tracking server does not.
        watcher.start()
        if recorder:
            recorder.start()
        yield
        # Requests are through: what they left behind is brought to its place.
        watcher.stop()
        if recorder:
            await to_thread(recorder.stop)
        if tracing:
            await to_thread(tracing.stop)
        metrics.stop()

    # The docs page with its scripts from this machine: FastAPI's own takes them from a CDN.
    api = FastAPIOffline(
        docs_url="/docs",
        redoc_url=None,
        title="Greenroom predictor",
        version=version("greenroom"),
        description=_DESCRIPTION,
        lifespan=lifespan,
        redirect_slashes=False,
    )
    api.state.predictor = predictor
    docs = OpenApi(api, lambda: predictor.contracts, [describe_predict(settings), describe_tasks(settings)])
    api.openapi = docs.page  # type: ignore[method-assign] # the hook that FastAPI documents
    api.include_router(model_routes(predictor))
    api.include_router(task_routes())
    api.include_router(health_routes(predictor, workers))
    api.include_router(
        upload_routes(predictor.specs, caller=caller_of(settings.proxies), rejected=metrics.rejected)
    )
    api.include_router(feedback_routes(recorder, settings, metrics.feedback))
    api.include_router(metrics_routes(metrics))
    api.include_router(explain_routes(predictor))
    docs.describe.append(describe_explain(predictor))
    http_errors.install(api)
    asgi: ASGIApp = api
    for layer in reversed(_middleware(settings, predictor, metrics, tracing, docs)):
        asgi = layer.cls(asgi, *layer.args, **layer.kwargs)
    return PredictorApp(asgi, api, predictor, metrics)


def _middleware(
    settings: ServingSettings, predictor: Predictor, metrics: Metrics, tracing: Tracing | None, docs: OpenApi
) -> list[Middleware]:
    """Return the layers around FastAPI, the outermost first.

    Every answer gets its id and headers, refusals are counted, and a request without a key takes no turn.
    Predictions are answered by `PredictMiddleware`: FastAPI's own layers would take longer than the model.
    """
    keys, shut, paths = settings.api_keys, api_keys.shut_paths(settings), (PREDICT, *task_paths())
    predictions = Limits.of(limits.MAX_CONCURRENCY, *paths)
    caller = caller_of(settings.proxies)
    metrics.watch_queue(predictions.taken, predictions.waiting)
    lines = settings.serving_log_format != "quiet"
    layers = [Middleware(AccessLog, lines=lines), Middleware(SecurityHeaders)]
    if tracing:
        layers.append(Middleware(TraceRequests, tracing=tracing, paths=(*paths, EXPLAIN)))
    layers.append(Middleware(MeasureRequests, metrics=metrics, paths=paths))
    if keys or settings.metrics_shut:
        layers.append(Middleware(api_keys.RequireKey, keys=keys, shut=shut, rejected=metrics.rejected))
        docs.finish.append(api_keys.document(shut))
    layers += [
        Middleware(LimitConcurrency, bounds=predictions, rejected=metrics.rejected, caller=caller),
        Middleware(PredictMiddleware, predictor=predictor, settings=settings),
    ]
    for at_once, path in ((_FEEDBACKS, FEEDBACK), (EXPLANATIONS, EXPLAIN)):
        bounds = Limits.of(at_once, path)
        layers.append(Middleware(LimitConcurrency, bounds=bounds, rejected=metrics.rejected, caller=caller))
    return layers


def served_app() -> ASGIApp:
    """Return the predictor for a process that uvicorn runs, with its bounds on connections."""
    tune_malloc()
    settings = ServingSettings()
    app = create_app(settings)
    set_bounds(
        max_connections=limits.MAX_CONNECTIONS,
        drain=settings.serving_drain,
        proxies=settings.proxies,
        rejected=app.metrics.rejected,
    )
    return app.asgi
