"""Candidates: built, scored on folds, fitted, calibrated. Plain functions."""

import importlib
import inspect
import time
from dataclasses import dataclass, replace

import numpy as np
from sklearn.pipeline import Pipeline

from catalog.spec import Candidate, ModelSpec
from checks.builtin.encoding import encoder
from checks.data.splits import Folds, Positions, Rows
from flows.errors import TrainingError
from flows.modeling.threads import one_thread
from flows.tasks.calibration import Calibration, OutOfFoldPredictions
from flows.tasks.registry import task_of


@dataclass(frozen=True)
class FoldScore:
    """The score of a candidate on one training fold, and a classifier's predictions for the fold's rows."""

    score: float
    predictions: OutOfFoldPredictions | None = None


@dataclass(frozen=True)
class FittedCandidate:
    """A fitted candidate, with its score on training folds (mean and standard deviation).

    `calibration` is the result of calibrating a classifier, where that was tried; `seconds` is the time of
    all its fits.
    """

    candidate: Candidate
    pipeline: Pipeline
    cv_mean: float
    cv_std: float
    folds: tuple[FoldScore, ...] = ()
    calibration: Calibration | None = None
    seconds: float = 0.0


def build(spec: ModelSpec, candidate: Candidate) -> Pipeline:
    """Return the unfitted pipeline: feature engineering and the estimator, so that both ship together."""
    module, _, name = candidate.estimator.rpartition(".")
    try:
        kind = getattr(importlib.import_module(module), name)
        accepted = inspect.signature(kind).parameters
        seed = {"random_state": spec.split.seed} if "random_state" in accepted else {}
        estimator = kind(**{**seed, **candidate.params})
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise TrainingError(
            f"{spec.name}: the candidate {candidate.name} cannot be made from {candidate.estimator}: {error}"
        ) from error
    task_of(spec).require_estimator(candidate, estimator)
    return Pipeline([("features", encoder(spec)), ("model", estimator)])


def fit(spec: ModelSpec, candidate: Candidate, train: Rows, folds: Folds) -> FittedCandidate:
    """Score a candidate by cross-validation on training rows, then fit it on all of them."""
    start = time.monotonic()
    scores = tuple(score_fold(spec, candidate, train, fold) for fold in folds)
    fitted = fit_whole(spec, candidate, train, scores)
    return replace(fitted, seconds=time.monotonic() - start)


def fit_whole(
    spec: ModelSpec, candidate: Candidate, train: Rows, folds: tuple[FoldScore, ...]
) -> FittedCandidate:
    """Fit a candidate on all training rows; `folds` are its scores on the folds."""
    start = time.monotonic()
    pipeline = _fit(spec, candidate, train)
    scores = np.array([fold.score for fold in folds])
    seconds = time.monotonic() - start
    return FittedCandidate(
        candidate, pipeline, float(scores.mean()), float(scores.std()), folds, seconds=seconds
    )


def score_fold(
    spec: ModelSpec, candidate: Candidate, train: Rows, fold: tuple[Positions, Positions]
) -> FoldScore:
    """Fit a candidate on one fold's training rows and score it on its other rows, by the headline metric."""
    fitted_on, others = fold
    pipeline = _fit(spec, candidate, train.take(fitted_on))
    task, unseen = task_of(spec), train.take(others)
    with one_thread():
        score = task.fold_score(pipeline, unseen)
        return FoldScore(score, task.out_of_fold(pipeline, unseen.features, others))


def _fit(spec: ModelSpec, candidate: Candidate, rows: Rows) -> Pipeline:
    # A forest's own threads (`n_jobs`) change nothing: each tree has a seed of its own.
    with one_thread(jobs=True):
        return task_of(spec).fit(build(spec, candidate), rows.features, rows.target)


@one_thread()
def calibrate(spec: ModelSpec, winner: FittedCandidate, train: Rows) -> FittedCandidate:
    """Return a classifier with calibrated probabilities, if training folds show that it helps; others as is.

    The class that is named does not change, nor do scores on folds, which are those of the uncalibrated one.
    """
    folds = [fold.predictions for fold in winner.folds if fold.predictions is not None]
    pipeline, calibration = task_of(spec).calibrate(winner.pipeline, folds, train)
    return winner if calibration is None else replace(winner, pipeline=pipeline, calibration=calibration)


def best(fitted: list[FittedCandidate]) -> FittedCandidate:
    """Return the candidate with the highest cross-validated score; held-out rows are not looked at."""
    return max(fitted, key=lambda candidate: candidate.cv_mean)
