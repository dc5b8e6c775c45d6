"""From a fitted model to a version: gate, log, register, sign, last step. Trainings and submissions do it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import mlflow

from catalog.spec import ModelSpec
from catalog.table_declaration import DECLARATION_FILE
from flows import mlflow_connection
from flows.data.cleaning import Cleaning
from flows.evaluation import model_card
from flows.modeling import candidates, onnx_export, search
from flows.training import mlflow_log, publish_tasks, resume, tasks
from flows.training.outcome import Outcome
from registry.errors import RegistryRefusedError
from registry.evidence.verdict import Verdict
from registry.names import FLOW_RUN, SCORE, Stage

# What is done with a version that passed and is signed: where it is then, and why it was refused, if it was.
LastStep = Callable[[ModelSpec, int], tuple[str, list[str]]]
Tell = Callable[[Outcome], None]


@dataclass(frozen=True)
class Made:
    """A fitted model and all that led to it.

    `sides` are training and held-out rows, `content` the ONNX file and `found` how it agrees with the model.
    `origin` and `tags` tell where a submitted model is from; `declaration` is a declaration as data.
    """

    spec: ModelSpec
    cleaning: Cleaning
    sides: tuple[tasks.Rows, tasks.Rows]
    winner: candidates.Fitted
    scored: Any
    tried: Sequence[search.Tried]
    content: bytes
    found: onnx_export.Agreement
    folds: Any = None
    origin: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    declaration: str = ""


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


def finish(made: Made, name: str, tags: Mapping[str, str], last: LastStep | None, tell: Tell) -> Outcome:
    """Gate, log, register and sign a model in a run of this name and with these tags; take the last step."""
    spec, (train, test) = made.spec, made.sides
    with TemporaryDirectory(prefix="greenroom-reports-") as scratch:
        reports = Path(scratch)
        if made.declaration:
            (reports / DECLARATION_FILE).write_text(made.declaration, "utf-8")
        # The gate is a process of its own: meanwhile this one logs what there is to log either way.
        checking = publish_tasks.check.submit(spec, made.content, train, test, reports)
        mlflow.set_experiment(spec.name)
        # Shows the UI's view for trained models instead of the one for language models.
        mlflow.set_experiment_tag("mlflow.experimentKind", "custom_model_development")
        with mlflow.start_run(run_name=name, tags={**tags, **made.tags}) as run:
            measured = publish_tasks.measure(spec, made.winner, train, test)
            held_out = _log_run(made)
            model_id = publish_tasks.log_winner(
                spec,
                made.winner,
                content=made.content,
                found=made.found,
                sides=made.sides,
                held_out=held_out,
                measured=measured,
                folds=made.folds,
            )
            verdict = checking.result()
            mlflow_log.log_verdict(verdict, reports)
            about = publish_tasks.write_card(
                model_card.Facts(
                    spec=spec,
                    cleaning=made.cleaning,
                    train=train.features,
                    test=test.features,
                    tried=list(made.tried),
                    winner=made.winner,
                    measured=measured,
                    agreement=made.found,
                    verdict=verdict,
                    run_id=run.info.run_id,
                    origin=made.origin,
                )
            )
            found = measured.headline
            score = _Score(found.value, found.low, found.high, measured.baseline.value)
            number = publish_tasks.register(
                spec, model_id, verdict, found.value, description=about, tags=made.tags
            )
            signed = publish_tasks.attest(spec, number, verdict)
            # Inside of the run: it counts as finished after this, and not before (flows/training/resume.py).
            return _end(spec, _Gated(number, verdict, signed, made.winner.candidate.name, score), last, tell)


def go_on(
    spec: ModelSpec, unfinished: resume.Unfinished, flow_run: str, last: LastStep | None, tell: Tell
) -> Outcome:
    """Do what a killed flow had still to do with the version that it registered."""
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
        verdict, signed = publish_tasks.resume(spec, version)
        return _end(spec, _Gated(version.number, verdict, signed, unfinished.winner, score), last, tell)


def promote(spec: ModelSpec, number: int) -> tuple[str, list[str]]:
    """Promote a version to Production, as a last step."""
    try:
        return publish_tasks.promote(spec, number), []
    except RegistryRefusedError as error:  # somebody promoted another version meanwhile, say
        click.secho(f"{spec.name} version {number} was not promoted. {error}", fg="red", err=True)
        return Stage.NONE.value, [str(error)]


def _end(spec: ModelSpec, gated: _Gated, last: LastStep | None, tell: Tell) -> Outcome:
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


def _log_run(made: Made) -> Any:
    """Log what a run is about and every candidate to the active run; return the held-out dataset."""
    spec, (train, test) = made.spec, made.sides
    if commit := mlflow_connection.git_commit():
        mlflow.set_tags({"mlflow.source.git.commit": commit, mlflow_log.COMMIT: commit})
    mlflow.log_params({"task": spec.task, "target": spec.label or "none", "seed": spec.split.seed})
    held_out = mlflow_log.log_data(spec, made.cleaning, train.frame, test.frame)
    for one, train_scores, test_scores, seconds in made.scored:
        mlflow_log.log_candidate(spec, one, train_scores, test_scores, seconds)
    return held_out
