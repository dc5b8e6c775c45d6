"""The steps of a training, as Prefect tasks: thin over the plain functions of this room.

They add retries, where the outside may fail, and a line of progress. What is wrong inside (data,
declarations) is not tried again.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import click
import numpy.typing as npt
import pandas as pd
from prefect import get_run_logger, task

from catalog.spec import Candidate, ModelSpec
from flows.data import cache, sources, splits
from flows.data.cleaning import Cleaning, clean, features
from flows.errors import TrainingError
from flows.evaluation import metrics
from flows.modeling import candidates, onnx_export, search, similarity
from flows.orchestration import progress
from flows.orchestration.retries import BOUNDED, COMPUTING
from flows.settings import FlowSettings
from registry.model_format.onnx_model import OnnxModel
from registry.storage.datasets import is_dataset_id


@dataclass(frozen=True)
class Rows:
    """Rows of one side of the split: what the model reads, and the other columns of its declaration.

    `groups` has the main group of each row, where the dataset has groups.
    """

    features: pd.DataFrame
    others: pd.DataFrame
    label: str | None
    groups: npt.NDArray[Any] | None = None

    @property
    def target(self) -> "pd.Series[Any] | None":
        """What scores are made with; None for a clustering."""
        return None if self.label is None else self.others[self.label]

    @property
    def frame(self) -> pd.DataFrame:
        """Both in one table."""
        return pd.concat([self.features, self.others], axis=1)


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


@task(**BOUNDED)
def ingest(spec: ModelSpec) -> sources.Table | pd.DataFrame:
    """Find the model's table; its rows are read as they are validated."""
    with step(spec, "ingest") as say:
        table = sources.open_table(spec.dataset)
        uploaded = f", uploaded as {spec.dataset.source}" if is_dataset_id(spec.dataset.source) else ""
        say(f"{len(table):,} rows of {spec.dataset.name}{uploaded}")
    return table


@task(**COMPUTING)
def validate(spec: ModelSpec, table: sources.Table | pd.DataFrame) -> tuple[pd.DataFrame, Cleaning]:
    """Hold every row against the contract; resolve repeated and contradicting rows."""
    with step(spec, "validate") as say:
        valid, problems, known = cache.validated(table, spec.dataset)
        rows, cleaning = clean(valid, spec, read=len(table))
        say(
            f"{cleaning.kept:,} rows kept; left out: {cleaning.invalid} invalid, "
            f"{cleaning.conflicting} contradicting, {cleaning.repeated} repeated"
        )
        for problem in problems:
            say(problem)
        if known:
            say("held against the contract before")
    return rows, cleaning


@task
def engineer(spec: ModelSpec, rows: pd.DataFrame) -> pd.DataFrame:
    """Bring the model's columns into the form it reads. What is learned from rows is in the pipeline."""
    with step(spec, "features") as say:
        matrix = features(rows, spec)
        say(f"{matrix.shape[1]} features")
    return matrix


@task(name="split")
def split_rows(spec: ModelSpec, rows: pd.DataFrame, matrix: pd.DataFrame) -> tuple[Rows, Rows, Any]:
    """Choose held-out rows, and the folds of the others."""
    with step(spec, "split") as say:
        train, test = splits.split(rows, spec)
        folds = splits.folds(rows.iloc[train], spec)
        others = rows[[name for name in spec.columns if name not in spec.features]]
        others = others.astype("float64" if spec.task == "regression" else "str")
        groups = splits.main_groups(rows, spec.dataset)
        sides = [
            Rows(
                features=matrix.iloc[at].reset_index(drop=True),
                others=others.iloc[at].reset_index(drop=True),
                label=spec.label,
                groups=None if groups is None else groups[at],
            )
            for at in (train, test)
        ]
        by = f", by {spec.dataset.group}" if spec.dataset.group else ""
        say(f"{len(train):,} rows to train on, {len(test):,} held out{by}")
    return sides[0], sides[1], folds


@task(task_run_name="train-{candidate.name}", **COMPUTING)
def train_candidate(
    spec: ModelSpec, candidate: Candidate, train: Rows, folds: Any
) -> tuple[candidates.Fitted, float]:
    """Cross-validate and fit one candidate."""
    began = time.monotonic()
    with step(spec, "train") as say:
        fitted = candidates.fit(spec, candidate, train.features, train.target, folds)
        say(f"{candidate.name}: {spec.metric} {fitted.cv_mean:.3f} ± {fitted.cv_std:.3f} on training folds")
    return fitted, time.monotonic() - began


@task(**COMPUTING)
def evaluate(
    spec: ModelSpec, fitted: list[tuple[candidates.Fitted, float]], train: Rows, test: Rows
) -> tuple[candidates.Fitted, list[tuple[candidates.Fitted, dict[str, float], dict[str, float], float]]]:
    """Score every candidate on both sides; choose by the training folds."""
    with step(spec, "evaluate") as say:
        scored = [
            (
                one,
                metrics.score(spec, one.pipeline, train.features, train.target),
                metrics.score(spec, one.pipeline, test.features, test.target),
                seconds,
            )
            for one, seconds in fitted
        ]
        winner = candidates.best([one for one, _ in fitted])
        held_out = next(test_scores for one, _, test_scores, _ in scored if one is winner)
        say(f"{winner.candidate.name} wins; held-out {spec.metric} {headline(spec, held_out):.3f}")
    return winner, scored


