"""Subcommands of the local stack: up, down, status."""

import json
import os
import sys
import time
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

import click
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from catalog.contract import request_model
from catalog.loader import load_catalog
from infra.local import prefect_pages, stack
from infra.local.settings import LocalSettings, is_set_up, load_or_create
from infra.local.supervisor import StackError
from registry.settings import explain, home

P = ParamSpec("P")
_MIN_FREE_GB = 1.0


def _clear_errors(command: Callable[P, None]) -> Callable[P, None]:
    """Turn errors of the machine or the settings into one message and exit code 1, like a `StackError`."""

    @wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        # httpx and MLflow would send requests to 127.0.0.1 through a proxy of the environment.
        os.environ["NO_PROXY"] = ",".join(
            filter(None, [os.environ.get("NO_PROXY"), "127.0.0.1", "localhost"])
        )
        try:
            command(*args, **kwargs)
        except ValidationError as error:
            raise click.ClickException(explain(error)) from error  # only settings are validated here
        except OSError as error:
            raise click.ClickException(stack.explain_os_error(error)) from error

    return wrapped


@click.command()
@click.option("--train/--no-train", default=True, help="Train the models that have no version yet.")
@_clear_errors
def up(train: bool) -> None:
    """Start everything, train what is missing, gate it, promote it, serve it.

    Safe to run again at any time: what runs is left alone, what died is started, nothing is trained twice.
    State lives in GREENROOM_HOME.
    """
    began = time.monotonic()
    with stack.exclusively():
        _require_space()
        settings = load_or_create()
        stack.start_services(settings, click.echo)
        trained = stack.train_what_is_missing(click.echo) if train else True
        stack.await_predictor(settings)
        stack.await_worker(settings)
        _show(stack.describe(settings), settings)
    click.echo(
        f"\nReady after {time.monotonic() - began:.0f} s. `make down` stops it, `make status` shows it."
    )
    if not trained:
        raise click.ClickException("Not every model could be trained: see above.")


@click.command()
@_clear_errors
def down() -> None:
    """Stop every process of the local stack. What it stored stays."""
    if not is_set_up():
        click.echo(f"There is no stack in {home()}.")
        return
    with stack.exclusively():
        stopped = stack.stop_services(click.echo)
    click.echo(f"All stopped. State stays in {home()}." if stopped else "Nothing was running.")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, for programs.")
@_clear_errors
def status(as_json: bool) -> None:
    """Show each service, and each model's version, stage, score and gate result.

    Exit code 1 if a service is not up.
    """
    if not is_set_up():
        message = f"There is no stack in {home()} yet; `make up` starts one."
        nothing = stack.Status(home=str(home()), services=[], problem=message)
        click.echo(json.dumps(nothing.to_json(), indent=2) if as_json else message)
        sys.exit(1)
    settings = load_or_create()
    state = stack.describe(settings)
    if as_json:
        click.echo(json.dumps(state.to_json(), indent=2))
    else:
        _show(state, settings)
    if state.problem:
        sys.exit(1)


def _require_space() -> None:
    disk = os.statvfs(home())
    free = disk.f_bavail * disk.f_frsize / 2**30
    if free < _MIN_FREE_GB:
        raise StackError(
            f"Only {free:.1f} GB are free on the disk of {home()}; the stack needs {_MIN_FREE_GB:.0f} GB. "
            "Free some space, or set GREENROOM_HOME to a folder on another disk."
        )


def _show(status: stack.Status, settings: LocalSettings) -> None:
    services = _table("Services", "service", "where", "state", "memory")
    for service in status.services:
        state = _coloured(service.state, good=service.state == "up")
        services.add_row(service.title, service.url, state, f"{service.memory_mb} MB")
    models = _table("Models", "model", "version", "stage", "score", "gate", "served")
    for model in status.models:
        models.add_row(
            model.name,
            str(model.version or "-"),
            model.stage or "not trained",
            f"{model.metric} {model.score:.3f}" if model.score is not None else "-",
            _coloured(model.gate or "-", good=model.gate == "passed"),
            _serving(model),
        )
    console = Console(soft_wrap=True)
    for table in (services, models):
        console.print()
        console.print(table)
    if link := prefect_pages.link():
        click.echo(f"\nPrefect's pages ask for a login. This link logs in a browser on this machine: {link}")
    served = next((model.name for model in status.models if model.serving), None)
    if served:
        console.print("\nAsk for a prediction:")
        click.echo(_curl(served, settings))
        click.echo(f"Every endpoint: {settings.serving_url}/docs")
    if status.problem:
        click.secho(f"\n{status.problem}", fg="red")


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left", show_edge=False, pad_edge=False)
    for heading in headings:
        table.add_column(heading, no_wrap=True)
    return table


def _coloured(text: str, *, good: bool) -> str:
    return f"[{'green' if good else 'red'}]{text}[/]"


def _serving(model: stack.ModelStatus) -> str:
    if model.serving is not None or len(set(model.replicas.values())) == 1:
        shown = f"version {model.serving}" if model.serving else "no"
    else:
        shown = ", ".join(f"version {v}" if v else "no" for v in model.replicas.values())
    return shown if set(model.replicas.values()) == {model.production} else f"[red]{shown}[/]"


def _curl(model: str, settings: LocalSettings) -> str:
    examples = request_model(load_catalog()[model]).model_json_schema().get("examples") or [{}]
    body = json.dumps(examples[0], separators=(",", ":"))
    return (
        f"curl -s {settings.serving_url}/api/predict/{model} -H 'content-type: application/json' -d '{body}'"
    )
