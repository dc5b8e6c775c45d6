"""The flow `submit`: a training whose model is a submitted one."""

import math
import pickle
import time
from contextvars import ContextVar
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
from checks.data.splits import Rows, SplitRows
from flows.errors import SubmissionError
from flows.modeling import onnx_export
from flows.modeling.candidates import FittedCandidate, FoldScore
from flows.modeling.onnx_estimator import as_estimator
from flows.modeling.search import declared_trials
from flows.modeling.trained_model import TrainedModel
from flows.orchestration.notifications import HOOKS
from flows.orchestration.retries import COMPUTING
from flows.submission import model_checks
from flows.submission.leakage import require_no_leakage
from flows.submission.model_sources import SubmittedModel
from flows.tasks.base import Agreement
from flows.training import steps
from flows.training.flow import open_training, promote, publish, publish_unfinished
from flows.training.outcome import TrainingOutcome
from registry.model_format.onnx_model import OnnxModel

FITTED = "greenroom.fitted"
SUBMITTER = "greenroom.submitted_by"
ORIGIN = "greenroom.submitted_from"
ELSEWHERE = "elsewhere"


@dataclass(frozen=True)
class Submission:
    """A submitted model and its options.

    `plain` is the declaration of a model with a table of its own. `classes` is the order of an ONNX file's
    probabilities; empty means sorted.
    """

    spec: ModelSpec
    submitted: SubmittedModel
    as_fitted: bool = False
    plain: PlainDeclaration | None = None
    classes: tuple[str, ...] = ()

    @property
    def fitted(self) -> str:
        """Where it was fitted: `here`, on the training rows alone, or `elsewhere`."""
        return ELSEWHERE if self.as_fitted else "here"

    @property
    def tags(self) -> dict[str, str]:
        """Tags of run and version."""
        return {FITTED: self.fitted, SUBMITTER: getuser(), ORIGIN: self.submitted.source[:500]}

    @property
    def digest(self) -> str:
        """A digest that differs from those of other submissions of the same model on the same rows."""
        content = (self.submitted.onnx, self.submitted.estimator, self.as_fitted, self.classes)
        try:
            return sha256(pickle.dumps(content)).hexdigest()
        except Exception:  # noqa: BLE001 - not every estimator can be pickled; such a one equals no other
            return uuid4().hex

    @property
    def origin(self) -> str:
        """Where it comes from and where it was fitted, in Markdown."""
        by = f"Submitted by {getuser()} from `{self.submitted.source}`: {self.submitted.kind}."
        if not self.as_fitted:
            return f"{by} A clone of it was fitted on the training rows; held-out rows are new to it."
        return (
            f"{by} **It was fitted elsewhere**: it may have seen the held-out rows, and then its scores and "
            "the gate's verdict are too good. Ask who fitted it before you promote it."
        )


# Not a parameter of the flow: Prefect stores those, and it cannot store a model.
_SUBMISSION: ContextVar[tuple[Submission, bool]] = ContextVar("submission")


def run(submission: Submission, *, promote_passed: bool = False) -> TrainingOutcome:
    """Run the flow `submit`; see `flows.submission.api.submit`."""
    token = _SUBMISSION.set((submission, promote_passed))
    try:
        outcome: TrainingOutcome = submit(submission.spec.name, submission.submitted.kind, submission.fitted)
    finally:
        _SUBMISSION.reset(token)
    return outcome


@flow(name="submit", flow_run_name="submit-{model}", validate_parameters=False, **HOOKS)
def submit(model: str, estimator: str, fitted: str) -> TrainingOutcome:  # noqa: ARG001 - shown in Prefect's UI
    """Gate, register and sign the submission that `run` holds; the parameters are for Prefect's UI."""
    submission, promote_passed = _SUBMISSION.get()
    spec, promotion = submission.spec, promote if promote_passed else None
    with open_training(spec, submission.digest, promotion) as training:
        if training.unfinished:
            return publish_unfinished(training, training.unfinished)
        rows, cleaning = steps.validate(spec, steps.ingest(spec))
        data = steps.split_rows(spec, rows)
        candidate = fit(submission, data)
        content, agreement = convert(submission, candidate, data)
        candidate = _with_text_classes(spec, candidate, content)
        winner, scored = steps.evaluate(spec, [candidate], data)
        trained = TrainedModel(
            spec,
            cleaning,
            data,
            winner,
            scored,
            declared_trials([winner]),
            content,
            agreement,
            origin=submission.origin,
            tags=submission.tags,
            declaration=submission.plain.model_dump_json(indent=1) if submission.plain else "",
        )
        return publish(training, trained, f"submit-{spec.name}")


