"""Subcommand of this room: submit."""

import os
import sys
from pathlib import Path

import click

from catalog.loader import CatalogError
from checks.errors import DataError
from flows.environment import CommandError, prepare_command
from flows.errors import LeakageError, TrainingError
from flows.training.outcome import TrainingResult, exit_code
from registry.errors import RegistryError


@click.command()
@click.argument("model")
@click.argument("source")
@click.option(
    "--as-fitted",
    is_flag=True,
    help="Do not fit it again: it may have seen held-out rows, so run and version say that it was fitted "
    "elsewhere. An ONNX file always is.",
)
@click.option("--promote", is_flag=True, help="Move what the gate let pass to Production; not --as-fitted.")
@click.option("--classes", metavar="A,B,…", help="Order of an ONNX file's probabilities. Default: sorted.")
@click.option(
    "--declaration",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Python file that declares MODEL, beside the catalogue.",
)
@click.option("--table", help="For a model that nobody declared: Parquet file, or the id of a stored one.")
@click.option("--target", help="Column of the table that is predicted.")
@click.option("--task", type=click.Choice(["classification", "regression"]), help="What is predicted.")
@click.option("--group", help="Column of the table whose equal values stay on one side of the split.")
def submit(
    model: str,
    source: str,
    *,
    declaration: Path | None,
    classes: str | None,
    promote: bool,
    **table_options: object,
) -> None:
    """Submit a model that you trained to the gate, as MODEL.

    SOURCE is a file (.onnx, .skops, or a pickle: .pkl, .pickle, .joblib), or runs:/ID/model or models:/… of
    the tracking server with a scikit-learn or ONNX model. To unpickle runs the code in the file: submit only
    what you, or somebody you trust, wrote.

    A scikit-learn estimator is cloned and fitted on the training rows. The next steps are those of
    `greenroom train`: ONNX, gate, run in MLflow, version, signature. A model that the catalogue does not
    declare needs --table, --target and --task, or --declaration.

    Exit code 0: it passed. 1: refused, by the gate or because it has seen the held-out rows. 2: it could not
    be submitted; nothing is registered then.
    """
    if declaration is not None:
        paths = [os.environ.get("GREENROOM_CATALOG_PATH", ""), str(declaration.resolve())]
        os.environ["GREENROOM_CATALOG_PATH"] = os.pathsep.join(filter(None, paths))
    prepare_command()
    # Imported here: MLflow and Prefect take seconds, and `--help` should not.
    from flows.submission.api import submit as submit_model  # noqa: PLC0415

    order = tuple(name.strip() for name in classes.split(",")) if classes else ()
    try:
        outcome = submit_model(source, model, promote=promote, classes=order, **table_options)  # type: ignore[arg-type]
    except LeakageError as error:
        click.secho(f"Refused. {error}", fg="red", err=True)
        sys.exit(1)
    except (TrainingError, DataError, CatalogError, RegistryError) as error:
        raise CommandError(str(error)) from error
    except Exception as error:  # MLflow and Prefect raise anything; it is printed
        raise CommandError(f"{model}: {type(error).__name__}: {error}") from error
    result = "passed the gate" if outcome.passed else "was refused by the gate"
    click.echo(f"{outcome.model} version {outcome.version} {result}; {outcome.scored}; {outcome.stage}")
    for refusal in outcome.refusals:
        click.echo(f"  {refusal}")
    next_command = (
        f"promote {model} {outcome.version}"
        if outcome.passed and not promote
        else f"gate {model} {outcome.version}"
    )
    click.echo(f"Next: greenroom {next_command}")
    sys.exit(exit_code([TrainingResult(model, outcome)]))
