"""Subcommand of this room: train."""

import os
import sys

import click

from catalog.loader import get_model, load_catalog


@click.command()
@click.argument("models", nargs=-1)
@click.option("--promote", is_flag=True, help="Move what the gate let pass to Production.")
def train(models: tuple[str, ...], promote: bool) -> None:
    """Train, gate and register MODELS; without names, every model of the catalogue.

    A model that the gate refused is registered too, so that people can look at it, but stays where it is.
    Exit code 1 if a model was refused, 2 if one could not be trained; the others are trained all the same.
    """
    names = [get_model(name).name for name in models] or list(load_catalog())
    _quieten()
    # Imported here: MLflow and Prefect take seconds, and `--help` should not.
    from flows.train import Outcome  # noqa: PLC0415
    from flows.train import train as train_flow  # noqa: PLC0415

    outcomes: list[Outcome] = []
    failed = []
    for name in names:
        try:
            outcomes.append(train_flow(name, promote_passed=promote))
        except Exception as error:  # noqa: BLE001 - one model must not take the others down
            failed.append(name)
            click.secho(f"{name}: {type(error).__name__}: {error}", fg="red", err=True)
    for done in outcomes:
        result = "passed the gate" if done.passed else "was refused by the gate"
        click.echo(
            f"{done.model} version {done.version} {result}; {done.metric} {done.score:.3f}; {done.stage}"
        )
    sys.exit(2 if failed else int(any(not done.passed for done in outcomes)))


def _quieten() -> None:
    """Steps print a line of their own; Prefect's log of the same goes to its server alone."""
    for name, value in {
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "1",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_LOGGING_LEVEL": "WARNING",
        "GIT_PYTHON_REFRESH": "quiet",
    }.items():
        os.environ.setdefault(name, value)
