"""The steps of a training up to its ONNX file, as Prefect tasks over plain functions.

They add retries, where the outside may fail, and a line of progress. What is wrong inside (data,
declarations) is not tried again.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click
import pandas as pd
from prefect import get_run_logger, task

from catalog.spec import Candidate, ModelSpec
from checks.data import sources, splits, validation
from checks.data.cleaning import Cleaning, clean
from checks.data.splits import Folds, Rows, SplitRows
from flows.evaluation.scores import score
from flows.modeling import candidates, onnx_export, search
from flows.modeling.candidates import FittedCandidate
from flows.modeling.search import Trial
from flows.modeling.trained_model import ScoredCandidate
from flows.orchestration import progress
from flows.orchestration.retries import BOUNDED, COMPUTING
from flows.settings import FlowSettings
from flows.tasks.base import Agreement
from flows.tasks.registry import task_of
from registry.model_format.onnx_model import OnnxModel
from registry.storage.datasets import is_dataset_id


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
def train_candidate(spec: ModelSpec, candidate: Candidate, train: Rows, folds: Folds) -> FittedCandidate:
    """Cross-validate and fit one candidate."""
    with log_step(spec, "train") as note:
        fitted = candidates.fit(spec, candidate, train.features, train.target, folds)
        note(f"{candidate.name}: {spec.metric} {fitted.cv_mean:.3f} ± {fitted.cv_std:.3f} on training folds")
    return fitted


@task(name="search", **COMPUTING)
def search_further(
    spec: ModelSpec, fitted: list[FittedCandidate], train: Rows, folds: Folds
) -> tuple[list[FittedCandidate], list[Trial]]:
    """Search around the declared candidates for the declared number of trials; see `search.refine`."""
    search.require_spaces(spec)
    trials = search_trials(spec)
    if trials == 0 or not any(candidate.search for candidate in spec.candidates):
        return fitted, search.declared_trials(fitted)
    with log_step(spec, "search") as note:
        with progress.budget(f"{spec.name} search", trials, get_run_logger().info) as advance:
            refined, searched = search.refine(
                spec,
                fitted,
                train,
                folds,
                trials=trials,
                notify=lambda count, best: advance(
                    count, f"best {spec.metric} {best.mean:.3f} ({best.candidate.name})"
                ),
            )
        for before, after in zip(fitted, refined, strict=True):
            if after is not before:
                note(f"{after.candidate.name}: {spec.metric} {before.cv_mean:.3f} to {after.cv_mean:.3f}")
        complete = sum(trial.state == "complete" for trial in searched)
        note(f"{len(searched) - len(fitted)} trials, {complete} of them on all folds")
    return refined, searched


def search_trials(spec: ModelSpec) -> int:
    """Return the number of trials of a search: the declaration's, unless a setting has another."""
    trials = FlowSettings().search_trials
    return spec.search_trials if trials is None else trials


@task(**COMPUTING)
def evaluate(
    spec: ModelSpec, fitted: list[FittedCandidate], train: Rows, test: Rows
) -> tuple[FittedCandidate, list[ScoredCandidate]]:
    """Score every candidate on both sides; choose by the training folds."""
    with log_step(spec, "evaluate") as note:
        scored = [
            ScoredCandidate(
                candidate,
                *(score(spec, candidate.pipeline, side.features, side.target) for side in (train, test)),
            )
            for candidate in fitted
        ]
        winner = candidates.best(fitted)
        held_out = next(candidate.test for candidate in scored if candidate.fitted is winner)
        headline = held_out[spec.metric.removeprefix("neg_")]
        note(f"{winner.candidate.name} wins; held-out {spec.metric} {headline:.3f}")
    return winner, scored


@task(**COMPUTING)
def calibrate(spec: ModelSpec, winner: FittedCandidate, train: Rows) -> FittedCandidate:
    """Calibrate a classifier's probabilities, if training folds show that it helps."""
    with log_step(spec, "calibrate") as note:
        winner = candidates.calibrate(spec, winner, train.features, train.target)
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
def convert(spec: ModelSpec, winner: FittedCandidate, train: Rows, test: Rows) -> tuple[bytes, Agreement]:
    """Convert the winner to ONNX and compare it with the original on held-out rows."""
    with log_step(spec, "convert") as note:
        pipeline, things = task_of(spec).served(spec, winner.pipeline, train, test)
        content = onnx_export.export(spec, pipeline, train.features, things)
        model = OnnxModel(content)
        agreement = onnx_export.agreement(pipeline, model, test.features)
        labels = f", {agreement.labels:.1%} of answers agree" if agreement.labels is not None else ""
        note(f"ONNX, {len(content) / 1e6:.1f} MB; differs by at most {agreement.max_difference:.2g}{labels}")
        if model.description.answers == "clusters":
            note(f"clusters: {'; '.join(model.description.classes)}")
    return content, agreement
