"""The flow of a submission: the way of a training, with a model that somebody brought."""

import math
import pickle
import time
from dataclasses import dataclass, replace
from getpass import getuser
from hashlib import sha256
from typing import Any
from uuid import uuid4

import numpy as np
from prefect import flow, task
from sklearn.base import clone
from sklearn.model_selection import cross_val_score

from catalog.spec import Candidate, ModelSpec
from catalog.table_declaration import PlainDeclaration
from flows import mlflow_connection
from flows.errors import SubmissionError
from flows.modeling import candidates, onnx_export
from flows.modeling.onnx_estimator import asked
from flows.modeling.search import Tried
from flows.orchestration import flow_run_locks
from flows.orchestration.notifications import HOOKS, tell_outcome
from flows.orchestration.retries import COMPUTING
from flows.submission import model_checks
from flows.submission.leakage import require_unseen
from flows.submission.model_sources import Brought
from flows.training import publish, resume, tasks
from flows.training.outcome import Outcome
from flows.training.publish import Made
from registry.model_format.onnx_model import OnnxModel

FITTED = "greenroom.fitted"
SUBMITTER = "greenroom.submitted_by"
ORIGIN = "greenroom.submitted_from"
ELSEWHERE = "elsewhere"


@dataclass(frozen=True)
class Submission:
    """What is submitted as which model, and how.

    `plain` is the declaration of a model that came with a table of its own. `classes` is the order of an ONNX
    file's probabilities; empty means sorted.
    """

    spec: ModelSpec
    brought: Brought
    as_fitted: bool = False
    plain: PlainDeclaration | None = None
    classes: tuple[str, ...] = ()

    @property
    def fitted(self) -> str:
        """Where it learned: `here`, from the training rows alone, or `elsewhere`."""
        return ELSEWHERE if self.as_fitted else "here"

    @property
    def tags(self) -> dict[str, str]:
        """What run and version are told apart by."""
        return {FITTED: self.fitted, SUBMITTER: getuser(), ORIGIN: self.brought.source[:500]}

    @property
    def digest(self) -> str:
        """What tells this submission from others of the same model on the same rows."""
        what = (self.brought.onnx, self.brought.estimator, self.as_fitted, self.classes)
        try:
            return sha256(pickle.dumps(what)).hexdigest()
        except Exception:  # noqa: BLE001 - a stranger's estimator may hold what cannot be pickled: like no other
            return uuid4().hex

    @property
    def origin(self) -> str:
        """Where it comes from and where it learned, for people."""
        by = f"Submitted by {getuser()} from `{self.brought.source}`: {self.brought.kind}."
        if not self.as_fitted:
            return f"{by} A clone of it was fitted on the training rows; held-out rows are new to it."
        return (
            f"{by} **It was fitted elsewhere**: it may have seen the held-out rows, and then its scores and "
            "the gate's verdict are too good. Ask who fitted it before you promote it."
        )


def run(submission: Submission, *, promote_passed: bool = False) -> Outcome:
    """Run the flow; see `flows.submission.api.submit`. Prefect keeps its name and what it was called with."""

    @flow(name="submit", flow_run_name=f"submit-{submission.spec.name}", validate_parameters=False, **HOOKS)
    def submit(model: str, estimator: str, fitted: str) -> Outcome:  # noqa: ARG001 - shown in Prefect's UI
        return _submit(submission, promote_passed=promote_passed)

    outcome: Outcome = submit(submission.spec.name, submission.brought.kind, submission.fitted)
    return outcome


def _submit(submission: Submission, *, promote_passed: bool) -> Outcome:
    spec, last = submission.spec, publish.promote if promote_passed else None
    with flow_run_locks.held() as flow_run:
        mlflow_connection.connect()
        key = resume.training_key(spec, submission.digest)
        if unfinished := resume.take_over(spec, key, flow_run):
            return publish.go_on(spec, unfinished, flow_run, last, tell_outcome)
        tags = resume.run_tags(spec, key, flow_run)
        return publish.finish(_made(submission), f"submit-{spec.name}", tags, last, tell_outcome)


def _made(submission: Submission) -> Made:
    spec = submission.spec
    table = tasks.ingest(spec)
    rows, cleaning = tasks.validate(spec, table)
    matrix = tasks.engineer(spec, rows)
    train, test, folds = tasks.split_rows(spec, rows, matrix)
    fitted, seconds = fit(submission, train, folds)
    content, found = convert(submission, fitted, train, test)
    fitted = _of_text(spec, fitted, content)
    winner, scored = tasks.evaluate(spec, [(fitted, seconds)], train, test)
    return Made(
        spec=spec,
        cleaning=cleaning,
        sides=(train, test),
        winner=winner,
        scored=scored,
        tried=[Tried(winner.candidate, winner.folds, "declared", seconds)],
        content=content,
        found=found,
        origin=submission.origin,
        tags=submission.tags,
        declaration=submission.plain.model_dump_json(indent=1) if submission.plain else "",
    )


