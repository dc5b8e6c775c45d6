"""Composition root: the only place that knows how the parts fit together."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version
from threading import Thread

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from catalog.loader import load_catalog
from serving import http_errors
from serving.headers import SecurityHeaders
from serving.loading import load_production
from serving.openapi import RequestSchemas
from serving.predictor import Predictor
from serving.routes import health_routes, model_routes
from serving.settings import ServingSettings

_DESCRIPTION = """\
Predictions by the model versions that are in Production.

One POST per model, with one JSON object of features; `GET /api/models` says what is served and in which
units. Every error has the form `{"error": {"code", "message", "details": [{"field", "problem"}]}}`.
"""


def create_app(settings: ServingSettings | None = None) -> FastAPI:
    """Return the predictor; its models are loaded once it runs.

    Raises `catalog.loader.CatalogError` when a declaration cannot be read.
    """
    settings = settings or ServingSettings()
    predictor = Predictor(load_catalog())
    schemas = RequestSchemas(predictor.requests)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        # In the background, so that the process answers (and stops) while a tracking server does not; a
        # daemon, because a download under way has nothing to lose.
        load = partial(predictor.load, partial(load_production, settings))
        Thread(target=load, name="load-models", daemon=True).start()
        yield

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
    app.include_router(model_routes(predictor, settings, schemas))
    app.include_router(health_routes(predictor))
    app.add_middleware(SecurityHeaders)
    http_errors.install(app)
    schemas.install(app)
    return app
