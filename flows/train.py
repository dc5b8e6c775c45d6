"""The training flow: ingest, validate, engineer, split, train, evaluate, check, log, register, promote."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import mlflow
from prefect import flow

from catalog.loader import get_model
from catalog.spec import ModelSpec
from flows import card, data, quality, steps, tracking
from flows.notifying import HOOKS, tell_outcome
from flows.outcome import Outcome
from flows.settings import FlowSettings
from flows.uploaded import trained_on
from registry.errors import RegistryRefusedError
from registry.stage import Stage
from registry.tags import MODEL


@flow(name="train", flow_run_name="train-{model}", validate_parameters=False, **HOOKS)
def train(model: str, promote_passed: bool = False, dataset: str | None = None) -> Outcome:
    """Train, gate and register one model of the catalogue; with `promote_passed`, promote what passed.

    `dataset` is the id of an uploaded dataset to learn from instead of the declared table.
    Returns the outcome, refused or not. Raises `CatalogError` for an unknown model, `TrainingError` for
    data or declarations that cannot be used, and what the registry raises when it does not answer.
    """
    spec = trained_on(get_model(model), dataset) if dataset else get_model(model)
    tracking.connect()
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
        with mlflow.start_run(run_name=f"train-{spec.name}") as run:
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
            score = measured.headline.value
            number = steps.register(spec, model_id, verdict, score, about)
    signed = steps.attest(spec, number, verdict)
    stage, refusals = Stage.NONE.value, [f"{o.check} {o.status}: {o.reason}" for o in verdict.refusals]
    if promote_passed and verdict.passed and not signed:
        refusals.append("not signed: the gate's key is not here")
    elif promote_passed and verdict.passed:
        try:
            stage = steps.promote(spec, number)
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
        baseline=measured.baseline.value,
        low=measured.headline.low,
        high=measured.headline.high,
    )
    tell_outcome(outcome)
    return outcome


def _log_run(
    spec: ModelSpec, cleaning: data.Cleaning, scored: Any, sides: tuple[steps.Rows, steps.Rows]
) -> Any:
    mlflow.set_tags({MODEL: spec.name, "greenroom.role": "training"})
    if commit := tracking.git_commit():
        mlflow.set_tags({"mlflow.source.git.commit": commit, tracking.COMMIT: commit})
    mlflow.log_params({"task": spec.task, "target": spec.label or "none", "seed": spec.split.seed})
    held_out = tracking.log_data(spec, cleaning, sides[0].frame, sides[1].frame)
    for one, train_scores, test_scores, seconds in scored:
        tracking.log_candidate(spec, one, train_scores, test_scores, seconds)
    return held_out
