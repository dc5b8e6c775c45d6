"""Prepares the environment of a flow, and checks that its two servers answer."""

import os

import click
import httpx

from flows.settings import FlowSettings
from registry.client.tracking_client import TrackingClient
from registry.errors import RegistryUnavailableError
from registry.settings import home


class CommandError(click.ClickException):
    """Why a command could not do its work; it exits with code 2."""

    exit_code = 2


def prepare_command() -> None:
    """Prepare the environment of a command; raises `CommandError` unless both servers answer."""
    settings = FlowSettings()
    prepare_environment(settings)
    require_servers(settings)


def prepare_environment(settings: FlowSettings) -> None:
    """Point Prefect to the settings' server with its login, and silence libraries.

    Each step prints one line; Prefect's log goes to its server alone.
    """
    # Without an address Prefect would start a temporary server.
    os.environ["PREFECT_API_URL"] = settings.prefect_url
    if login := settings.prefect_login:
        os.environ["PREFECT_API_AUTH_STRING"] = login
    os.environ["PREFECT_HOME"] = str(home() / "prefect")
    # If both are set, the lower-case one counts. Loopback must not go through a proxy.
    for name in ("NO_PROXY", "no_proxy"):
        hosts = (os.environ.get(name) or os.environ.get("NO_PROXY", "")).split(",")
        os.environ[name] = ",".join(dict.fromkeys(filter(None, [*hosts, "127.0.0.1", "localhost"])))
    for name, value in {
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "1",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_LOGGING_LEVEL": "ERROR",
        "GIT_PYTHON_REFRESH": "quiet",
    }.items():
        os.environ.setdefault(name, value)


def require_servers(settings: FlowSettings) -> None:
    """Raise `CommandError` unless both servers answer: MLflow's client would retry for minutes."""
    try:
        with TrackingClient() as client:
            client.post("experiments/search", {"max_results": 1})
    except RegistryUnavailableError as error:
        raise CommandError(str(error)) from error
    user, _, password = settings.prefect_login.partition(":")
    login = (user, password) if user else None
    try:
        # `/health` answers without a login, too.
        answer = httpx.get(f"{settings.prefect_url}/admin/version", auth=login, timeout=10)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise CommandError(
            f"Prefect at {settings.prefect_url} does not answer ({type(error).__name__}). "
            "Start the local stack with `make up`, or set GREENROOM_PREFECT_API_URL."
        ) from error
    if answer.status_code == httpx.codes.UNAUTHORIZED:
        raise CommandError(
            f"Prefect at {settings.prefect_url} refuses the login. `make up` writes the local stack's to "
            f"{home()}/stack.env; for another server set PREFECT_API_AUTH_STRING=user:password."
        )
    if answer.is_server_error:
        raise CommandError(
            f"Prefect at {settings.prefect_url} fails with {answer.status_code}. "
            f"Its log is {home()}/logs/prefect.log."
        )
