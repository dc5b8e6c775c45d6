"""The steps of a training in their order, as Prefect tasks over plain functions.

They add retries, where the outside may fail, and a line of progress. What is wrong inside (data,
declarations) is not tried again.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click
import mlflow
import pandas as pd
from prefect import get_run_logger, task

from catalog.spec import Candidate, ModelSpec
from checks.data import sources, splits, validation
from checks.data.cleaning import Cleaning, clean
from checks.data.splits import SplitRows
from checks.service.client import request_verdict
from flows.evaluation import model_card, plots, scores
from flows.evaluation.scores import Evaluation
from flows.modeling import candidates, onnx_export, search
from flows.modeling.candidates import FittedCandidate
from flows.modeling.search import Trial
from flows.modeling.trained_model import ScoredCandidate, TrainedModel
from flows.orchestration import progress
from flows.orchestration.retries import BOUNDED, COMPUTING, RETRIES
from flows.settings import FlowSettings
from flows.tasks.base import Agreement
from flows.tasks.registry import task_of
from flows.training import mlflow_log
from registry.client.registry import Registry
from registry.client.tracking_client import TrackingClient
from registry.evidence.attestation import read_unverified
from registry.evidence.verdict import Verdict
from registry.model_format.onnx_model import OnnxModel
from registry.names import EVIDENCE, OVERRIDE
from registry.storage.datasets import is_dataset_id

CARD_ARTIFACT = "model-card.md"


@contextmanager
def log_step(spec: ModelSpec, name: str) -> Iterator[Callable[[str], None]]:
    """Time a step and log its notes in one line, on the terminal and in Prefect; nothing without notes."""
    start = time.monotonic()
    notes: list[str] = []
    yield notes.append
    if notes:
        line = f"{spec.name:<11} {name:<9} {'; '.join(notes)}"
        seconds = f"{time.monotonic() - start:5.1f} s"
        click.echo(f"{seconds}  {line}")
        get_run_logger().log(logging.INFO, "%s (%s)", line, seconds.strip())


@task(**BOUNDED)
def ingest(spec: ModelSpec) -> sources.Table | pd.DataFrame:
    """Open the model's table; its rows are read as they are validated."""
    with log_step(spec, "ingest") as note:
        table = sources.open_table(spec.dataset)
        uploaded = f", uploaded as {spec.dataset.source}" if is_dataset_id(spec.dataset.source) else ""
        note(f"{len(table):,} rows of {spec.dataset.name}{uploaded}")
    return table


@task(**COMPUTING)
def validate(spec: ModelSpec, table: sources.Table | pd.DataFrame) -> tuple[pd.DataFrame, Cleaning]:
    """Validate every row against the contract; resolve repeated and contradicting rows."""
    with log_step(spec, "validate") as note:
        valid, problems = validation.validate(table, spec.dataset)
        rows, cleaning = clean(valid, spec, read=len(table))
        note(
            f"{cleaning.kept:,} rows kept; left out: {cleaning.invalid} invalid, "
            f"{cleaning.conflicting} contradicting, {cleaning.repeated} repeated"
        )
        for problem in problems:
            note(problem)
    return rows, cleaning


@task(name="split")
def split_rows(spec: ModelSpec, rows: pd.DataFrame) -> SplitRows:
    """Bring the features into the model's form; choose held-out rows, and the folds of the others."""
    with log_step(spec, "features") as note:
        note(f"{len(spec.features)} features")
    with log_step(spec, "split") as note:
        data = splits.split_rows(rows, spec)
        by = f", by {spec.dataset.group}" if spec.dataset.group else ""
        train, test = len(data.train.features), len(data.test.features)
        note(f"{train:,} rows to train on, {test:,} held out{by}")
    return data


@task(task_run_name="train-{candidate.name}", **COMPUTING)
def train_candidate(spec: ModelSpec, candidate: Candidate, data: SplitRows) -> FittedCandidate:
    """Cross-validate and fit one candidate."""
    with log_step(spec, "train") as note:
        fitted = candidates.fit(spec, candidate, data.train, data.folds)
        note(f"{candidate.name}: {spec.metric} {fitted.cv_mean:.3f} ± {fitted.cv_std:.3f} on training folds")
    return fitted


