"""Composition root: the only place that knows how the parts fit together."""

from asyncio import to_thread
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from catalog.loader import load_catalog
from serving import http_errors
from serving.api import explain_routes
from serving.api.admin import admin_routes
from serving.api.feedback import feedback_routes
from serving.api.openapi import OpenApi
from serving.api.predict import Predicting
from serving.api.routes import describe_predict, describe_tasks, health_routes, model_routes, task_routes
from serving.http_errors import FEEDBACK
from serving.inference.predictor import Predictor
from serving.middleware import api_keys
from serving.middleware.access_log import RequestLog
from serving.middleware.concurrency import LimitConcurrency, Turns
from serving.middleware.metrics import MeasureRequests, Metrics, metrics_routes
from serving.middleware.security_headers import SecurityHeaders
from serving.middleware.tracing import TraceRequests, Tracing
from serving.models.watcher import Watcher
from serving.process.connections import set_bounds
from serving.process.memory import lean_heap, without_pandas
from serving.process.workers import Workers
from serving.recording.recorder import Recorder
from serving.settings import ServingSettings
from serving.uploads.routes import upload_routes

# Bodies of feedback that are read, and worked on, at once.
_FEEDBACKS = 8
_DESCRIPTION = """\
Predictions by the model versions that are in Production.

One POST per model, with one JSON object of features or a list of them; `GET /api/models` says what is
served and in which units. Every error has the form
`{"error": {"code", "message", "details": [{"field", "problem"}]}}`.
"""


def create_app(settings: ServingSettings | None = None) -> FastAPI:
    """Return the predictor; its models are loaded once it runs.

    Raises `catalog.loader.CatalogError` when a declaration cannot be read.
    """
    settings = settings or ServingSettings()
    predictor = Predictor(load_catalog())
    metrics = Metrics(predictor.specs)
    workers = Workers.mine()

    def looked() -> None:
        metrics.refresh()
        workers.tell(predictor.versions)
        workers.stop_if_orphaned()

    watcher = Watcher(predictor, settings, metrics, looked)
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
    app = FastAPIOffline(
        docs_url="/docs",
        redoc_url=None,
        title="Greenroom predictor",
        version=version("greenroom"),
        description=_DESCRIPTION,
        lifespan=lifespan,
        redirect_slashes=False,
    )
    app.state.predictor = predictor
    app.include_router(model_routes(predictor))
    app.include_router(task_routes())
    app.include_router(health_routes(predictor, workers))
    app.include_router(admin_routes(watcher, settings))
    app.include_router(upload_routes(predictor.specs))
    app.include_router(feedback_routes(recorder, settings, metrics.told))
    if settings.serving_metrics:
        app.include_router(metrics_routes(metrics))
    http_errors.install(app)
    docs = OpenApi(app, lambda: predictor.contracts, [describe_predict(settings), describe_tasks(settings)])
    app.openapi = docs.page  # type: ignore[method-assign] # the hook that FastAPI documents
    # The one added last sees a request first; the first one answers what is asked most.
    app.add_middleware(Predicting, predictor=predictor, settings=settings)
    explain_routes.install(app, predictor, settings, metrics, docs)
    _add_guards(app, settings, metrics, docs)
    if tracing:
        app.add_middleware(TraceRequests, tracing=tracing)
    app.add_middleware(SecurityHeaders)
    app.add_middleware(RequestLog, lines=settings.serving_access_log)
    return app


def served_app() -> FastAPI:
    """Return the predictor for a process that uvicorn runs, with its bounds on connections."""
    without_pandas()
    lean_heap()
    settings = ServingSettings()
    set_bounds(
        max_connections=settings.serving_max_connections,
        head_timeout=settings.serving_head_timeout,
        read_timeout=settings.serving_read_timeout,
        drain=settings.serving_drain,
    )
    return create_app(settings)


def _add_guards(app: FastAPI, settings: ServingSettings, metrics: Metrics, docs: OpenApi) -> None:
    # Headers go on every answer, refusals are counted, and who has no key takes nobody's turn.
    turns, reading = (
        Turns(settings.serving_max_concurrency, settings.serving_max_queue, settings.serving_queue_timeout)
        for _ in range(2)
    )
    metrics.watch_queue(lambda: turns.taken + reading.taken, lambda: turns.waiting + reading.waiting)
    app.add_middleware(
        LimitConcurrency,
        turns=turns,
        reading=reading,
        small=settings.serving_max_body_bytes,
        timeout=settings.serving_queue_timeout,
        rejected=metrics.rejected,
    )
    told, being_told = (
        Turns(_FEEDBACKS, settings.serving_max_queue, settings.serving_queue_timeout) for _ in range(2)
    )
    app.add_middleware(
        LimitConcurrency,
        turns=told,
        reading=being_told,
        small=settings.serving_max_body_bytes,
        timeout=settings.serving_queue_timeout,
        rejected=metrics.rejected,
        prefix=FEEDBACK,
    )
    keys = settings.api_keys
    if keys or settings.metrics_shut:
        shut = api_keys.shut_paths(keys=bool(keys), metrics=settings.metrics_shut)
        app.add_middleware(api_keys.RequireKey, keys=keys, shut=shut, rejected=metrics.rejected)
        docs.finish.append(api_keys.document(shut))
    if settings.serving_metrics:
        app.add_middleware(MeasureRequests, metrics=metrics)
