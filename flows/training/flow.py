"""The training flow, from a table to a version. Submissions share its end, from `publish` on."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import click
import mlflow
from prefect import flow

from catalog.loader import get_model
from catalog.spec import ModelSpec
from checks.data.uploads import trained_on
from flows import mlflow_connection
from flows.evaluation.intervals import Interval
from flows.evaluation.model_card import Facts
from flows.modeling.trained_model import TrainedModel
from flows.orchestration.flow_run_locks import flow_run_lock
from flows.orchestration.notifications import HOOKS
from flows.training import mlflow_log, resume, steps
from flows.training.outcome import TrainingOutcome, notify_outcome
from registry.errors import RegistryRefusedError
from registry.names import FLOW_RUN, MODEL, SCORE, TRAINING, Stage

# The last step with a version that passed: its stage afterwards, and why it was refused, if so.
Promotion = Callable[[ModelSpec, int], tuple[str, list[str]]]
Notify = Callable[[TrainingOutcome], None]


@dataclass(frozen=True)
class Training:
    """A training at work, or a submission: its declaration, its run's tags, and its last steps.

    `unfinished` is what a killed training left that did the same; then that one is continued. `promote` is
    the last step with a version that passed, if there is one; `notify` gets the outcome.
    """

    spec: ModelSpec
    tags: dict[str, str]
    unfinished: resume.UnfinishedTraining | None
    promote: Promotion | None
    notify: Notify


@flow(name="train", flow_run_name="train-{model}", validate_parameters=False, **HOOKS)
def train(model: str, promote_passed: bool = False, dataset: str | None = None) -> TrainingOutcome:
    """Train, gate and register one model of the catalogue; with `promote_passed`, promote what passed.

    `dataset` is the id of an uploaded dataset to learn from instead of the declared table.
    Returns the outcome, refused or not. Raises `CatalogError` for an unknown model, `TrainingError` for
    data or declarations that cannot be used, and what the registry raises when it does not answer.

    Killed at any point and run again, it continues with the version that was registered, if one was, and
    trains anew otherwise: there is one version in the end.
    """
    return run_training(model, dataset, promote=promote if promote_passed else None)


def run_training(
    model: str,
    dataset: str | None = None,
    *,
    promote: Promotion | None = None,
    notify: Notify = notify_outcome,
) -> TrainingOutcome:
    """Do all of a training inside a flow: `promote` is its last step, `notify` gets the outcome."""
    spec = trained_on(get_model(model), dataset) if dataset else get_model(model)
    with open_training(spec, f"{steps.search_trials(spec)} trials", promote, notify) as training:
        if training.unfinished:
            return publish_unfinished(training, training.unfinished)
        rows, cleaning = steps.validate(spec, steps.ingest(spec))
        data = steps.split_rows(spec, rows)
        fitted = [steps.train_candidate(spec, candidate, data) for candidate in spec.candidates]
        fitted, trials = steps.search_further(spec, fitted, data)
        winner, scored = steps.evaluate(spec, fitted, data)
        winner = steps.calibrate(spec, winner, data)
        content, agreement = steps.convert(spec, winner, data)
        trained = TrainedModel(spec, cleaning, data, winner, scored, trials, content, agreement)
        return publish(training, trained, f"train-{spec.name}")


@contextmanager
def open_training(
    spec: ModelSpec, content: str, promote: Promotion | None, notify: Notify = notify_outcome
) -> Iterator[Training]:
    """Hold the flow run's lock, connect to MLflow and look for a killed training that did the same.

    `content` is what a training's result depends on beside declaration, data and code.
    """
    with flow_run_lock() as flow_run:
        mlflow_connection.connect()
        key = resume.training_key(spec, content)
        # The run is created with them, so that no run lacks them.
        tags = {MODEL: spec.name, "greenroom.role": "training", TRAINING: key, FLOW_RUN: flow_run}
        yield Training(spec, tags, resume.find_unfinished(spec, key, flow_run), promote, notify)


def publish(training: Training, model: TrainedModel, name: str) -> TrainingOutcome:
    """Log, register, judge and promote a model, in a run of this name."""
    spec = model.spec
    mlflow.set_experiment(spec.name)
    # Shows the UI's view for trained models instead of the one for language models.
    mlflow.set_experiment_tag("mlflow.experimentKind", "custom_model_development")
    with mlflow.start_run(run_name=name, tags={**training.tags, **model.tags}) as run:
        evaluation = steps.measure(model)
        model_id = steps.log_winner(model, evaluation, mlflow_log.log_run(model))
        facts = Facts(model, evaluation, run.info.run_id)
        steps.write_card(facts)
        number = steps.register(facts, model_id)
        # Inside the run: it counts as finished after this, and not before (flows/training/resume.py).
        return _judge_and_promote(
            training,
            number,
            winner=model.winner.candidate.name,
            score=evaluation.headline,
            baseline=evaluation.baseline.value,
        )


def publish_unfinished(training: Training, unfinished: resume.UnfinishedTraining) -> TrainingOutcome:
    """Do the remaining steps with the version that a killed flow registered."""
    spec, version, client = training.spec, unfinished.version, mlflow.MlflowClient()
    client.set_tag(unfinished.run_id, FLOW_RUN, training.tags[FLOW_RUN])
    metrics, name = client.get_run(unfinished.run_id).data.metrics, spec.metric.removeprefix("neg_")
    score = Interval(
        float(version.tags.get(SCORE, "nan")),
        metrics.get(f"test_{name}_low"),
        metrics.get(f"test_{name}_high"),
    )
    with mlflow.start_run(run_id=unfinished.run_id):
        return _judge_and_promote(
            training,
            version.number,
            winner=unfinished.winner,
            score=score,
            baseline=metrics.get(f"baseline_{name}"),
        )


def promote(spec: ModelSpec, number: int) -> tuple[str, list[str]]:
    """Promote a version to Production, as a last step; return the stage that it came to, and a refusal."""
    try:
        return steps.promote(spec, number), []
    except RegistryRefusedError as error:  # somebody promoted another version meanwhile, for example
        click.secho(f"{spec.name} version {number} was not promoted. {error}", fg="red", err=True)
        version = mlflow.MlflowClient().get_model_version(spec.name, str(number))
        return version.current_stage or Stage.NONE.value, [str(error)]


def _judge_and_promote(
    training: Training, number: int, *, winner: str, score: Interval, baseline: float | None
) -> TrainingOutcome:
    """Have the gate judge a version, promote what passed if that was asked for, and notify people."""
    spec, stage = training.spec, Stage.NONE.value
    verdict = steps.judge(spec, number)
    steps.describe(spec, number, verdict)
    refusals = [f"{o.check} {o.status}: {o.reason}" for o in verdict.refusals]
    if training.promote and verdict.passed:
        stage, refused = training.promote(spec, number)
        refusals += refused
    outcome = TrainingOutcome(
        model=spec.name,
        version=number,
        winner=winner,
        metric=spec.metric,
        score=score.value,
        passed=verdict.passed,
        stage=stage,
        refusals=tuple(refusals),
        baseline=baseline,
        low=score.low,
        high=score.high,
    )
    training.notify(outcome)
    return outcome
