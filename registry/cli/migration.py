"""Subcommand for operators of the tracking server: migrate."""

import click

from registry.server import database
from registry.server.settings import MigrationSettings


@click.command()
@click.option("--dry-run", is_flag=True, help="Say what would be done, and change nothing.")
@click.option(
    "--keep",
    multiple=True,
    metavar="MODEL=VERSION",
    help="Which version stays in Production of a model that has several; the others are archived. Repeat it.",
)
def migrate(keep: tuple[str, ...], *, dry_run: bool) -> None:
    """Install or update the guard in the tracking server's database. Safe to run again.

    Needs GREENROOM_DATABASE_ADMIN_URL (a role that owns MLflow's tables) and GREENROOM_DATABASE_URL or
    MLFLOW_BACKEND_STORE_URI (the role that the server runs as, another one). Stop the server first.
    """
    for sentence in database.install(MigrationSettings(), keep=dict(map(_kept, keep)), dry_run=dry_run):
        click.echo(sentence)


def _kept(text: str) -> tuple[str, int]:
    model, _, number = text.rpartition("=")
    if not model or not number.isdecimal():
        raise click.BadParameter(f"{text!r} is not MODEL=VERSION, such as genre=3.", param_hint="--keep")
    return model, int(number)
