"""The training flow: ingest, validate, engineer, split, train, search, evaluate, convert; then the gate."""

from prefect import flow

from catalog.loader import get_model
from catalog.spec import ModelSpec
from flows import mlflow_connection
from flows.data.uploads import trained_on
from flows.orchestration import flow_run_locks
from flows.orchestration.notifications import HOOKS, tell_outcome
from flows.training import publish, resume, tasks
from flows.training.outcome import Outcome
from flows.training.publish import LastStep, Made, Tell


@flow(name="train", flow_run_name="train-{model}", validate_parameters=False, **HOOKS)
def train(model: str, promote_passed: bool = False, dataset: str | None = None) -> Outcome:
    """Train, gate and register one model of the catalogue; with `promote_passed`, promote what passed.

    `dataset` is the id of an uploaded dataset to learn from instead of the declared table.
    Returns the outcome, refused or not. Raises `CatalogError` for an unknown model, `TrainingError` for
    data or declarations that cannot be used, and what the registry raises when it does not answer.

    Killed at any point and run again, it goes on with the version that was registered, if one was, and
    trains anew otherwise: there is one version in the end.
    """
    return training(model, dataset, last=publish.promote if promote_passed else None)


def training(
    model: str, dataset: str | None = None, *, last: LastStep | None = None, tell: Tell = tell_outcome
) -> Outcome:
    """Do all of a training inside of a flow: `last` is its last step, `tell` is told the outcome."""
    with flow_run_locks.held() as flow_run:
        spec = trained_on(get_model(model), dataset) if dataset else get_model(model)
        mlflow_connection.connect()
        key = resume.training_key(spec, f"{tasks.search_trials(spec)} trials")
        if unfinished := resume.take_over(spec, key, flow_run):
            return publish.go_on(spec, unfinished, flow_run, last, tell)
        tags = resume.run_tags(spec, key, flow_run)
        return publish.finish(_trained(spec), f"train-{spec.name}", tags, last, tell)


def _trained(spec: ModelSpec) -> Made:
    table = tasks.ingest(spec)
    rows, cleaning = tasks.validate(spec, table)
    matrix = tasks.engineer(spec, rows)
    train_rows, test_rows, folds = tasks.split_rows(spec, rows, matrix)
    fitted = [tasks.train_candidate(spec, candidate, train_rows, folds) for candidate in spec.candidates]
    fitted, tried = tasks.search_further(spec, fitted, train_rows, folds)
    winner, scored = tasks.evaluate(spec, fitted, train_rows, test_rows)
    winner = tasks.calibrate(spec, winner, train_rows)
    content, found = tasks.convert(spec, winner, train_rows, test_rows)
    return Made(
        spec=spec,
        cleaning=cleaning,
        sides=(train_rows, test_rows),
        winner=winner,
        scored=scored,
        tried=tried,
        content=content,
        found=found,
        folds=folds,
    )
