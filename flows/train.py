"""The training flow: ingest, validate, engineer, split, train, search, evaluate, convert; then the gate."""

from prefect import flow

from catalog.loader import get_model
from catalog.spec import ModelSpec
from flows import finishing, living, quality, resuming, steps, tracking
from flows.finishing import LastStep, Made, Tell
from flows.notifying import HOOKS, tell_outcome
from flows.outcome import Outcome
from flows.uploaded import trained_on


@flow(name="train", flow_run_name="train-{model}", validate_parameters=False, **HOOKS)
def train(model: str, promote_passed: bool = False, dataset: str | None = None) -> Outcome:
    """Train, gate and register one model of the catalogue; with `promote_passed`, promote what passed.

    `dataset` is the id of an uploaded dataset to learn from instead of the declared table.
    Returns the outcome, refused or not. Raises `CatalogError` for an unknown model, `TrainingError` for
    data or declarations that cannot be used, and what the registry raises when it does not answer.

    Killed at any point and run again, it goes on with the version that was registered, if one was, and
    trains anew otherwise: there is one version in the end.
    """
    return training(model, dataset, last=finishing.promote if promote_passed else None)


def training(
    model: str, dataset: str | None = None, *, last: LastStep | None = None, tell: Tell = tell_outcome
) -> Outcome:
    """Do all of a training inside of a flow: `last` is its last step, `tell` is told the outcome."""
    with living.held() as flow_run:
        spec = trained_on(get_model(model), dataset) if dataset else get_model(model)
        tracking.connect()
        key = resuming.training_key(spec, f"{quality.search_trials(spec)} trials")
        if unfinished := resuming.take_over(spec, key, flow_run):
            return finishing.go_on(spec, unfinished, flow_run, last, tell)
        tags = resuming.run_tags(spec, key, flow_run)
        return finishing.finish(_trained(spec), f"train-{spec.name}", tags, last, tell)


def _trained(spec: ModelSpec) -> Made:
    table = steps.ingest(spec)
    rows, cleaning = steps.validate(spec, table)
    matrix = steps.engineer(spec, rows)
    train_rows, test_rows, folds = steps.split_rows(spec, rows, matrix)
    fitted = [steps.train_candidate(spec, candidate, train_rows, folds) for candidate in spec.candidates]
    fitted, tried = quality.search_further(spec, fitted, train_rows, folds)
    winner, scored = steps.evaluate(spec, fitted, train_rows, test_rows)
    winner = quality.calibrate(spec, winner, train_rows)
    content, found = steps.convert(spec, winner, train_rows, test_rows)
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
