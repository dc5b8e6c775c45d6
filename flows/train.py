"""The training flow: ingest, validate, engineer, split, train, evaluate, check, log, register, promote.

Tasks are thin over the plain functions of this room; they add retries, where the outside may fail, and a
line of progress. What is wrong inside (data, declarations) is not tried again.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import mlflow
import pandas as pd
import requests
from mlflow.exceptions import MlflowException
from prefect import flow, get_run_logger, task
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task, exponential_backoff

from catalog.loader import get_model
from catalog.spec import Candidate, ModelSpec
from checks.comparing import find_rival
from checks.gate import run_gate
from flows import data, models, pictures, tracking
from flows.notifying import HOOKS, tell_outcome
from flows.uploaded import trained_on
from registry.client import TrackingClient
from registry.datasets import is_dataset_id
from registry.errors import (
    KeyFileError,
    RegistryRefusedError,
    RegistryUnavailableError,
    StorageUnavailableError,
)
from registry.evidence import Verdict
from registry.nudging import nudge
from registry.onnx_model import OnnxModel
from registry.settings import KeySettings
from registry.stage import Stage
from registry.stages import Registry
from registry.tags import MODEL

# What may pass by itself: the registry, object storage, a network file system.
_OUTSIDE = (
    RegistryUnavailableError,
    StorageUnavailableError,
    requests.RequestException,
    ConnectionError,
    TimeoutError,
)


async def may_pass(_task: "Task[..., Any]", _run: TaskRun, state: State[Any]) -> bool:
    """Whether a failed task is worth another try: only if something outside failed."""
    error = await state.aresult(raise_on_failure=False)
    if isinstance(error, MlflowException):
        return int(error.get_http_status_code()) >= 500
    return isinstance(error, _OUTSIDE)


_RETRIES: dict[str, Any] = {
    "retries": 3,
    "retry_delay_seconds": exponential_backoff(2),
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": may_pass,
}


@dataclass(frozen=True)
class Outcome:
    """What a training came to."""

    model: str
    version: int
    winner: str
    metric: str
    score: float
    passed: bool
    stage: str
    refusals: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rows:
    """Rows of one side of the split: what the model reads, and what it should say."""

    features: pd.DataFrame
    target: "pd.Series[Any]"

    @property
    def frame(self) -> pd.DataFrame:
        """Both in one table."""
        return self.features.assign(**{str(self.target.name): self.target})


@contextmanager
def step(spec: ModelSpec, name: str) -> Iterator[Callable[[str], None]]:
    """Time a step and say in one line, on the terminal and in Prefect's log, what it did."""
    began = time.monotonic()
    said: list[str] = []
    yield said.append
    line = f"{spec.name:<11} {name:<9} {'; '.join(said)}"
    seconds = f"{time.monotonic() - began:5.1f} s"
    click.echo(f"{seconds}  {line}")
    get_run_logger().log(logging.INFO, "%s (%s)", line, seconds.strip())


@task(**_RETRIES)
def ingest(spec: ModelSpec) -> pd.DataFrame:
    """Read the model's table."""
    with step(spec, "ingest") as say:
        table = data.read_table(spec.dataset)
        uploaded = f", uploaded as {spec.dataset.source}" if is_dataset_id(spec.dataset.source) else ""
        say(f"{len(table):,} rows of {spec.dataset.name}{uploaded}")
    return table


@task
def validate(spec: ModelSpec, table: pd.DataFrame) -> tuple[pd.DataFrame, data.Cleaning]:
    """Hold every row against the contract; resolve repeated and contradicting rows."""
    with step(spec, "validate") as say:
        valid, problems = data.validate(table, spec.dataset)
        rows, cleaning = data.clean(valid, spec, read=len(table))
        say(
            f"{cleaning.kept:,} rows kept; left out: {cleaning.invalid} invalid, "
            f"{cleaning.conflicting} contradicting, {cleaning.repeated} repeated"
        )
        for problem in problems:
            say(problem)
    return rows, cleaning


@task
def engineer(spec: ModelSpec, rows: pd.DataFrame) -> pd.DataFrame:
    """Bring the model's columns into the form it reads. What is learned from rows is in the pipeline."""
    with step(spec, "features") as say:
        matrix = data.features(rows, spec)
        say(f"{matrix.shape[1]} features")
    return matrix


@task(name="split")
def split_rows(spec: ModelSpec, rows: pd.DataFrame, matrix: pd.DataFrame) -> tuple[Rows, Rows, Any]:
    """Choose held-out rows, and the folds of the others."""
    with step(spec, "split") as say:
        train, test = data.split(rows, spec)
        folds = data.folds(rows.iloc[train], spec)
        target = rows[spec.target].astype("float64" if spec.task == "regression" else "str")
        sides = [
            Rows(matrix.iloc[side].reset_index(drop=True), target.iloc[side].reset_index(drop=True))
            for side in (train, test)
        ]
        by = f", by {spec.dataset.group}" if spec.dataset.group else ""
        say(f"{len(train):,} rows to train on, {len(test):,} held out{by}")
    return sides[0], sides[1], folds


