"""The training flow: ingest, validate, engineer, split, train, evaluate, check, log, register, promote."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import mlflow
from prefect import flow

from catalog.loader import get_model
from catalog.spec import ModelSpec
from flows import card, data, living, quality, resuming, steps, tracking
from flows.notifying import HOOKS, tell_outcome
from flows.outcome import Outcome
from flows.settings import FlowSettings
from flows.uploaded import trained_on
from registry.errors import RegistryRefusedError
from registry.evidence import Verdict
from registry.stage import Stage
from registry.tags import FLOW_RUN, SCORE

# What is done with a version that passed and is signed: where it is then, and why it was refused, if it was.
LastStep = Callable[[ModelSpec, int], tuple[str, list[str]]]
Tell = Callable[[Outcome], None]


@flow(name="train", flow_run_name="train-{model}", validate_parameters=False, **HOOKS)
def train(model: str, promote_passed: bool = False, dataset: str | None = None) -> Outcome:
    """Train, gate and register one model of the catalogue; with `promote_passed`, promote what passed.

    `dataset` is the id of an uploaded dataset to learn from instead of the declared table.
    Returns the outcome, refused or not. Raises `CatalogError` for an unknown model, `TrainingError` for
    data or declarations that cannot be used, and what the registry raises when it does not answer.

    Killed at any point and run again, it goes on with the version that was registered, if one was, and
    trains anew otherwise: there is one version in the end.
    """
    return training(model, dataset, last=_promote if promote_passed else None)


def training(
    model: str, dataset: str | None = None, *, last: LastStep | None = None, tell: Tell = tell_outcome
) -> Outcome:
    """Do all of a training inside of a flow: `last` is its last step, `tell` is told the outcome."""
    with living.held() as flow_run:
        spec = trained_on(get_model(model), dataset) if dataset else get_model(model)
        tracking.connect()
        key = resuming.training_key(spec)
        if unfinished := resuming.take_over(spec, key, flow_run):
            return _go_on(spec, unfinished, flow_run, last, tell)
        return _train(spec, resuming.run_tags(spec, key, flow_run), last, tell)


def _train(spec: ModelSpec, tags: dict[str, str], last: LastStep | None, tell: Tell) -> Outcome:
    table = steps.ingest(spec)
    rows, cleaning = steps.validate(spec, table)
    matrix = steps.engineer(spec, rows)
    train_rows, test_rows, folds = steps.split_rows(spec, rows, matrix)
    fitted = [steps.train_candidate(spec, candidate, train_rows, folds) for candidate in spec.candidates]
    fitted, tried = quality.search_further(spec, fitted, train_rows, folds)
    winner, scored = steps.evaluate(spec, fitted, train_rows, test_rows)
    winner = quality.calibrate(spec, winner, train_rows)
    content, found = steps.convert(spec, winner, train_rows, test_rows)
    with TemporaryDirectory(prefix="greenroom-reports-") as scratch:
        reports = Path(scratch)
        # The gate is a process of its own: meanwhile this one logs what there is to log either way.
        checking = steps.check.submit(spec, content, train_rows, test_rows, reports)
        mlflow.set_experiment(spec.name)
        # Shows the UI's view for trained models instead of the one for language models.
        mlflow.set_experiment_tag("mlflow.experimentKind", "custom_model_development")
        with mlflow.start_run(run_name=f"train-{spec.name}", tags=tags) as run:
            measured = quality.measure(spec, winner, train_rows, test_rows)
            held_out = _log_run(spec, cleaning, scored, (train_rows, test_rows))
            model_id = steps.log_winner(
                spec,
                winner,
                content=content,
                found=found,
                sides=(train_rows, test_rows),
                held_out=held_out,
                measured=measured,
                folds=folds,
            )
            verdict = checking.result()
            tracking.log_verdict(verdict, reports)
            about = quality.write_card(
                card.Facts(
                    spec=spec,
                    cleaning=cleaning,
                    train=train_rows.features,
                    test=test_rows.features,
                    tried=tried,
                    winner=winner,
                    measured=measured,
                    agreement=found,
                    verdict=verdict,
                    run_id=run.info.run_id,
                    search_seconds=FlowSettings().search_seconds,
                )
            )
            number = steps.register(spec, model_id, verdict, measured.headline.value, about)
            signed = steps.attest(spec, number, verdict)
            score = _Score(
                measured.headline.value,
                measured.headline.low,
                measured.headline.high,
                measured.baseline.value,
            )
            # Inside of the run: it counts as finished after this, and not before (flows/resuming.py).
            return _finish(spec, _Gated(number, verdict, signed, winner.candidate.name, score), last, tell)


def _go_on(
    spec: ModelSpec, unfinished: resuming.Unfinished, flow_run: str, last: LastStep | None, tell: Tell
) -> Outcome:
    """Do what the killed training of a registered version had still to do."""
    version, client = unfinished.version, mlflow.MlflowClient()
    client.set_tag(unfinished.run_id, FLOW_RUN, flow_run)
    known, name = client.get_run(unfinished.run_id).data.metrics, spec.metric.removeprefix("neg_")
    score = _Score(
        float(version.tags.get(SCORE, "nan")),
        known.get(f"test_{name}_low"),
        known.get(f"test_{name}_high"),
        known.get(f"baseline_{name}"),
    )
    with mlflow.start_run(run_id=unfinished.run_id):
        verdict, signed = steps.resume(spec, version)
        return _finish(spec, _Gated(version.number, verdict, signed, unfinished.winner, score), last, tell)


@dataclass(frozen=True)
class _Score:
    """The headline score, the ends of its interval, and what a naive model scores."""

    value: float
    low: float | None
    high: float | None
    baseline: float | None


@dataclass(frozen=True)
class _Gated:
    """A version that the gate has looked at."""

    number: int
    verdict: Verdict
    signed: bool
    winner: str
    score: _Score


def _finish(spec: ModelSpec, gated: _Gated, last: LastStep | None, tell: Tell) -> Outcome:
    stage, refusals = Stage.NONE.value, [f"{o.check} {o.status}: {o.reason}" for o in gated.verdict.refusals]
    if last and gated.verdict.passed and not gated.signed:
        refusals.append("not signed: the gate's key is not here")
    elif last and gated.verdict.passed:
        stage, refused = last(spec, gated.number)
        refusals += refused
    outcome = Outcome(
        model=spec.name,
        version=gated.number,
        winner=gated.winner,
        metric=spec.metric,
        score=gated.score.value,
        passed=gated.verdict.passed,
        stage=stage,
        refusals=tuple(refusals),
        baseline=gated.score.baseline,
        low=gated.score.low,
        high=gated.score.high,
    )
    tell(outcome)
    return outcome


def _promote(spec: ModelSpec, number: int) -> tuple[str, list[str]]:
    try:
        return steps.promote(spec, number), []
    except RegistryRefusedError as error:  # somebody promoted another version meanwhile, say
        click.secho(f"{spec.name} version {number} was not promoted. {error}", fg="red", err=True)
        return Stage.NONE.value, [str(error)]


def _log_run(
    spec: ModelSpec, cleaning: data.Cleaning, scored: Any, sides: tuple[steps.Rows, steps.Rows]
) -> Any:
    if commit := tracking.git_commit():
        mlflow.set_tags({"mlflow.source.git.commit": commit, tracking.COMMIT: commit})
    mlflow.log_params({"task": spec.task, "target": spec.label or "none", "seed": spec.split.seed})
    held_out = tracking.log_data(spec, cleaning, sides[0].frame, sides[1].frame)
    for one, train_scores, test_scores, seconds in scored:
        tracking.log_candidate(spec, one, train_scores, test_scores, seconds)
    return held_out
