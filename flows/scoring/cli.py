"""Subcommand of this room: score."""

import sys
import time
from operator import itemgetter

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from catalog.loader import get_model
from flows.environment import prepare_command


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
    sha256:HEX. After an interruption the same command goes on, with the version that it began with. Every row
    is in the results once; readers wait for DEST/_SUCCESS, the manifest.

    Exit code 0: done. 1: more rows than allowed break the contract. 2: another error.
    """
    name = get_model(model).name
    prepare_command()
    # Imported here: Prefect and Dask take seconds, and `--help` should not.
    from flows.scoring.flow import TooManyRejectedError, run_scoring  # noqa: PLC0415

    start = time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    try:
        with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
            rows = bar.add_task(f"{name}, rows", total=None)
            result = run_scoring(
                name,
                source,
                destination,
                keep=keep,
                max_rejected=max_rejected,
                progress=lambda finished, total: bar.update(rows, completed=finished, total=total),
            )
    except TooManyRejectedError as error:
        click.secho(f"{name}: {error}", fg="red", err=True)
        sys.exit(1)
    except Exception as error:  # noqa: BLE001 - each error is printed
        click.secho(f"{name}: {type(error).__name__}: {error}", fg="red", err=True)
        sys.exit(2)
    seconds = time.monotonic() - start
    click.echo(
        f"{result.rows:,} rows scored by {result.model} version {result.version}, {result.rejected:,} of "
        f"them without an answer; {result.parts} partitions, {result.existing} of them there before; "
        f"{seconds:.1f} s"
    )
    for reason, count in sorted(result.reasons.items(), key=itemgetter(1), reverse=True):
        click.echo(f"  {count:,} rows: {reason}")
    click.echo(f"The manifest is {result.destination}/_SUCCESS.")