@task(task_run_name="train-{candidate.name}")
def train_candidate(
    spec: ModelSpec, candidate: Candidate, train: Rows, folds: Any
) -> tuple[models.Fitted, float]:
    """Cross-validate and fit one candidate."""
    began = time.monotonic()
    with step(spec, "train") as say:
        fitted = models.fit(spec, candidate, train.features, train.target, folds)
        say(f"{candidate.name}: {spec.metric} {fitted.cv_mean:.3f} ± {fitted.cv_std:.3f} on training folds")
    return fitted, time.monotonic() - began


@task
def evaluate(
    spec: ModelSpec, fitted: list[tuple[models.Fitted, float]], train: Rows, test: Rows
) -> tuple[models.Fitted, list[tuple[models.Fitted, dict[str, float], dict[str, float], float]]]:
    """Score every candidate on both sides; choose by the training folds."""
    with step(spec, "evaluate") as say:
        scored = [
            (
                one,
                models.score(spec, one.pipeline, train.features, train.target),
                models.score(spec, one.pipeline, test.features, test.target),
                seconds,
            )
            for one, seconds in fitted
        ]
        winner = models.best([one for one, _ in fitted])
        held_out = next(test_scores for one, _, test_scores, _ in scored if one is winner)
        say(f"{winner.candidate.name} wins; held-out {spec.metric} {_headline(spec, held_out):.3f}")
    return winner, scored


@task
def convert(
    spec: ModelSpec, winner: models.Fitted, train: Rows, test: Rows
) -> tuple[bytes, models.Agreement]:
    """Turn the winner into ONNX and hold it against the original on held-out rows."""
    with step(spec, "convert") as say:
        content = models.export(spec, winner.pipeline, train.features)
        found = models.agreement(winner.pipeline, OnnxModel(content), test.features)
        labels = f", {found.labels:.1%} of labels agree" if found.labels is not None else ""
        say(f"ONNX, {len(content) / 1e6:.1f} MB; differs by at most {found.max_difference:.2g}{labels}")
    return content, found


@task(**_RETRIES)
def check(spec: ModelSpec, content: bytes, train: Rows, test: Rows, report_dir: Path) -> Verdict:
    """Run the gate on the very bytes that would be served."""
    with step(spec, "check") as say:
        with TrackingClient() as client:
            verdict = run_gate(
                spec,
                train=train.frame,
                test=test.frame,
                model=OnnxModel(content),
                report_dir=report_dir,
                git_commit=tracking.git_commit(),
                rival=find_rival(Registry(client), spec.name),
            )
        good = sum(o.status == "passed" for o in verdict.outcomes)
        say(f"{'passed' if verdict.passed else 'REFUSED'}; {good} of {len(verdict.outcomes)} checks passed")
        for refusal in verdict.refusals:
            say(f"{refusal.check} {refusal.status}: {refusal.reason}")
    return verdict


@task(name="log", **_RETRIES)
def log_winner(
    spec: ModelSpec,
    winner: models.Fitted,
    *,
    content: bytes,
    found: models.Agreement,
    test: Rows,
    held_out: Any,
) -> str:
    """Log the winner's pictures and both its forms to the active run."""
    with step(spec, "log") as say:
        scores = models.score(spec, winner.pipeline, test.features, test.target)
        _log_pictures(spec, winner, test)
        model_id = tracking.log_winner(
            spec,
            winner,
            onnx_bytes=content,
            example=test.features.head(3),
            metrics=scores,
            agreement=found,
            held_out=held_out,
        )
        say("model, pictures, metrics")
    return model_id


@task(**_RETRIES)
def register(spec: ModelSpec, model_id: str, verdict: Verdict, score: float) -> int:
    """Register the logged model as a new version; the verdict is in its run already."""
    with step(spec, "register") as say:
        run = mlflow.active_run()
        if run is None:
            raise RuntimeError("register needs the training's run to be active")
        number = tracking.register(spec, run, model_id, tracking.version_tags(spec, verdict, score))
        say(f"version {number}")
    return number


@task(**_RETRIES)
def attest(spec: ModelSpec, number: int, verdict: Verdict) -> bool:
    """Sign the verdict on the version and put it there; False where the gate's key is not at hand."""
    with step(spec, "attest") as say, TrackingClient() as client:
        registry = Registry(client)
        try:
            made = registry.attest(registry.version(spec.name, number), verdict, KeySettings())
        except KeyFileError as error:
            say(f"NOT SIGNED: {error}")
            return False
        say(f"signed {made.digest[:19]}…")
    return True


