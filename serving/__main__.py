"""`python -m serving`: the predictor, in one process."""

import logging
import signal
import sys
from typing import Any, NoReturn

import uvicorn
from pydantic import ValidationError

from catalog.loader import CatalogError
from serving.app import create_app
from serving.settings import ServingSettings


class _NotHealth(logging.Filter):
    """Keeps out of the access log what is asked every few seconds, and queries.

    No route reads a query, but a caller may have put a key into one.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        if not isinstance(record.args, tuple) or len(record.args) < 3:
            return True
        client, method, full_path, *rest = record.args
        path = str(full_path).partition("?")[0]
        record.args = (client, method, path, *rest)
        return path not in ("/healthz", "/readyz", "/metrics")


def main() -> None:
    """Run until told to stop; exit code 2 when a setting or a declaration is wrong."""
    try:
        settings = ServingSettings()
        app = create_app(settings)
    except ValidationError as error:
        wrong = "; ".join(f"GREENROOM_{str(e['loc'][0]).upper()}: {e['msg']}" for e in error.errors())
        _refuse(f"a setting is not valid. {wrong}.")
    except CatalogError as error:
        _refuse(str(error))
    # uvicorn finishes what is under way, then raises the signal again; being told to stop is no failure.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    uvicorn.run(
        app,
        host=settings.serving_host,
        port=settings.serving_port,
        # One process: a second one would hold every model again. Run more of them behind a proxy.
        workers=1,
        server_header=False,
        access_log=settings.serving_access_log,
        log_config=_logging(settings.serving_log_level),
        timeout_graceful_shutdown=settings.serving_shutdown_timeout,
    )


def _refuse(message: str) -> NoReturn:
    sys.stderr.write(f"greenroom predictor: {message}\n")
    sys.exit(2)


def _logging(level: str) -> dict[str, Any]:
    logger = {"handlers": ["stderr"], "level": level.upper(), "propagate": False}
    access = '%(asctime)s %(client_addr)s "%(request_line)s" %(status_code)s'
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {"not_health": {"()": _NotHealth}},
        "formatters": {
            "plain": {"format": "%(asctime)s %(levelname)s %(message)s"},
            "access": {"()": "uvicorn.logging.AccessFormatter", "fmt": access, "use_colors": False},
        },
        "handlers": {
            "stderr": {"class": "logging.StreamHandler", "formatter": "plain"},
            "stdout": {
                "class": "logging.StreamHandler",
                "formatter": "access",
                "stream": "ext://sys.stdout",
                "filters": ["not_health"],
            },
        },
        "loggers": {
            "uvicorn": logger,
            "greenroom": logger,
            "uvicorn.access": {"handlers": ["stdout"], "level": "INFO", "propagate": False},
        },
    }


if __name__ == "__main__":
    main()
