"""From a trained model to a version: gate, log, register, sign, promote. Submissions use it, too."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import mlflow

from catalog.spec import ModelSpec
from catalog.table_declaration import DECLARATION_FILE
from flows import mlflow_connection
from flows.evaluation import model_card
from flows.evaluation.intervals import Interval
from flows.modeling.trained_model import TrainedModel
from flows.training import mlflow_log, publish_tasks, resume
from flows.training.outcome import TrainingOutcome
from registry.errors import RegistryRefusedError
from registry.evidence.verdict import Verdict
from registry.names import FLOW_RUN, SCORE, Stage

# The last step with a version that passed and is signed: its stage afterwards, and why it was refused, if so.
Promotion = Callable[[ModelSpec, int], tuple[str, list[str]]]
Notify = Callable[[TrainingOutcome], None]


@dataclass(frozen=True)
class GatedVersion:
    """A registered version with the gate's verdict; `baseline` is a naive model's score, where known."""

    number: int
    verdict: Verdict
    signed: bool
    winner: str
    score: Interval
    baseline: float | None


def publish(
    model: TrainedModel, name: str, tags: Mapping[str, str], promote: Promotion | None, notify: Notify
) -> TrainingOutcome:
    """Gate, log, register, sign and promote a model in a run of this name and with these tags."""
    spec = model.spec
    with TemporaryDirectory(prefix="greenroom-reports-") as scratch:
        reports = Path(scratch)
        if model.declaration:
            (reports / DECLARATION_FILE).write_text(model.declaration, "utf-8")
        # The gate is a process of its own: meanwhile this one logs what does not depend on it.
        checking = publish_tasks.check.submit(model, reports)
        mlflow.set_experiment(spec.name)
        # Shows the UI's view for trained models instead of the one for language models.
        mlflow.set_experiment_tag("mlflow.experimentKind", "custom_model_development")
        with mlflow.start_run(run_name=name, tags={**tags, **model.tags}) as run:
            evaluation = publish_tasks.measure(model)
            model_id = publish_tasks.log_winner(model, evaluation, _log_run(model))
            verdict = checking.result()
            mlflow_log.log_verdict(verdict, reports)
            facts = model_card.Facts(model, evaluation, verdict, run.info.run_id)
            summary = publish_tasks.write_card(facts)
            score, baseline = evaluation.headline, evaluation.baseline.value
            number = publish_tasks.register(
                spec, model_id, verdict, score.value, description=summary, tags=model.tags
            )
            signed = publish_tasks.attest(spec, number, verdict)
            version = GatedVersion(number, verdict, signed, model.winner.candidate.name, score, baseline)
            # Inside the run: it counts as finished after this, and not before (flows/training/resume.py).
            return _end(spec, version, promote, notify)


def resume_publish(
    spec: ModelSpec,
    unfinished: resume.UnfinishedTraining,
    flow_run: str,
    promote: Promotion | None,
    notify: Notify,
) -> TrainingOutcome:
    """Do the remaining steps with the version that a killed flow registered."""
    version, client = unfinished.version, mlflow.MlflowClient()
    client.set_tag(unfinished.run_id, FLOW_RUN, flow_run)
    metrics, name = client.get_run(unfinished.run_id).data.metrics, spec.metric.removeprefix("neg_")
    score = Interval(
        float(version.tags.get(SCORE, "nan")),
        metrics.get(f"test_{name}_low"),
        metrics.get(f"test_{name}_high"),
    )
    with mlflow.start_run(run_id=unfinished.run_id):
        verdict, signed = publish_tasks.resume(spec, version)
        baseline = metrics.get(f"baseline_{name}")
        gated = GatedVersion(version.number, verdict, signed, unfinished.winner, score, baseline)
        return _end(spec, gated, promote, notify)


def promote(spec: ModelSpec, number: int) -> tuple[str, list[str]]:
    """Promote a version to Production, as a last step."""
    try:
        return publish_tasks.promote(spec, number), []
    except RegistryRefusedError as error:  # somebody promoted another version meanwhile, for example
        click.secho(f"{spec.name} version {number} was not promoted. {error}", fg="red", err=True)
        return Stage.NONE.value, [str(error)]


def _end(
    spec: ModelSpec, version: GatedVersion, promote: Promotion | None, notify: Notify
) -> TrainingOutcome:
    verdict, stage = version.verdict, Stage.NONE.value
    refusals = [f"{o.check} {o.status}: {o.reason}" for o in verdict.refusals]
    if promote and verdict.passed and not version.signed:
        refusals.append("not signed: the gate's key is not here")
    elif promote and verdict.passed:
        stage, refused = promote(spec, version.number)
        refusals += refused
    outcome = TrainingOutcome(
        model=spec.name,
        version=version.number,
        winner=version.winner,
        metric=spec.metric,
        score=version.score.value,
        passed=verdict.passed,
        stage=stage,
        refusals=tuple(refusals),
        baseline=version.baseline,
        low=version.score.low,
        high=version.score.high,
    )
    notify(outcome)
    return outcome


def _log_run(model: TrainedModel) -> Any:
    """Log parameters, data and every candidate to the active run; return the held-out dataset."""
    spec = model.spec
    if commit := mlflow_connection.git_commit():
        mlflow.set_tags({"mlflow.source.git.commit": commit, mlflow_log.COMMIT: commit})
    mlflow.log_params({"task": spec.task, "target": spec.label or "none", "seed": spec.split.seed})
    held_out = mlflow_log.log_data(spec, model.cleaning, model.data.train.frame, model.data.test.frame)
    for candidate in model.scored:
        mlflow_log.log_candidate(spec, candidate)
    return held_out