@task(name="search", **COMPUTING)
def search_further(
    spec: ModelSpec, fitted: list[FittedCandidate], data: SplitRows
) -> tuple[list[FittedCandidate], list[Trial]]:
    """Search around the declared candidates for the declared number of trials; see `search.refine`."""
    trials = search_trials(spec)
    with log_step(spec, "search") as note:
        with progress.budget(f"{spec.name} search", trials, get_run_logger().info) as advance:
            refined, searched = search.refine(
                spec,
                fitted,
                data.train,
                data.folds,
                trials=trials,
                notify=lambda count, best: advance(
                    count, f"best {spec.metric} {best.mean:.3f} ({best.candidate.name})"
                ),
            )
        for before, after in zip(fitted, refined, strict=True):
            if after is not before:
                note(f"{after.candidate.name}: {spec.metric} {before.cv_mean:.3f} to {after.cv_mean:.3f}")
        if len(searched) > len(fitted):
            complete = sum(trial.state == "complete" for trial in searched)
            note(f"{len(searched) - len(fitted)} trials, {complete} of them on all folds")
    return refined, searched


def search_trials(spec: ModelSpec) -> int:
    """Return the number of trials of a search: the declaration's, unless a setting has another."""
    trials = FlowSettings().search_trials
    return spec.search_trials if trials is None else trials


@task(**COMPUTING)
def evaluate(
    spec: ModelSpec, fitted: list[FittedCandidate], data: SplitRows
) -> tuple[FittedCandidate, list[ScoredCandidate]]:
    """Score every candidate on both sides; choose by the training folds."""
    with log_step(spec, "evaluate") as note:
        scored = [
            ScoredCandidate(
                candidate, *(scores.score(spec, candidate.pipeline, side) for side in (data.train, data.test))
            )
            for candidate in fitted
        ]
        winner = candidates.best(fitted)
        held_out = next(candidate.test for candidate in scored if candidate.fitted is winner)
        headline = held_out[spec.metric.removeprefix("neg_")]
        note(f"{winner.candidate.name} wins; held-out {spec.metric} {headline:.3f}")
    return winner, scored


@task(**COMPUTING)
def calibrate(spec: ModelSpec, winner: FittedCandidate, data: SplitRows) -> FittedCandidate:
    """Calibrate a classifier's probabilities, if training folds show that it helps."""
    with log_step(spec, "calibrate") as note:
        winner = candidates.calibrate(spec, winner, data.train)
        if (calibration := winner.calibration) is not None:
            if calibration.temperature is None:
                note(f"left as it is: {calibration.why}")
            else:
                before, after = calibration.before, calibration.after
                note(f"temperature {calibration.temperature:.3f}")
                note(f"log loss on folds {before['log_loss']:.3f} to {after['log_loss']:.3f}")
                note(f"ECE {before['ece']:.3f} to {after['ece']:.3f}")
    return winner


@task(**COMPUTING)
def convert(spec: ModelSpec, winner: FittedCandidate, data: SplitRows) -> tuple[bytes, Agreement]:
    """Convert the winner to ONNX and compare it with the original on held-out rows."""
    with log_step(spec, "convert") as note:
        pipeline, things = task_of(spec).served(winner.pipeline, data.train, data.test)
        content = onnx_export.export(spec, pipeline, data.train.features, things)
        model = OnnxModel(content)
        agreement = onnx_export.agreement(pipeline, model, data.test.features)
        labels = f", {agreement.labels:.1%} of answers agree" if agreement.labels is not None else ""
        note(f"ONNX, {len(content) / 1e6:.1f} MB; differs by at most {agreement.max_difference:.2g}{labels}")
        if model.description.answers == "clusters":
            note(f"clusters: {'; '.join(model.description.classes)}")
    return content, agreement


# From the ONNX file on: scores, run, card, version, verdict, promotion.


@task(**COMPUTING)
def measure(model: TrainedModel) -> Evaluation:
    """Score the winner on held-out rows with an interval, beside a naive baseline and a default forest."""
    with log_step(model.spec, "measure") as note:
        evaluation = scores.evaluate(model.spec, model.winner.pipeline, model.data.train, model.data.test)
        note(f"held-out {evaluation.metric} {evaluation.headline}")
        note(f"{evaluation.baseline_name} {evaluation.baseline}")
        if evaluation.over_forest is not None:
            note(f"better than a default forest by {evaluation.over_forest}")
    return evaluation


