"""Subcommand of this room: score."""

import sys
import time

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from catalog.loader import get_model
from flows.environment import prepare_environment, require_servers
from flows.settings import FlowSettings


@click.command()
@click.argument("model")
@click.argument("source")
@click.option("--to", "destination", required=True, metavar="DEST", help="s3://BUCKET/PREFIX, or a folder.")
@click.option("--keep", multiple=True, metavar="COLUMN", help="Repeat a column of the input in the results.")
@click.option(
    "--max-rejected",
    type=click.FloatRange(0, 1),
    help="Share of rows that may break the contract; default: the dataset's own.",
)
def score(
    model: str, source: str, destination: str, *, keep: tuple[str, ...], max_rejected: float | None
) -> None:
    """Score the Parquet rows of SOURCE with MODEL's version in Production.

    SOURCE is a file or everything below s3://BUCKET/PREFIX or a folder, or the id of an uploaded dataset,
    sha256:HEX. Cut short, the same command goes on where it was, by the version that it began with. Every row
    is in the results once; readers wait for DEST/_SUCCESS, the manifest.

    Exit code 0: done. 1: more rows than allowed break the contract. 2: could not.
    """
    name = get_model(model).name
    settings = FlowSettings()
    prepare_environment(settings)
    require_servers(settings)
    # Imported here: Prefect and Dask take seconds, and `--help` should not.
    from flows.scoring.flow import TooManyRejectedError, scored  # noqa: PLC0415

    began = time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    try:
        with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
            rows = bar.add_task(f"{name}, rows", total=None)
            done = scored(
                name,
                source,
                destination,
                keep=keep,
                max_rejected=max_rejected,
                progress=lambda now, whole: bar.update(rows, completed=now, total=whole),
            )
    except TooManyRejectedError as error:
        click.secho(f"{name}: {error}", fg="red", err=True)
        sys.exit(1)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is told
        click.secho(f"{name}: {type(error).__name__}: {error}", fg="red", err=True)
        sys.exit(2)
    seconds = time.monotonic() - began
    click.echo(
        f"{done.rows:,} rows scored by {done.model} version {done.version}, {done.rejected:,} of them "
        f"without an answer; {done.parts} partitions, {done.found} of them there before; {seconds:.1f} s"
    )
    for why, count in sorted(done.reasons.items(), key=lambda one: -one[1]):
        click.echo(f"  {count:,} rows: {why}")
    click.echo(f"The manifest is {done.destination}/_SUCCESS.")
