"""Subcommands of this room."""

import click

from catalog.loader import get_model
from registry.client import TrackingClient
from registry.stages import Registry, Stage


@click.command()
@click.argument("model")
@click.argument("version", type=click.IntRange(min=1))
@click.option(
    "--to",
    "stage",
    type=click.Choice([s.value for s in Stage], case_sensitive=False),
    default=Stage.PRODUCTION.value,
    show_default=True,
    help="Stage to move the version to.",
)
def promote(model: str, version: int, stage: str) -> None:
    """Move VERSION of MODEL to a stage, if the gate let it pass.

    To Production it goes through Staging, and the version that was there is archived.
    Exit code 1 when the gate did not pass these very bytes.
    """
    spec = get_model(model)
    target = Stage(stage)
    with TrackingClient() as client:
        registry = Registry(client)
        found = registry.version(model, version)
        if target is Stage.PRODUCTION and found.stage in (Stage.NONE, Stage.ARCHIVED):
            found = registry.promote(found, Stage.STAGING, spec.gate)
        moved = registry.promote(found, target, spec.gate)
    click.echo(f"{moved} is in {moved.stage}.")
