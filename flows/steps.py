"""The steps of a training, as Prefect tasks: thin over the plain functions of this room.

They add retries, where the outside may fail, and a line of progress. What is wrong inside (data,
declarations) is not tried again.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import mlflow
import numpy.typing as npt
import pandas as pd
from prefect import get_run_logger, task

from catalog.spec import Candidate, ModelSpec
from checks.comparison import find_rival
from checks.gate import run_gate
from checks.rerun import rerun_gate
from flows import caching, data, models, neighbours, pictures, scores, tracking
from flows.retrying import BOUNDED, COMPUTING, RETRIES
from registry.client.registry import Registry, Version
from registry.client.tracking_client import TrackingClient
from registry.errors import KeyFileError
from registry.evidence.verdict import Verdict
from registry.model_format.onnx_model import OnnxModel
from registry.names import EVIDENCE, OVERRIDE, Stage
from registry.notify.predictors import nudge
from registry.settings import KeySettings
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
def ingest(spec: ModelSpec) -> data.Table | pd.DataFrame:
    """Find the model's table; its rows are read as they are validated."""
    with step(spec, "ingest") as say:
        table = data.open_table(spec.dataset)
        uploaded = f", uploaded as {spec.dataset.source}" if is_dataset_id(spec.dataset.source) else ""
        say(f"{len(table):,} rows of {spec.dataset.name}{uploaded}")
    return table


@task(**COMPUTING)
def validate(spec: ModelSpec, table: data.Table | pd.DataFrame) -> tuple[pd.DataFrame, data.Cleaning]:
    """Hold every row against the contract; resolve repeated and contradicting rows."""
    with step(spec, "validate") as say:
        valid, problems, known = caching.validated(table, spec.dataset)
        rows, cleaning = data.clean(valid, spec, read=len(table))
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
        matrix = data.features(rows, spec)
        say(f"{matrix.shape[1]} features")
    return matrix


@task(name="split")
def split_rows(spec: ModelSpec, rows: pd.DataFrame, matrix: pd.DataFrame) -> tuple[Rows, Rows, Any]:
    """Choose held-out rows, and the folds of the others."""
    with step(spec, "split") as say:
        train, test = data.split(rows, spec)
        folds = data.folds(rows.iloc[train], spec)
        others = rows[[name for name in spec.columns if name not in spec.features]]
        others = others.astype("float64" if spec.task == "regression" else "str")
        groups = scores.main_groups(rows, spec.dataset)
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
) -> tuple[models.Fitted, float]:
    """Cross-validate and fit one candidate."""
    began = time.monotonic()
    with step(spec, "train") as say:
        fitted = models.fit(spec, candidate, train.features, train.target, folds)
        say(f"{candidate.name}: {spec.metric} {fitted.cv_mean:.3f} ± {fitted.cv_std:.3f} on training folds")
    return fitted, time.monotonic() - began


@task(**COMPUTING)
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
        say(f"{winner.candidate.name} wins; held-out {spec.metric} {headline(spec, held_out):.3f}")
    return winner, scored


@task(**COMPUTING)
def convert(
    spec: ModelSpec, winner: models.Fitted, train: Rows, test: Rows
) -> tuple[bytes, models.Agreement]:
    """Turn the winner into ONNX and hold it against the original on held-out rows."""
    with step(spec, "convert") as say:
        content, pipeline = _converted(spec, winner, train, test)
        model = OnnxModel(content)
        found = models.agreement(pipeline, model, test.features)
        labels = f", {found.labels:.1%} of answers agree" if found.labels is not None else ""
        say(f"ONNX, {len(content) / 1e6:.1f} MB; differs by at most {found.max_difference:.2g}{labels}")
        if spec.task == "clustering":
            say(f"clusters: {'; '.join(model.description.classes)}")
    return content, found


