"""Building, fitting and scoring candidates. Plain functions."""

import importlib
import inspect
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import get_scorer
from sklearn.pipeline import Pipeline

from catalog.spec import Candidate, ModelSpec
from checks.builtin.encoding import encoder
from flows.data.splits import Positions
from flows.errors import TrainingError
from flows.modeling import calibration, clustering, similarity
from flows.modeling.calibration import Calibration, Unseen
from flows.modeling.threads import one_thread


@dataclass(frozen=True)
class Scored:
    """The score of a candidate on one training fold, and of a classifier what it said of the fold's rows."""

    score: float
    unseen: Unseen | None = None


@dataclass(frozen=True)
class Fitted:
    """A fitted candidate, with its score on training folds (mean and standard deviation).

    `calibration` is what came of scaling a classifier's probabilities, where that was tried.
    """

    candidate: Candidate
    pipeline: Pipeline
    cv_mean: float
    cv_std: float
    folds: tuple[Scored, ...] = ()
    calibration: Calibration | None = None


def build(spec: ModelSpec, candidate: Candidate) -> Pipeline:
    """Return the unfitted pipeline: feature engineering and the estimator, so that both ship together."""
    return Pipeline([("features", encoder(spec)), ("model", _estimator(spec, candidate))])


def _estimator(spec: ModelSpec, candidate: Candidate) -> Any:
    module, _, name = candidate.estimator.rpartition(".")
    try:
        kind = getattr(importlib.import_module(module), name)
        accepted = inspect.signature(kind).parameters
        seed = {"random_state": spec.split.seed} if "random_state" in accepted else {}
        made = kind(**{**seed, **candidate.params})
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise TrainingError(
            f"{spec.name}: the candidate {candidate.name} cannot be made from {candidate.estimator}: {error}"
        ) from error
    if spec.task == "classification" and not hasattr(made, "predict_proba"):
        raise TrainingError(
            f"{spec.name}: {candidate.estimator} of the candidate {candidate.name} gives no probabilities, "
            "which the gate and the predictor need. Choose another estimator."
        )
    if spec.task == "similarity":
        similarity.require_search(spec, candidate.name, made)
    if spec.task == "clustering" and not hasattr(made, "predict"):
        raise TrainingError(
            f"{spec.name}: {candidate.estimator} of the candidate {candidate.name} cannot say to which "
            "cluster a new row belongs. Choose another estimator."
        )
    return made


def fit(
    spec: ModelSpec,
    candidate: Candidate,
    rows: pd.DataFrame,
    target: "pd.Series[Any] | None",
    folds: list[tuple[Positions, Positions]],
) -> Fitted:
    """Score a candidate by cross-validation on training rows, then fit it on all of them.

    `target` is the column that scores are made with (`ModelSpec.label`); a clustering has none.
    """
    scored = tuple(score_fold(spec, candidate, rows, target, fold) for fold in folds)
    return fit_whole(spec, candidate, rows, target, scored)


def fit_whole(
    spec: ModelSpec,
    candidate: Candidate,
    rows: pd.DataFrame,
    target: "pd.Series[Any] | None",
    folds: tuple[Scored, ...],
) -> Fitted:
    """Fit a candidate on all training rows; `folds` is how it scored on each."""
    scores = np.array([one.score for one in folds])
    pipeline = _fit(spec, build(spec, candidate), rows, target)
    return Fitted(candidate, pipeline, float(scores.mean()), float(scores.std()), folds)


def score_fold(
    spec: ModelSpec,
    candidate: Candidate,
    rows: pd.DataFrame,
    target: "pd.Series[Any] | None",
    fold: tuple[Positions, Positions],
) -> Scored:
    """Fit a candidate on one fold's training rows and score it on its other rows, by the headline metric."""
    train, test = fold
    seen, answers = rows.iloc[train], None if target is None else target.iloc[train]
    pipeline = _fit(spec, build(spec, candidate), seen, answers)
    with one_thread():
        return _score_fold(spec, pipeline, rows, target, test)


def _score_fold(
    spec: ModelSpec,
    pipeline: Pipeline,
    rows: pd.DataFrame,
    target: "pd.Series[Any] | None",
    test: Positions,
) -> Scored:
    asked = rows.iloc[test]
    if target is None:
        return Scored(clustering.scorer(pipeline, asked))
    if spec.task == "similarity":
        return Scored(similarity.score(pipeline, asked, target.iloc[test])[spec.metric])
    found = float(get_scorer(spec.metric)(pipeline, asked, target.iloc[test]))
    classifies = spec.task == "classification"
    return Scored(found, calibration.unseen(pipeline, asked, test) if classifies else None)


def _fit(
    spec: ModelSpec, pipeline: Pipeline, rows: pd.DataFrame, target: "pd.Series[Any] | None"
) -> Pipeline:
    if spec.task == "similarity":
        assert target is not None  # noqa: S101 - the declaration has seen to it
        return similarity.fit(pipeline, rows, target)
    # A forest's own threads (`n_jobs`) change nothing: each tree has a seed of its own.
    with one_thread(jobs=True):
        return pipeline.fit(rows, target)


@one_thread()
def calibrate(spec: ModelSpec, winner: Fitted, rows: pd.DataFrame, target: "pd.Series[Any] | None") -> Fitted:
    """Return a classifier with calibrated probabilities, if training folds say that it helps; others as
    given.

    Which class is named does not change, nor do scores on folds, which are those of the uncalibrated one.
    """
    folds = [fold.unseen for fold in winner.folds if fold.unseen is not None]
    if spec.task != "classification" or target is None or not folds:
        return winner
    pipeline, found = calibration.calibrated(winner.pipeline, folds, rows, target)
    return replace(winner, pipeline=pipeline, calibration=found)


def best(fitted: list[Fitted]) -> Fitted:
    """Return the candidate with the highest cross-validated score; held-out rows have no say in it."""
    return max(fitted, key=lambda one: one.cv_mean)
