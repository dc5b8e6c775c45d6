"""Subcommand of this room: monitor."""

import sys
from datetime import UTC, datetime

import click

from catalog.loader import get_model, load_catalog
from flows.environment import prepare_environment, require_servers
from flows.settings import FlowSettings


@click.command()
@click.argument("models", nargs=-1)
@click.option(
    "--window", metavar="HOURS", type=click.FloatRange(0, min_open=True), help="Look back this far."
)
@click.option("--since", type=click.DateTime(), help="Look back to this moment, UTC.")
def monitor(models: tuple[str, ...], window: float | None, since: datetime | None) -> None:
    """Compare what MODELS were asked and answered lately with what they were trained on.

    Without names, every model of the catalogue. Reads the prediction log and
    feedback; a run in MLflow's experiment `monitoring` holds numbers and report.

    Exit code 1 if a model drifts, 2 if none does but of one it could not be told (too few predictions, no
    reference, or it failed), else 0.
    """
    if window is not None and since is not None:
        raise click.UsageError("--window and --since say the same thing; give one of them.")
    names = [get_model(name).name for name in models] or list(load_catalog())
    settings = FlowSettings()
    prepare_environment(settings)
    require_servers(settings)
    # Imported here: MLflow and Prefect take seconds, and `--help` should not.
    from flows.monitoring.flow import monitor as monitor_flow  # noqa: PLC0415

    begun = since.replace(tzinfo=UTC) if since else None
    results = set()
    for name in names:
        try:
            seen = monitor_flow(name, since=begun, hours=window)
        except Exception as error:  # noqa: BLE001 - one model must not take the others down
            results.add("failed")
            click.secho(f"{name}: {type(error).__name__}: {error}", fg="red", err=True)
            continue
        for one in seen:
            results.add(one.status)
            version = f" version {one.version}" if one.version else ""
            click.echo(f"{one.model}{version}: {one.status}; {one.rows:,} predictions")
            for line in (*one.reasons, *one.notes):
                click.echo(f"  {line}")
            if one.performance and not one.performance.worse:
                click.echo(f"  {one.performance.sentence(get_model(name).metric)}")
    sys.exit(1 if "drift" in results else 0 if results <= {"ok"} else 2)
