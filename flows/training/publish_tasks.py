"""The steps of a training from its ONNX file on: scores, gate, run, card, version, evidence, promotion."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow
from prefect import task

from catalog.spec import ModelSpec
from checks.comparison import find_incumbent
from checks.gate import run_gate
from checks.rerun import rerun_gate
from flows import mlflow_connection
from flows.evaluation import model_card, plots, scores
from flows.evaluation.scores import Evaluation
from flows.modeling import search
from flows.modeling.trained_model import TrainedModel
from flows.orchestration.retries import BOUNDED, COMPUTING, RETRIES
from flows.training import mlflow_log
from flows.training.tasks import log_step
from registry.client.registry import Registry, Version
from registry.client.tracking_client import TrackingClient
from registry.errors import KeyFileError
from registry.evidence.verdict import Verdict
from registry.model_format.onnx_model import OnnxModel
from registry.names import EVIDENCE, OVERRIDE
from registry.settings import KeySettings

CARD_ARTIFACT = "model-card.md"


@task(**RETRIES)
def check(model: TrainedModel, report_dir: Path) -> Verdict:
    """Run the gate on the very bytes that would be served."""
    spec = model.spec
    with log_step(spec, "check") as note:
        with TrackingClient() as client:
            verdict = run_gate(
                spec,
                train=model.data.train.frame,
                test=model.data.test.frame,
                model=OnnxModel(model.content),
                report_dir=report_dir,
                git_commit=mlflow_connection.git_commit(),
                incumbent=find_incumbent(Registry(client), spec.name),
            )
        passed = sum(outcome.status == "passed" for outcome in verdict.outcomes)
        result = "passed" if verdict.passed else "REFUSED"
        note(f"{result}; {passed} of {len(verdict.outcomes)} checks passed")
        for refusal in verdict.refusals:
            note(f"{refusal.check} {refusal.status}: {refusal.reason}")
    return verdict


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

    `held_out` is the dataset that the metrics are linked to. A submitted model has no learning curve.
    """
    with log_step(model.spec, "log") as note:
        data = model.data
        folds = None if model.origin else data.folds
        for path, content in plots.draw(model.spec, model.winner, data.train, data.test, folds):
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
def write_card(facts: model_card.Facts) -> str:
    """Log the model card and all trials to the active run; return the card's summary, for the version."""
    trials = facts.model.trials
    with log_step(facts.spec, "card") as note:
        summary = model_card.summary(facts)
        mlflow.log_text(model_card.card(facts), CARD_ARTIFACT)
        mlflow.log_text(search.table(facts.spec, trials).to_csv(index=False), "search/trials.csv")
        hint = f"The whole model card is among the artifacts, as `{CARD_ARTIFACT}`."
        mlflow.set_tag("mlflow.note.content", f"{summary}\n{hint}\n\n{mlflow_log.note(facts.verdict)}")
        note(f"{CARD_ARTIFACT}, {len(trials)} trials")
    return summary


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

    `description` is Markdown for the version's page, `tags` are more tags of it.
    """
    with log_step(spec, "register") as note:
        run = mlflow.active_run()
        if run is None:
            raise RuntimeError("register needs the training's run to be active")
        tags = {**(tags or {}), **mlflow_log.version_tags(spec, verdict, score)}
        number = mlflow_log.register(spec, run, model_id, tags, description)
        note(f"version {number}")
    return number


@task(**BOUNDED)
def attest(spec: ModelSpec, number: int, verdict: Verdict) -> bool:
    """Sign the verdict as a tag of the version; False where the gate's key cannot be read."""
    with log_step(spec, "attest") as note, TrackingClient() as client:
        registry = Registry(client)
        try:
            attestation = registry.attest(registry.version(spec.name, number), verdict, KeySettings())
        except KeyFileError as error:
            note(f"NOT SIGNED: {error}")
            return False
        note(f"signed {attestation.digest[:19]}…")
    return True


@task(**BOUNDED)
def resume(spec: ModelSpec, version: Version) -> tuple[Verdict, bool]:
    """Give the version of a killed training evidence; return the verdict, and whether it is signed.

    A stored verdict without a signature is not trusted, because others may write there: the gate runs again.
    """
    with log_step(spec, "resume") as note, TrackingClient() as client:
        registry = Registry(client)
        note(f"version {version.number}, whose training was cut short")
        if {EVIDENCE, OVERRIDE} & set(version.tags):
            return registry.verdict(version), True
        try:
            verdict = rerun_gate(registry, version, spec)
        except KeyFileError as error:
            note(f"NOT SIGNED: {error}")
            return registry.verdict(version), False
        note(f"the gate looked again: {'passed' if verdict.passed else 'REFUSED'}")
    return verdict, True


@task(**BOUNDED)
def promote(spec: ModelSpec, number: int) -> str:
    """Move the version through Staging to Production. The server asks for the evidence itself."""
    with log_step(spec, "promote") as note, TrackingClient() as client:
        registry = Registry(client)
        # A try before this one may have got it to Staging or Production already.
        version = registry.promote_to_production(registry.version(spec.name, number))
        note(f"version {number} is in {version.stage}")
    return version.stage.value