@task(name="fit", **COMPUTING)
def fit(submission: Submission, data: SplitRows) -> FittedCandidate:
    """Fit and cross-validate a clone on the training rows, or take the model as it was fitted elsewhere."""
    spec, submitted, start = submission.spec, submission.submitted, time.monotonic()
    scores: tuple[float, ...] = ()
    with steps.log_step(spec, "fit") as say:
        if submitted.onnx is not None:
            content = _with_metadata(submission, data.train)
            pipeline: Any = as_estimator(OnnxModel(content, threads=2))
            say(f"ONNX file as it was fitted elsewhere, {len(content) / 1e6:.1f} MB")
        else:
            pipeline, scores = _fit_estimator(submission, data)
            how = "as it was fitted elsewhere"
            if not submission.as_fitted:
                score = f"{np.mean(scores):.3f} ± {np.std(scores):.3f}"
                how = f"fitted here; {spec.metric} {score} on training folds"
            say(f"{submitted.kind} {how}")
    # Of a search, show the estimator that it selected.
    shown = submitted if submitted.onnx is not None else replace(submitted, estimator=pipeline)
    candidate = Candidate(name=shown.name, estimator=shown.kind, params=shown.params)
    # A model that was fitted elsewhere has no scores on folds.
    mean, deviation = (float(np.mean(scores)), float(np.std(scores))) if scores else (math.nan, math.nan)
    fold_scores = tuple(FoldScore(score) for score in scores)
    seconds = time.monotonic() - start
    return FittedCandidate(candidate, pipeline, mean, deviation, fold_scores, seconds=seconds)


def _fit_estimator(submission: Submission, data: SplitRows) -> tuple[Any, tuple[float, ...]]:
    """Return a fitted pipeline and its scores on the folds, none if it was fitted elsewhere."""
    spec, submitted, target = submission.spec, submission.submitted, _target(data.train)
    features = data.train.features
    scores: tuple[float, ...] = ()
    pipeline = model_checks.as_pipeline(spec, submitted, as_fitted=submission.as_fitted, target=target)
    try:
        if not submission.as_fitted:
            pipeline.fit(features, target)
        model_checks.require_probabilities(spec, pipeline)
        if not submission.as_fitted:
            unfitted, metric = clone(pipeline), spec.metric
            values = cross_val_score(
                unfitted, features, target, cv=data.folds, scoring=metric, error_score="raise"
            )
            scores = tuple(map(float, values))
    except SubmissionError:
        raise
    except Exception as error:  # estimators may raise anything
        raise SubmissionError(
            f"{submitted.kind} cannot learn from the training rows of {spec.name}: "
            f"{type(error).__name__}: {error}. Try it on training_rows({spec.name!r}) first."
        ) from error
    model_checks.use_column_positions(pipeline, spec.features)
    return pipeline, scores


@task(name="convert", **COMPUTING)
def convert(submission: Submission, fitted: FittedCandidate, data: SplitRows) -> tuple[bytes, Agreement]:
    """Return the model as ONNX and its agreement with the original; refuse one that learned held-out rows."""
    spec, train, test = submission.spec, data.train, data.test
    if submission.submitted.onnx is not None:
        # Once more, for an ONNX session does not return its bytes.
        content = _with_metadata(submission, train)
        agreement = Agreement(None, 0.0)
    else:
        content, agreement = steps.convert.fn(spec, fitted, data)
    model = OnnxModel(content, threads=2)
    for side in (train, test):
        model_checks.require_answers(spec, model, side.features)
    if submission.as_fitted and submission.submitted.onnx is None:
        with steps.log_step(spec, "compare") as say:
            refitted = _refitted(submission, train)
            difference = require_no_leakage(spec, model, refitted, train.frame, test.frame)
            say(f"{spec.metric} {difference:+.3f} beside the same estimator fitted here: within noise")
    return content, agreement


def _with_metadata(submission: Submission, train: Rows) -> bytes:
    content = submission.submitted.onnx or b""
    return model_checks.with_metadata(
        submission.spec, content, train.features, _target(train), submission.classes
    )


def _with_text_classes(spec: ModelSpec, fitted: FittedCandidate, content: bytes) -> FittedCandidate:
    """Return the model if its classes are text, as in the data; else its ONNX form, whose classes are."""
    classes = fitted.pipeline.classes_ if spec.answers == "classes" else ()
    if all(isinstance(label, str) for label in classes):
        return fitted
    return replace(fitted, pipeline=as_estimator(OnnxModel(content, threads=2)))


def _refitted(submission: Submission, train: Rows) -> OnnxModel:
    spec, target = submission.spec, _target(train)
    pipeline = model_checks.as_pipeline(spec, submission.submitted, as_fitted=False, target=target)
    try:
        pipeline.fit(train.features, target)
    except Exception as error:  # estimators may raise anything
        raise SubmissionError(
            f"{submission.submitted.kind} cannot be fitted again to compare it: {type(error).__name__}: "
            f"{error}"
        ) from error
    model_checks.use_column_positions(pipeline, spec.features)
    return OnnxModel(onnx_export.export(spec, pipeline), threads=2)


def _target(rows: Rows) -> Any:
    if rows.target is None:
        raise SubmissionError("Only models with a target can be submitted.")
    return rows.target
