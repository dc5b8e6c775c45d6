"""The steps of a training from its measured winner on: card, checks, run, version, evidence, promotion."""

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
from flows.evaluation.metrics import score
from flows.modeling import candidates, onnx_export, search
from flows.orchestration.retries import BOUNDED, COMPUTING, RETRIES
from flows.training import mlflow_log
from flows.training.tasks import Rows, step
from registry.client.registry import Registry, Version
from registry.client.tracking_client import TrackingClient
from registry.errors import KeyFileError
from registry.evidence.verdict import Verdict
from registry.model_format.onnx_model import OnnxModel
from registry.names import EVIDENCE, OVERRIDE
from registry.settings import KeySettings


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
                git_commit=mlflow_connection.git_commit(),
                incumbent=find_incumbent(Registry(client), spec.name),
            )
        good = sum(o.status == "passed" for o in verdict.outcomes)
        say(f"{'passed' if verdict.passed else 'REFUSED'}; {good} of {len(verdict.outcomes)} checks passed")
        for refusal in verdict.refusals:
            say(f"{refusal.check} {refusal.status}: {refusal.reason}")
    return verdict


@task(name="log", **BOUNDED)
def log_winner(
    spec: ModelSpec,
    winner: candidates.Fitted,
    *,
    content: bytes,
    found: onnx_export.Agreement,
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
            plain = score(spec, winner.pipeline, test.features, test.target)
            metrics = {f"test_{name}": value for name, value in plain.items()}
        else:
            metrics = measured.metrics()
        train_rows, test_rows = (train.features, train.target), (test.features, test.target)
        for path, made in plots.draw(spec, winner, train_rows, test_rows, folds):
            _log_made(path, made)
        model_id = mlflow_log.log_winner(
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
        said = {**(tags or {}), **mlflow_log.version_tags(spec, verdict, score)}
        number = mlflow_log.register(spec, run, model_id, said, description)
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
        # A try before this one may have got it to Staging or Production already.
        version = registry.promote_to_production(registry.version(spec.name, number))
        say(f"version {number} is in {version.stage}")
    return version.stage.value


def _log_made(path: str, made: Any) -> None:
    if path.endswith(".png"):
        mlflow.log_figure(made, path)
    elif path.endswith(".csv"):
        mlflow.log_text(made.to_csv(index=False), path)
    else:
        mlflow.log_dict(made, path)


CARD_ARTIFACT = "model-card.md"


@task(**COMPUTING)
def measure(spec: ModelSpec, winner: candidates.Fitted, train: Rows, test: Rows) -> scores.Measured:
    """Score the winner on held-out rows with an interval, beside a naive baseline and a default forest."""
    with step(spec, "measure") as say:
        found = scores.measure(
            spec,
            winner.pipeline,
            (train.features, train.target),
            (test.features, test.target),
            test.groups,
        )
        say(f"held-out {found.metric} {found.headline}")
        say(f"{found.baseline_name} {found.baseline}")
        if found.over_forest is not None:
            say(f"better than a default forest by {found.over_forest}")
    return found


@task(name="card", **BOUNDED)
def write_card(facts: model_card.Facts) -> str:
    """Log the model card and all trials to the active run; return the card's summary, for the version."""
    with step(facts.spec, "card") as say:
        summary = model_card.summary(facts)
        mlflow.log_text(model_card.card(facts), CARD_ARTIFACT)
        mlflow.log_text(search.table(facts.spec, facts.tried).to_csv(index=False), "search/trials.csv")
        told = f"The whole model card is among the artifacts, as `{CARD_ARTIFACT}`."
        mlflow.set_tag("mlflow.note.content", f"{summary}\n{told}\n\n{mlflow_log.note(facts.verdict)}")
        say(f"{CARD_ARTIFACT}, {len(facts.tried)} trials")
    return summary
