"""Subcommand of this room: train."""

import sys
from pathlib import Path

import click

from catalog.loader import CatalogError, get_model, load_catalog
from checks.data.uploads import contract_of, trained_on
from checks.errors import DataError, GateInputError
from flows.environment import CommandError, prepare_command
from flows.errors import TrainingError
from flows.training.outcome import TrainingResult, exit_code
from flows.training.parallel import print_summary, train_in_parallel
from registry.client.registry import Registry
from registry.client.tracking_client import TrackingClient
from registry.errors import RegistryError, StorageUnavailableError
from registry.names import Stage


@click.command()
@click.argument("models", nargs=-1)
@click.option("--promote", is_flag=True, help="Move what the gate let pass to Production.")
@click.option("--dataset", metavar="ID", help="Learn from an uploaded dataset, sha256:HEX.")
@click.option("--jobs", default=2, show_default=True, type=click.IntRange(1, 64), help="Most models at once.")
@click.option(
    "--outcome", type=click.Path(path_type=Path), hidden=True, help="For programs: tell it to a file."
)
def train(
    models: tuple[str, ...], *, promote: bool, dataset: str | None, jobs: int, outcome: Path | None
) -> None:
    """Train, gate and register MODELS; without names, every model of the catalogue.

    With --dataset they learn from the rows that POST /api/upload-dataset stored under that id; without
    names, every model does whose dataset it is.

    Several train side by side, each in a process of its own, and a table says how each ended: promoted,
    passed, refused or failed. A model that the gate refused is registered too, so that people can look at it,
    but stays where it is. Exit code 1 if a model was refused, by the gate or by the server, 2 if one could
    not be trained; the others are trained all the same.
    """
    names = [get_model(name).name for name in models] or list(load_catalog())
    if dataset is not None:
        names = _fit_for(dataset, names, named=bool(models))
    prepare_command()
    if len(names) > 1:
        results = train_in_parallel(names, promote=promote, dataset=dataset, jobs=jobs)
        print_summary(results)
    else:
        results = [_train(name, promote=promote, dataset=dataset) for name in names]
    if outcome is not None:
        results[0].write(outcome)
    sys.exit(exit_code(results))


@click.command()
@click.argument("model")
@click.argument("version", type=click.IntRange(min=1), required=False)
def reproduce(model: str, version: int | None) -> None:
    """Train VERSION of MODEL again and say whether the file is the same to the byte; nothing is registered.

    Without a number: the version in Production. The rows are those that the signed evidence names.

    Exit code 0: the same. 1: another file. 2: nobody can tell, because evidence, table or declaration is not
    there any more as it was.
    """
    from flows.training import reproduce as reproduction  # noqa: PLC0415 - MLflow and scikit-learn take seconds

    try:
        with TrackingClient() as client:
            registry = Registry(client)
            if version is None:
                chosen = registry.in_stage(model, Stage.PRODUCTION)
            else:
                chosen = registry.version(model, version)
            if chosen is None:
                raise CommandError(f"{model} has no version in Production: name one by its number.")
            outcome = reproduction.reproduce(registry, chosen)
    except (CatalogError, DataError, GateInputError, RegistryError, TrainingError) as error:
        raise CommandError(str(error)) from error
    if outcome.same:
        click.echo(f"{chosen} is the same to the byte: {outcome.signed}")
        return
    click.echo(f"{chosen} is another file: signed {outcome.signed}, trained again {outcome.trained}")
    for note in outcome.notes:
        click.echo(f"  {note}")
    sys.exit(1)


def _train(name: str, *, promote: bool, dataset: str | None) -> TrainingResult:
    """Train one model in this process."""
    # Imported here: MLflow and Prefect take seconds, and `--help` should not.
    from flows.orchestration.retries import explain  # noqa: PLC0415
    from flows.training.flow import train as train_flow  # noqa: PLC0415

    try:
        done = train_flow(name, promote_passed=promote, dataset=dataset)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is told
        problem = explain(error)
        click.secho(f"{name}: {problem}", fg="red", err=True)
        return TrainingResult(name, problem=problem)
    result = "passed the gate" if done.passed else "was refused by the gate"
    click.echo(f"{done.model} version {done.version} {result}; {done.scored}; {done.stage}")
    return TrainingResult(name, done)


def _fit_for(dataset_id: str, names: list[str], *, named: bool) -> list[str]:
    """Return the models that can learn from an uploaded dataset; before anything is trained."""
    catalogue = load_catalog()
    try:
        for name in names:
            trained_on(catalogue[name], dataset_id)
        contract = contract_of(dataset_id)
    except (DataError, StorageUnavailableError) as error:
        raise CommandError(str(error)) from error
    unfit = [name for name in names if catalogue[name].dataset.name != contract]
    if unfit and (named or len(unfit) == len(names)):
        raise CommandError(
            f"The dataset {dataset_id} holds rows of {contract!r}, which these models do not learn from: "
            f"{', '.join(f'{name} ({catalogue[name].dataset.name})' for name in unfit)}. Name models of "
            f"{contract!r}, or none: then those are trained."
        )
    return [name for name in names if name not in unfit]
