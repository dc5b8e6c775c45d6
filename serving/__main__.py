"""`python -m serving`: the predictor, in one process or several."""

import shutil
import signal
import sys
from typing import NoReturn

import uvicorn
from pydantic import ValidationError

from catalog.loader import CatalogError, load_catalog
from registry.settings import explain
from serving.middleware.access_log import config
from serving.middleware.tracing import TracingUnavailableError, require_tracing
from serving.process import workers
from serving.process.connections import BoundedProtocol
from serving.settings import ServingSettings


def main() -> None:
    """Run until told to stop; exit code 2 when a setting or a declaration is wrong."""
    try:
        settings = ServingSettings()
        load_catalog()
        if settings.serving_otlp_endpoint:
            require_tracing()
    except ValidationError as error:
        _refuse(explain(error))
    except (CatalogError, TracingUnavailableError) as error:
        _refuse(str(error))
    # uvicorn finishes the requests under way, then raises the signal again; a stop is no failure.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    if settings.serving_workers == 1:
        _run(settings)
        return
    folder = workers.prepare()
    try:
        _run(settings)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(settings: ServingSettings) -> None:
    uvicorn.run(
        "serving.app:served_app",
        factory=True,
        http=BoundedProtocol,
        ws="none",
        host=settings.serving_host,
        port=settings.serving_port,
        workers=settings.serving_workers,
        server_header=False,
        # A proxy's headers are not read: nothing depends on the address of a caller behind it.
        proxy_headers=False,
        access_log=False,  # serving/middleware/access_log.py writes one
        log_config=config(settings.serving_log_format),
        timeout_graceful_shutdown=settings.serving_shutdown_timeout,
    )


def _refuse(message: str) -> NoReturn:
    sys.stderr.write(f"greenroom predictor: {message}\n")
    sys.exit(2)


if __name__ == "__main__":
    main()
