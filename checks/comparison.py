"""Challenger against incumbent: both predict the same held-out rows, and the difference gets an interval."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.metrics import get_scorer

from catalog.spec import ModelSpec, Task
from checks.builtin.clustering import silhouettes
from checks.builtin.context import Floats, Look
from checks.builtin.similarity import agreements
from registry.client.registry import Registry
from registry.errors import ModelFormatError, RegistryRefusedError
from registry.evidence.verdict import CheckOutcome, Incumbent
from registry.model_format.onnx_model import OnnxModel
from registry.names import Stage

NAME = "IncumbentComparison"
# Percentile bootstrap (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13): rows are
# drawn again with replacement, the same ones for both models. 400 draws place the 2.5 % quantile within about
# 0.8 points.
_DRAWS = 400
_INTERVAL = (2.5, 97.5)
# The headline metrics that are no scorers of scikit-learn, row by row.
_BY_ROW: Mapping[Task, Callable[[Look, OnnxModel], Floats]] = {
    "clustering": silhouettes,
    "similarity": agreements,
}


@dataclass(frozen=True)
class Rival:
    """The version in Production: which one it is, and how to come by its model."""

    incumbent: Incumbent
    load: Callable[[], OnnxModel]


def find_rival(registry: Registry, model: str, challenger: int | None = None) -> Rival | None:
    """Return the version in Production, which a challenger must not be worse than; None if there is no other.

    It is named by the digest of its own evidence, as the server names it. One that does not hold those bytes
    any more, or cannot be loaded, is nothing to be better than: the comparison fails.
    """
    try:
        current = registry.in_stage(model, Stage.PRODUCTION)
    except RegistryRefusedError:
        # Where a login is asked for, MLflow says the same of a model that is not there as of a forbidden one.
        # Nothing is let through by it: the server compares the evidence with what it has in Production.
        if registry.versions(model):
            raise
        return None
    if current is None or current.number == challenger:
        return None
    named = registry.named(current)

    def load() -> OnnxModel:
        if registry.identity(current) != named:
            raise ModelFormatError(
                f"{current} does not hold the bytes that were checked; `greenroom rollback {model}` first"
            )
        return OnnxModel(registry.model_bytes(current), threads=2)

    return Rival(named, load)


def compare(
    spec: ModelSpec,
    held_out: pd.DataFrame,
    challenger: OnnxModel,
    rival: Rival,
    *,
    train: pd.DataFrame | None = None,
) -> CheckOutcome:
    """Return whether a challenger is no worse than the incumbent, as one more outcome of the gate.

    `held_out` has the columns of `spec` (checks.frames), and `train`, which a model without a target is
    compared by as well. The outcome's value is the difference of the headline metric (higher is better), its
    reason states both scores and the 95 % interval. An incumbent that cannot answer these rows gives the
    status `error`, which refuses.
    """
    number = rival.incumbent.version
    try:
        look = Look(spec, held_out if train is None else train, held_out, challenger)
        scores = _scores(look, rival.load())
    except Exception as error:  # noqa: BLE001 - whatever onnxruntime or a scorer raises: no comparison, no pass
        reason = f"could not be compared with version {number} in Production: {type(error).__name__}: {error}"
        return _outcome("error", reason, None)
    difference = scores[:, 0] - scores[:, 1]
    found = difference[0]
    low, high = np.percentile(difference[1:], _INTERVAL)
    allowed = spec.gate.max_worse
    metric = spec.metric
    reason = (
        f"{metric} {scores[0, 0]:.4g} against {scores[0, 1]:.4g} of version {number} in Production, on the "
        f"same {len(held_out):,} held-out rows: {found:+.4g}, 95 % interval {low:+.4g} to {high:+.4g}; "
    )
    if not np.isfinite([found, low, high]).all():
        return _outcome("error", reason + "which is no number", None)
    worse = high < -allowed
    limit = f"by more than {allowed:g} " if allowed else ""
    reason += f"{'worse' if worse else 'not worse'} {limit}beyond noise"
    return _outcome("failed" if worse else "passed", reason, float(found))


def _outcome(status: Any, reason: str, value: float | None) -> CheckOutcome:
    return CheckOutcome(
        check=NAME, suite="model_evaluation", required=True, status=status, reason=reason, value=value
    )


def _scores(look: Look, incumbent: OnnxModel) -> npt.NDArray[np.float64]:
    """Return both models' scores on all rows (first line), then on each draw of them."""
    spec, held_out = look.spec, look.test
    random = np.random.default_rng(spec.split.seed)
    rows = np.arange(len(held_out))
    draws = [rows, *(random.choice(rows, len(rows)) for _ in range(_DRAWS))]
    models = (look.model, incumbent)
    for model in models:
        _require_fit(spec, held_out, model)
    if measure := _BY_ROW.get(spec.task):
        # The metric is a mean over rows. A row's silhouette is taken as given, whichever rows are drawn.
        by_row = np.array([measure(look, model) for model in models])
        return np.array([by_row[:, draw].mean(axis=1) for draw in draws], dtype=np.float64)
    target = held_out[spec.target].to_numpy()
    known = [_known(held_out, model) for model in models]
    score = get_scorer(spec.metric)
    with warnings.catch_warnings():
        # A draw may miss a rare class; the scorer says so each time.
        warnings.simplefilter("ignore")
        return np.array(
            [[score(one, draw, target[draw]) for one in known] for draw in draws], dtype=np.float64
        )


def _require_fit(spec: ModelSpec, rows: pd.DataFrame, model: OnnxModel) -> None:
    said = model.description
    if said.task != spec.task:
        raise ValueError(f"it is a {said.task} model, this is a {spec.task}")
    if absent := [name for name in said.features if name not in rows.columns or name == spec.target]:
        raise ValueError(f"it reads {', '.join(absent)}, which these rows do not have")


class _Known(BaseEstimator):  # type: ignore[misc]
    """An estimator whose predictions are known already; rows are named by their position."""

    def __init__(self, labels: Any, probabilities: Any = None, classes: Any = None) -> None:
        self.labels, self.probabilities, self.classes_ = labels, probabilities, classes

    def fit(self, *_: Any) -> "_Known":
        """Be fitted already."""
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def predict(self, rows: Any) -> Any:
        """Return the known predictions of rows."""
        return self.labels[rows]


class KnownClassifier(ClassifierMixin, _Known):  # type: ignore[misc]
    def predict_proba(self, rows: Any) -> Any:
        """Return the known probabilities of rows."""
        return self.probabilities[rows]


class KnownRegressor(RegressorMixin, _Known):  # type: ignore[misc]
    pass


def _known(rows: pd.DataFrame, model: OnnxModel) -> _Known:
    said = model.description
    labels, probabilities = model.predict(rows[list(said.features)].to_numpy(np.float32))
    if probabilities is None:
        return KnownRegressor(labels.astype(np.float64))
    order = np.argsort(said.classes)  # scikit-learn wants the classes sorted
    # float32 rows sum to 1 within 1e-7, and log loss asks for better.
    exact = probabilities[:, order].astype(np.float64)
    exact /= exact.sum(axis=1, keepdims=True)
    return KnownClassifier(labels.astype(str), exact, np.array(said.classes)[order])