@task(name="log", **BOUNDED)
def log_winner(model: TrainedModel, evaluation: Evaluation, held_out: Any) -> str:
    """Log the winner's plots, its metrics and both its forms to the active run; return the model's id.

    `held_out` is the dataset that the metrics are linked to.
    """
    with log_step(model.spec, "log") as note:
        for path, content in plots.draw(model):
            if path.endswith(".png"):
                mlflow.log_figure(content, path)
            elif path.endswith(".csv"):
                mlflow.log_text(content.to_csv(index=False), path)
            else:
                mlflow.log_dict(content, path)
        model_id = mlflow_log.log_winner(model, evaluation.metrics(), held_out)
        note("model, pictures, metrics")
    return model_id


@task(name="card", **BOUNDED)
def write_card(facts: model_card.Facts) -> None:
    """Log the model card and all trials to the active run; the gate's verdict is added by `describe`."""
    trials = facts.model.trials
    with log_step(facts.spec, "card") as note:
        mlflow.log_text(model_card.card(facts), CARD_ARTIFACT)
        mlflow.log_text(search.table(facts.spec, trials).to_csv(index=False), "search/trials.csv")
        note(f"{CARD_ARTIFACT}, {len(trials)} trials")


@task(**BOUNDED)
def register(facts: model_card.Facts, model_id: str) -> int:
    """Register the logged model as a new version, and return its number."""
    with log_step(facts.spec, "register") as note:
        number = mlflow_log.register(facts, model_id)
        note(f"version {number}")
    return number


@task(name="gate", **RETRIES)
def judge(spec: ModelSpec, number: int) -> Verdict:
    """Ask the gate about a version: it judges the very bytes that would be served, and signs.

    A version that has evidence already, because a training was cut short after it, is not judged again.
    """
    with log_step(spec, "gate") as note:
        with TrackingClient() as client:
            registry = Registry(client)
            version = registry.version(spec.name, number)
            judged = bool({EVIDENCE, OVERRIDE} & set(version.tags))
            verdict = registry.verdict(version) if judged else request_verdict(spec.name, number)
            evidence = read_unverified(registry.version(spec.name, number).tags.get(EVIDENCE, ""))
        passed = sum(outcome.status == "passed" for outcome in verdict.outcomes)
        result = "passed" if verdict.passed else "REFUSED"
        note(f"{result}; {passed} of {len(verdict.outcomes)} checks passed")
        if evidence:
            note(f"signed {evidence.digest[:19]}…")
        for refusal in verdict.refusals:
            note(f"{refusal.check} {refusal.status}: {refusal.reason}")
    return verdict


@task(**BOUNDED)
def describe(spec: ModelSpec, number: int, verdict: Verdict) -> None:
    """Add the verdict to the active run, to its model card, and to the description of the version."""
    run = mlflow.active_run()
    if run is None:
        raise AssertionError("a training describes its version in its run")
    mlflow_log.log_verdict(verdict)
    text = mlflow.artifacts.load_text(f"{run.info.artifact_uri}/{CARD_ARTIFACT}")
    text = model_card.with_verdict(text, verdict)
    mlflow.log_text(text, CARD_ARTIFACT)
    hint = f"The whole model card is among the artifacts, as `{CARD_ARTIFACT}`."
    beginning = model_card.summary(text)
    mlflow.set_tag("mlflow.note.content", f"{beginning}\n{hint}\n\n{mlflow_log.note(verdict)}")
    mlflow.MlflowClient().update_model_version(spec.name, str(number), beginning)


@task(**BOUNDED)
def promote(spec: ModelSpec, number: int) -> str:
    """Move the version through Staging to Production. The server asks for the evidence itself."""
    with log_step(spec, "promote") as note, TrackingClient() as client:
        registry = Registry(client)
        # A try before this one may have got it to Staging or Production already.
        version = registry.promote_to_production(registry.version(spec.name, number))
        note(f"version {number} is in {version.stage}")
    return version.stage.value