@task(**COMPUTING)
def convert(
    spec: ModelSpec, winner: candidates.Fitted, train: Rows, test: Rows
) -> tuple[bytes, onnx_export.Agreement]:
    """Turn the winner into ONNX and hold it against the original on held-out rows."""
    with step(spec, "convert") as say:
        content, pipeline = _converted(spec, winner, train, test)
        model = OnnxModel(content)
        found = onnx_export.agreement(pipeline, model, test.features)
        labels = f", {found.labels:.1%} of answers agree" if found.labels is not None else ""
        say(f"ONNX, {len(content) / 1e6:.1f} MB; differs by at most {found.max_difference:.2g}{labels}")
        if spec.task == "clustering":
            say(f"clusters: {'; '.join(model.description.classes)}")
    return content, found


def _converted(spec: ModelSpec, winner: candidates.Fitted, train: Rows, test: Rows) -> tuple[bytes, Any]:
    if spec.task != "similarity":
        return onnx_export.export(spec, winner.pipeline, train.features), winner.pipeline
    # Scores are of an index without held-out rows; what is served finds those, too.
    things = pd.concat([train.frame, test.frame], ignore_index=True)
    whole = similarity.complete(winner.pipeline, things[list(spec.features)])
    return onnx_export.export(spec, whole, things=things), whole


def headline(spec: ModelSpec, scores: dict[str, float]) -> float:
    """Return the score that the model is known by."""
    return scores[spec.metric.removeprefix("neg_")]


@task(name="search", **COMPUTING)
def search_further(
    spec: ModelSpec, fitted: list[tuple[candidates.Fitted, float]], train: Rows, folds: Any
) -> tuple[list[tuple[candidates.Fitted, float]], list[search.Tried]]:
    """Search around the declared candidates for the declared number of trials, on training folds alone.

    Returns each candidate with the best parameters there are now, and everything that was tried, the declared
    ones first. A candidate keeps its declared parameters unless a trial is better beyond the folds' noise.
    """
    search.require_spaces(spec)
    trials = search_trials(spec)
    declared = [
        search.Tried(one.candidate, one.folds, "declared", took * len(one.folds) / (len(one.folds) + 1))
        for one, took in fitted
    ]
    if trials == 0 or not any(candidate.search for candidate in spec.candidates):
        return fitted, declared

    def score(candidate: Candidate, number: int) -> candidates.Scored:
        try:
            return candidates.score_fold(spec, candidate, train.features, train.target, folds[number])
        except ValueError as error:
            raise TrainingError(
                f"{spec.name}: the candidate {candidate.name} cannot be fitted with {candidate.params}, "
                f"which its `search` allows: {error}. Make that space narrower."
            ) from error

    with step(spec, "search") as say:
        log = get_run_logger()
        with progress.budget(f"{spec.name} search", trials, log.info) as advance:
            tried = search.search(
                declared,
                score,
                trials=trials,
                seed=spec.split.seed,
                tell=lambda count, top: advance(
                    count, f"best {spec.metric} {top.mean:.3f} ({top.candidate.name})"
                ),
            )
        better = []
        for (one, took), start in zip(fitted, declared, strict=True):
            top = search.best([*declared, *tried], one.candidate.name)
            if top.state == "declared" or not search.is_better(top, start):
                better.append((one, took))
                continue
            began = time.monotonic()
            whole = candidates.fit_whole(spec, top.candidate, train.features, train.target, top.folds)
            better.append((whole, top.seconds + time.monotonic() - began))
            say(f"{whole.candidate.name}: {spec.metric} {one.cv_mean:.3f} to {whole.cv_mean:.3f}")
        complete = sum(one.state == "complete" for one in tried)
        say(f"{len(tried)} trials, {complete} of them on all folds")
    return better, [*declared, *tried]


def search_trials(spec: ModelSpec) -> int:
    """Return how many trials a search makes: what the declaration says, unless a setting says otherwise."""
    chosen = FlowSettings().search_trials
    return spec.search_trials if chosen is None else chosen


@task(**COMPUTING)
def calibrate(spec: ModelSpec, winner: candidates.Fitted, train: Rows) -> candidates.Fitted:
    """Calibrate a classifier's probabilities, if training folds say that it helps."""
    if spec.task != "classification":
        return winner
    with step(spec, "calibrate") as say:
        done = candidates.calibrate(spec, winner, train.features, train.target)
        if (found := done.calibration) is not None:
            if found.temperature is not None:
                say(f"temperature {found.temperature:.3f}")
                say(f"log loss on folds {found.before['log_loss']:.3f} to {found.after['log_loss']:.3f}")
                say(f"ECE {found.before['ece']:.3f} to {found.after['ece']:.3f}")
            else:
                say(f"left as it is: {found.why}")
    return done
