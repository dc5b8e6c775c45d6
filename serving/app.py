"""Composition root: the only place that knows how the parts fit together."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from catalog.loader import load_catalog
from serving import api_keys, explain_routes, http_errors
from serving.admin import admin_routes
from serving.headers import SecurityHeaders
from serving.metrics import MeasureRequests, Metrics, metrics_routes
from serving.openapi import OpenApi
from serving.overload import LimitConcurrency, Turns
from serving.predicting import Predicting
from serving.predictor import Predictor
from serving.routes import describe_predict, health_routes, model_routes
from serving.settings import ServingSettings
from serving.uploads.routes import upload_routes
from serving.watching import Watcher

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
    watcher = Watcher(predictor, settings, metrics)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        # In the background, so that the process answers (and stops) while a tracking server does not.
        watcher.start()
        yield
        watcher.stop()

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
    app.include_router(health_routes(predictor))
    app.include_router(admin_routes(watcher, settings))
    app.include_router(upload_routes(predictor.specs))
    if settings.serving_metrics:
        app.include_router(metrics_routes(metrics))
    http_errors.install(app)
    docs = OpenApi(app, lambda: predictor.contracts, [describe_predict(settings)])
    app.openapi = docs.page  # type: ignore[method-assign] # the hook that FastAPI documents
    # The one added last sees a request first; the first one answers what is asked most.
    app.add_middleware(Predicting, predictor=predictor, settings=settings)
    explain_routes.install(app, predictor, settings, metrics, docs)
    _add_guards(app, settings, metrics, docs)
    return app


def _add_guards(app: FastAPI, settings: ServingSettings, metrics: Metrics, docs: OpenApi) -> None:
    # Headers go on every answer, refusals are counted, and who has no key takes nobody's turn.
    turns = Turns(
        settings.serving_max_concurrency, settings.serving_max_queue, settings.serving_queue_timeout
    )
    metrics.watch_queue(lambda: turns.taken, lambda: turns.waiting)
    app.add_middleware(
        LimitConcurrency,
        turns=turns,
        timeout=settings.serving_queue_timeout,
        rejected=metrics.rejected,
    )
    keys = settings.api_keys
    if keys or settings.metrics_shut:
        shut = api_keys.shut_paths(keys=bool(keys), metrics=settings.metrics_shut)
        app.add_middleware(api_keys.RequireKey, keys=keys, shut=shut, rejected=metrics.rejected)
        docs.finish.append(api_keys.document(shut))
    if settings.serving_metrics:
        app.add_middleware(MeasureRequests, metrics=metrics)
    app.add_middleware(SecurityHeaders)
