"""Subcommand of this room: monitor."""

import sys
from datetime import UTC, datetime

import click

from catalog.loader import get_model, load_catalog
from flows.environment import prepare_command


@click.command()
@click.argument("models", nargs=-1)
@click.option(
    "--window", metavar="HOURS", type=click.FloatRange(0, min_open=True), help="Look back this far."
)
@click.option("--since", type=click.DateTime(), help="Look back to this moment, UTC.")
def monitor(models: tuple[str, ...], window: float | None, since: datetime | None) -> None:
    """Compare the recent requests and predictions of MODELS with what they were trained on.

    Without names, every model of the catalogue. Reads the prediction log and feedback; a run in MLflow's
    experiment `monitoring` holds numbers and report.

    Exit code 1 if a model drifts. 2 if none does, but one could not be judged (too few predictions, no
    reference, or an error). Else 0.
    """
    if window is not None and since is not None:
        raise click.UsageError("--window and --since say the same thing; give one of them.")
    names = [get_model(name).name for name in models] or list(load_catalog())
    prepare_command()
    # Imported here: MLflow and Prefect take seconds, and `--help` should not.
    from flows.monitoring.flow import monitor as monitor_flow  # noqa: PLC0415

    start = since.replace(tzinfo=UTC) if since else None
    statuses = set()
    for name in names:
        try:
            results = monitor_flow(name, since=start, hours=window)
        except Exception as error:  # noqa: BLE001 - an error of one model must not stop the others
            statuses.add("failed")
            click.secho(f"{name}: {type(error).__name__}: {error}", fg="red", err=True)
            continue
        for result in results:
            statuses.add(result.status)
            version = f" version {result.version}" if result.version else ""
            click.echo(f"{result.model}{version}: {result.status}; {result.rows:,} predictions")
            for line in (*result.reasons, *result.notes):
                click.echo(f"  {line}")
            if result.performance and not result.performance.worse:
                click.echo(f"  {result.performance.sentence(get_model(name).metric)}")
    sys.exit(1 if "drift" in statuses else 0 if statuses <= {"ok"} else 2)