def _converted(spec: ModelSpec, winner: models.Fitted, train: Rows, test: Rows) -> tuple[bytes, Any]:
    if spec.task != "similarity":
        return models.export(spec, winner.pipeline, train.features), winner.pipeline
    # Scores are of an index without held-out rows; what is served finds those, too.
    things = pd.concat([train.frame, test.frame], ignore_index=True)
    whole = neighbours.complete(winner.pipeline, things[list(spec.features)])
    return models.export(spec, whole, things=things), whole


@task(**RETRIES)
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


@task(name="log", **BOUNDED)
def log_winner(
    spec: ModelSpec,
    winner: models.Fitted,
    *,
    content: bytes,
    found: models.Agreement,
    sides: tuple[Rows, Rows],
    held_out: Any,
    measured: scores.Measured | None = None,
    folds: Any = None,
) -> str:
    """Log the winner's pictures and both its forms to the active run.

    With `measured` its metrics are those, else the plain scores; with `folds` there is a learning curve, too.
    """
    with step(spec, "log") as say:
        train, test = sides
        if measured is None:
            plain = models.score(spec, winner.pipeline, test.features, test.target)
            metrics = {f"test_{name}": value for name, value in plain.items()}
        else:
            metrics = measured.metrics()
        train_rows, test_rows = (train.features, train.target), (test.features, test.target)
        for path, made in pictures.draw(spec, winner, train_rows, test_rows, folds):
            _log_made(path, made)
        model_id = tracking.log_winner(
            spec,
            winner,
            onnx_bytes=content,
            example=test.features.head(3),
            metrics=metrics,
            agreement=found,
            held_out=held_out,
        )
        say("model, pictures, metrics")
    return model_id


@task(**BOUNDED)
def register(
    spec: ModelSpec,
    model_id: str,
    verdict: Verdict,
    score: float,
    *,
    description: str | None = None,
    tags: Mapping[str, str] | None = None,
) -> int:
    """Register the logged model as a new version; the verdict is in its run already.

    `description` is Markdown for the version's page, `tags` are what more is said on it.
    """
    with step(spec, "register") as say:
        run = mlflow.active_run()
        if run is None:
            raise RuntimeError("register needs the training's run to be active")
        said = {**(tags or {}), **tracking.version_tags(spec, verdict, score)}
        number = tracking.register(spec, run, model_id, said, description)
        say(f"version {number}")
    return number


@task(**BOUNDED)
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


@task(**BOUNDED)
def resume(spec: ModelSpec, version: Version) -> tuple[Verdict, bool]:
    """See to it that a version of a killed training has evidence; return the verdict, and if it is signed.

    A stored verdict that is not signed is not believed, for others may write there: the gate looks again.
    """
    with step(spec, "resume") as say, TrackingClient() as client:
        registry = Registry(client)
        say(f"version {version.number}, whose training was cut short")
        if {EVIDENCE, OVERRIDE} & set(version.tags):
            return registry.verdict(version), True
        try:
            verdict = rerun_gate(registry, version, spec)
        except KeyFileError as error:
            say(f"NOT SIGNED: {error}")
            return registry.verdict(version), False
        say(f"the gate looked again: {'passed' if verdict.passed else 'REFUSED'}")
    return verdict, True


@task(**BOUNDED)
def promote(spec: ModelSpec, number: int) -> str:
    """Move the version through Staging to Production. The server asks for the evidence itself."""
    with step(spec, "promote") as say, TrackingClient() as client:
        registry = Registry(client)
        version = registry.version(spec.name, number)
        for stage in (Stage.STAGING, Stage.PRODUCTION):
            if version.stage is not Stage.PRODUCTION:  # a try before this one may have got that far
                version = registry.promote(version, stage)
        nudge(say)
        say(f"version {number} is in {version.stage}")
    return version.stage.value


def _log_made(path: str, made: Any) -> None:
    if path.endswith(".png"):
        mlflow.log_figure(made, path)
    elif path.endswith(".csv"):
        mlflow.log_text(made.to_csv(index=False), path)
    else:
        mlflow.log_dict(made, path)


def headline(spec: ModelSpec, scores: dict[str, float]) -> float:
    """Return the score that the model is known by."""
    return scores[spec.metric.removeprefix("neg_")]