@task(name="fit", **COMPUTING)
def fit(submission: Submission, train: tasks.Rows, folds: Any) -> tuple[candidates.Fitted, float]:
    """Fit a clone on the training rows, or take the model as it is; cross-validate what can be fitted."""
    spec, brought, began = submission.spec, submission.brought, time.monotonic()
    target = _target(train)
    with tasks.step(spec, "fit") as say:
        scores: tuple[float, ...] = ()
        pipeline: Any
        if brought.onnx is not None:
            content = model_checks.described(spec, brought.onnx, train.features, target, submission.classes)
            pipeline = asked(OnnxModel(content, threads=2))
            say(f"ONNX file as it was fitted elsewhere, {len(content) / 1e6:.1f} MB")
        else:
            pipeline = model_checks.as_pipeline(spec, brought, as_fitted=submission.as_fitted, target=target)
            try:
                if not submission.as_fitted:
                    pipeline.fit(train.features, target)
                model_checks.require_probabilities(spec, pipeline)
                if not submission.as_fitted:
                    found = cross_val_score(
                        clone(pipeline),
                        train.features,
                        target,
                        cv=folds,
                        scoring=spec.metric,
                        error_score="raise",
                    )
                    scores = tuple(map(float, found))
            except SubmissionError:
                raise
            except Exception as error:  # whatever a stranger's estimator raises
                raise SubmissionError(
                    f"{brought.kind} cannot learn from the training rows of {spec.name}: "
                    f"{type(error).__name__}: {error}. Try it on training_rows({spec.name!r}) first."
                ) from error
            model_checks.by_position(pipeline, spec.features)
            said = "as it was fitted elsewhere"
            if not submission.as_fitted:
                told = f"{np.mean(scores):.3f} ± {np.std(scores):.3f}"
                said = f"fitted here; {spec.metric} {told} on training folds"
            say(f"{brought.kind} {said}")
    # Of a search, what it found.
    shown = brought if brought.onnx is not None else replace(brought, estimator=pipeline)
    candidate = Candidate(name=shown.name, estimator=shown.kind, params=shown.params)
    # What was fitted elsewhere has no score on folds: not a number, since nobody knows.
    mean, deviation = (float(np.mean(scores)), float(np.std(scores))) if scores else (math.nan, math.nan)
    folds_scored = tuple(candidates.Scored(score) for score in scores)
    return candidates.Fitted(candidate, pipeline, mean, deviation, folds_scored), time.monotonic() - began


@task(name="convert", **COMPUTING)
def convert(
    submission: Submission, fitted: candidates.Fitted, train: tasks.Rows, test: tasks.Rows
) -> tuple[bytes, onnx_export.Agreement]:
    """Return the model as ONNX, held against the original; refuse one that has seen the held-out rows."""
    spec = submission.spec
    if submission.brought.onnx is not None:
        # Made once more, since an ONNX session does not give its bytes back.
        content = model_checks.described(
            spec, submission.brought.onnx, train.features, _target(train), submission.classes
        )
        found = onnx_export.Agreement(None, 0.0)
    else:
        content, found = tasks.convert.fn(spec, fitted, train, test)
    model = OnnxModel(content, threads=2)
    for side in (train, test):
        model_checks.require_answers(spec, model, side.features)
    if submission.as_fitted and submission.brought.onnx is None:
        with tasks.step(spec, "compare") as say:
            refitted = _refitted(submission, train)
            more = require_unseen(spec, model, refitted, train.frame, test.frame)
            say(f"{spec.metric} {more:+.3f} beside the same estimator fitted here: within noise")
    return content, found


def _of_text(spec: ModelSpec, fitted: candidates.Fitted, content: bytes) -> candidates.Fitted:
    """Return what answers classes as text, as the data have them: of others, the ONNX form, which does."""
    if spec.task != "classification" or all(isinstance(label, str) for label in fitted.pipeline.classes_):
        return fitted
    return replace(fitted, pipeline=asked(OnnxModel(content, threads=2)))


def _refitted(submission: Submission, train: tasks.Rows) -> OnnxModel:
    spec, target = submission.spec, _target(train)
    pipeline = model_checks.as_pipeline(spec, submission.brought, as_fitted=False, target=target)
    try:
        pipeline.fit(train.features, target)
    except Exception as error:  # whatever a stranger's estimator raises
        raise SubmissionError(
            f"{submission.brought.kind} cannot be fitted again to compare it: {type(error).__name__}: {error}"
        ) from error
    model_checks.by_position(pipeline, spec.features)
    return OnnxModel(onnx_export.export(spec, pipeline), threads=2)


def _target(rows: tasks.Rows) -> Any:
    if rows.target is None:
        raise SubmissionError("Only models with a target can be submitted.")
    return rows.target