@task(**_RETRIES)
def promote(spec: ModelSpec, number: int) -> str:
    """Move the version through Staging to Production. The server asks for the evidence itself."""
    with step(spec, "promote") as say, TrackingClient() as client:
        registry = Registry(client)
        version = registry.version(spec.name, number)
        for stage in (Stage.STAGING, Stage.PRODUCTION):
            version = registry.promote(version, stage)
        nudge(say)
        say(f"version {number} is in {version.stage}")
    return version.stage.value


@flow(name="train", flow_run_name="train-{model}", validate_parameters=False, **HOOKS)
def train(model: str, promote_passed: bool = False, dataset: str | None = None) -> Outcome:
    """Train, gate and register one model of the catalogue; with `promote_passed`, promote what passed.

    `dataset` is the id of an uploaded dataset to learn from instead of the declared table.
    Returns the outcome, refused or not. Raises `CatalogError` for an unknown model, `TrainingError` for
    data or declarations that cannot be used, and what the registry raises when it does not answer.
    """
    spec = trained_on(get_model(model), dataset) if dataset else get_model(model)
    tracking.connect()
    table = ingest(spec)
    rows, cleaning = validate(spec, table)
    matrix = engineer(spec, rows)
    train_rows, test_rows, folds = split_rows(spec, rows, matrix)
    fitted = [train_candidate(spec, candidate, train_rows, folds) for candidate in spec.candidates]
    winner, scored = evaluate(spec, fitted, train_rows, test_rows)
    content, found = convert(spec, winner, train_rows, test_rows)
    with TemporaryDirectory(prefix="greenroom-reports-") as scratch:
        reports = Path(scratch)
        # The gate is a process of its own: meanwhile this one logs what there is to log either way.
        checking = check.submit(spec, content, train_rows, test_rows, reports)
        mlflow.set_experiment(spec.name)
        # Shows the UI's view for trained models instead of the one for language models.
        mlflow.set_experiment_tag("mlflow.experimentKind", "custom_model_development")
        with mlflow.start_run(run_name=f"train-{spec.name}"):
            held_out = _log_run(spec, cleaning, scored, (train_rows, test_rows))
            model_id = log_winner(
                spec, winner, content=content, found=found, test=test_rows, held_out=held_out
            )
            verdict = checking.result()
            tracking.log_verdict(verdict, reports)
            score = _headline(spec, next(test for one, _, test, _ in scored if one is winner))
            number = register(spec, model_id, verdict, score)
    signed = attest(spec, number, verdict)
    stage, refusals = Stage.NONE.value, [f"{o.check} {o.status}: {o.reason}" for o in verdict.refusals]
    if promote_passed and verdict.passed and not signed:
        refusals.append("not signed: the gate's key is not here")
    elif promote_passed and verdict.passed:
        try:
            stage = promote(spec, number)
        except RegistryRefusedError as error:  # somebody promoted another version meanwhile, say
            refusals.append(str(error))
            click.secho(f"{spec.name} version {number} was not promoted. {error}", fg="red", err=True)
    outcome = Outcome(
        model=spec.name,
        version=number,
        winner=winner.candidate.name,
        metric=spec.metric,
        score=score,
        passed=verdict.passed,
        stage=stage,
        refusals=tuple(refusals),
    )
    tell_outcome(outcome)
    return outcome


def _log_run(spec: ModelSpec, cleaning: data.Cleaning, scored: Any, sides: tuple[Rows, Rows]) -> Any:
    mlflow.set_tags({MODEL: spec.name, "greenroom.role": "training"})
    if commit := tracking.git_commit():
        mlflow.set_tag("mlflow.source.git.commit", commit)
    mlflow.log_params({"task": spec.task, "target": spec.target, "seed": spec.split.seed})
    held_out = tracking.log_data(spec, cleaning, sides[0].frame, sides[1].frame)
    for one, train_scores, test_scores, seconds in scored:
        tracking.log_candidate(spec, one, train_scores, test_scores, seconds)
    return held_out


def _log_pictures(spec: ModelSpec, winner: models.Fitted, test: Rows) -> None:
    predicted = winner.pipeline.predict(test.features)
    actual = test.target.to_numpy()
    if spec.task == "classification":
        classes = [str(label) for label in winner.pipeline.classes_]
        mlflow.log_figure(pictures.confusion(actual, predicted, classes), "pictures/confusion-matrix.png")
    else:
        mlflow.log_figure(pictures.residuals(actual, predicted, spec.unit), "pictures/residuals.png")
    means, figure = pictures.importance(spec, winner.pipeline, test.features, test.target)
    mlflow.log_figure(figure, "pictures/feature-importance.png")
    mlflow.log_dict(means, "feature-importance.json")


def _headline(spec: ModelSpec, scores: dict[str, float]) -> float:
    return scores[spec.metric.removeprefix("neg_")]
