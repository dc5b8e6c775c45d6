"""The training flow: ingest, validate, split, train, search, evaluate, calibrate, convert; then publish."""

from prefect import flow

from catalog.loader import get_model
from catalog.spec import ModelSpec
from checks.data.uploads import trained_on
from flows import mlflow_connection
from flows.modeling.trained_model import TrainedModel
from flows.orchestration import flow_run_locks
from flows.orchestration.notifications import HOOKS
from flows.training import publish, resume, tasks
from flows.training.outcome import TrainingOutcome, notify_outcome
from flows.training.publish import Notify, Promotion


@flow(name="train", flow_run_name="train-{model}", validate_parameters=False, **HOOKS)
def train(model: str, promote_passed: bool = False, dataset: str | None = None) -> TrainingOutcome:
    """Train, gate and register one model of the catalogue; with `promote_passed`, promote what passed.

    `dataset` is the id of an uploaded dataset to learn from instead of the declared table.
    Returns the outcome, refused or not. Raises `CatalogError` for an unknown model, `TrainingError` for
    data or declarations that cannot be used, and what the registry raises when it does not answer.

    Killed at any point and run again, it continues with the version that was registered, if one was, and
    trains anew otherwise: there is one version in the end.
    """
    return run_training(model, dataset, promote=publish.promote if promote_passed else None)


def run_training(
    model: str,
    dataset: str | None = None,
    *,
    promote: Promotion | None = None,
    notify: Notify = notify_outcome,
) -> TrainingOutcome:
    """Do all of a training inside a flow: `promote` is its last step, `notify` gets the outcome."""
    spec = trained_on(get_model(model), dataset) if dataset else get_model(model)
    with flow_run_locks.flow_run_lock() as flow_run:
        mlflow_connection.connect()
        key = resume.training_key(spec, f"{tasks.search_trials(spec)} trials")
        if unfinished := resume.find_unfinished(spec, key, flow_run):
            return publish.resume_publish(spec, unfinished, flow_run, promote, notify)
        tags = resume.run_tags(spec, key, flow_run)
        return publish.publish(_trained(spec), f"train-{spec.name}", tags, promote, notify)


def _trained(spec: ModelSpec) -> TrainedModel:
    rows, cleaning = tasks.validate(spec, tasks.ingest(spec))
    data = tasks.split_rows(spec, rows)
    fitted = [tasks.train_candidate(spec, candidate, data.train, data.folds) for candidate in spec.candidates]
    fitted, trials = tasks.search_further(spec, fitted, data.train, data.folds)
    winner, scored = tasks.evaluate(spec, fitted, data.train, data.test)
    winner = tasks.calibrate(spec, winner, data.train)
    content, agreement = tasks.convert(spec, winner, data.train, data.test)
    return TrainedModel(spec, cleaning, data, winner, scored, trials, content, agreement)
