"""Building, fitting and scoring candidates, and turning the winner into ONNX. Plain functions."""

import importlib
import inspect
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pandas as pd
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.metrics import get_scorer
from sklearn.pipeline import Pipeline

from catalog.spec import Candidate, ModelSpec
from checks.encoding import encoder
from flows import calibration, clusters, neighbours
from flows.calibration import Calibration, Unseen
from flows.data import Positions
from flows.errors import ExportError, TrainingError
from flows.threads import one_thread
from registry.model_format.onnx_model import Description, OnnxModel

# The newest that skl2onnx 1.20 writes for ai.onnx and that onnxruntime 1.32 reads.
_OPSET = {"": 18, "ai.onnx.ml": 3}
# How far the served model may be from the fitted one. float32 moves a row across a tree's threshold now
# and then, which changes one tree in hundreds; anything beyond is a broken conversion.
MIN_LABEL_AGREEMENT = 0.995
MAX_RELATIVE_DIFFERENCE = 0.02
# The same for probabilities, the mean over rows and classes.
MAX_PROBABILITY_DIFFERENCE = 0.005


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


@dataclass(frozen=True)
class Agreement:
    """How close the ONNX model is to the fitted pipeline on held-out rows.

    `labels` is the share of classes or clusters that agree, or that of neighbours.
    """

    labels: float | None
    max_difference: float


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
        neighbours.require_search(spec, candidate.name, made)
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
        return Scored(clusters.scorer(pipeline, asked))
    if spec.task == "similarity":
        return Scored(neighbours.score(pipeline, asked, target.iloc[test])[spec.metric])
    found = float(get_scorer(spec.metric)(pipeline, asked, target.iloc[test]))
    classifies = spec.task == "classification"
    return Scored(found, calibration.unseen(pipeline, asked, test) if classifies else None)


def _fit(
    spec: ModelSpec, pipeline: Pipeline, rows: pd.DataFrame, target: "pd.Series[Any] | None"
) -> Pipeline:
    if spec.task == "similarity":
        assert target is not None  # noqa: S101 - the declaration has seen to it
        return neighbours.fit(pipeline, rows, target)
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


@one_thread()
def score(
    spec: ModelSpec, pipeline: Pipeline, rows: pd.DataFrame, target: "pd.Series[Any] | None"
) -> dict[str, float]:
    """Return the metrics of a pipeline on rows, the headline metric and the task's usual ones."""
    if spec.task == "clustering":
        return clusters.score(pipeline, rows)
    if spec.task == "similarity" and target is not None:
        return neighbours.score(pipeline, rows, target)
    usual = {
        "classification": ("accuracy", "balanced_accuracy", "f1_macro", "neg_log_loss"),
        "regression": ("r2", "neg_mean_absolute_error", "neg_root_mean_squared_error"),
    }[spec.task]
    found = {}
    for name in dict.fromkeys((spec.metric, *usual)):
        value = float(get_scorer(name)(pipeline, rows, target))
        # scikit-learn turns losses round so that higher is better; people compare the losses themselves.
        found[name.removeprefix("neg_")] = -value if name.startswith("neg_") else value
    return found


def background(spec: ModelSpec, rows: pd.DataFrame) -> tuple[tuple[float, ...], ...]:
    """Return the training rows that explanations are made against: `spec.background` of them, at random.

    The same rows every time for the same `rows` and seed; in the order they were drawn, so that the first few
    are a sample as well; as float32 in its shortest decimals, which is what the model reads.
    """
    matrix = rows[list(spec.features)].to_numpy(dtype=np.float32)
    matrix = matrix[np.isfinite(matrix).all(axis=1)]
    drawn = np.random.default_rng(spec.split.seed).permutation(len(matrix))[: spec.background]
    return tuple(tuple(float(str(value)) for value in row) for row in matrix[drawn])


@one_thread()
def export(
    spec: ModelSpec,
    pipeline: Pipeline,
    train: pd.DataFrame | None = None,
    things: pd.DataFrame | None = None,
) -> bytes:
    """Return the fitted pipeline as the bytes of one self-describing ONNX file (registry/model_format).

    With the training rows' features in `train`, a few of them go with it, see `background`; without them it
    cannot be explained, and a clustering cannot be named. A similarity finds `things`, which have the columns
    of `spec`, in their order.
    """
    bare = calibration.bare(pipeline)
    try:
        proto = to_onnx(
            pipeline[:-1] if spec.task == "similarity" else bare,
            initial_types=[("features", FloatTensorType([None, len(spec.features)]))],
            options={id(bare): {"zipmap": False}} if spec.task == "classification" else None,
            target_opset=_OPSET,
        )
    except Exception as error:  # skl2onnx raises whatever its parsers raise
        # Some print whole trees below their first line.
        why = (str(error).splitlines() or [type(error).__name__])[0][:200].rstrip(".")
        raise ExportError(
            f"{spec.name}: {type(bare[-1]).__name__} cannot be converted to ONNX, the format that is "
            f"served: {why}. Choose another estimator."
        ) from error
    said: dict[str, Any] = {"task": spec.task, "features": spec.features}
    if spec.task == "classification":
        said["classes"] = tuple(str(label) for label in pipeline.classes_)
        if bare is not pipeline:
            proto = calibration.with_scaling(proto, calibration.exponent(pipeline))
    elif spec.task == "clustering" and train is not None:
        proto = clusters.only_numbers(proto)
        said["classes"] = clusters.named(spec, pipeline, train)
    elif spec.task == "similarity" and things is not None:
        vectors = pipeline[:-1].transform(things[list(spec.features)])
        proto = neighbours.with_index(proto, pipeline[-1].metric, vectors)
        said["items"] = neighbours.items(spec, pipeline, things)
    if spec.supervised and train is not None:
        said["background"] = background(spec, train)
    onnx.helper.set_model_props(proto, Description(**said).to_metadata())
    return bytes(proto.SerializeToString())


def agreement(pipeline: Pipeline, model: OnnxModel, rows: pd.DataFrame) -> Agreement:
    """Compare the ONNX model with the pipeline on rows; raises `ExportError` when they differ too much."""
    matrix = rows.to_numpy(dtype=np.float32)
    predicted, probabilities = model.predict(matrix)
    if model.description.items is not None:
        labels = neighbours.overlap(pipeline, rows, predicted)
        found, good = Agreement(labels, 0.0), labels >= MIN_LABEL_AGREEMENT
    elif probabilities is not None or model.description.task == "clustering":
        expected: npt.NDArray[Any] = pipeline.predict(rows)
        labels = float(np.mean(predicted.astype(str) == expected.astype(str)))
        apart = np.zeros(1) if probabilities is None else probabilities - pipeline.predict_proba(rows)
        found = Agreement(labels, float(np.abs(apart).max()))
        good = labels >= MIN_LABEL_AGREEMENT and np.abs(apart).mean() <= MAX_PROBABILITY_DIFFERENCE
    else:
        expected = pipeline.predict(rows)
        spread = float(np.std(expected)) or 1.0
        differences = np.abs(predicted.astype(float) - expected)
        found = Agreement(None, float(differences.max()))
        # The mean, against the predictions' own spread: single rows may cross a threshold.
        good = float(differences.mean()) / spread <= MAX_RELATIVE_DIFFERENCE
    if not good:
        raise ExportError(
            f"The ONNX model disagrees with the scikit-learn pipeline on held-out rows ({found}); "
            "it would serve other predictions than were measured."
        )
    return found
