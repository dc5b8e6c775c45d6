"""Does what a model is asked today look like what it was trained on, and is it still as right?"""

import json
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.metrics import get_scorer

from catalog.spec import Check, GatePolicy, ModelSpec
from checks.comparison import KnownClassifier, KnownRegressor
from checks.frames import to_parquet
from checks.gate import judge
from checks.settings import ChecksSettings
from checks.worker_process import run_worker
from registry.evidence.verdict import CheckOutcome
from registry.model_format.onnx_model import OnnxModel

REPORT_FILE = "drift.html"
_SUITE = "train_test_validation"
# DeepChecks wants a label. There is none yet, so it gets the prediction; no check here looks at it.
_LABEL = "prediction of the model"
# As in checks/comparison.py. Both sides are drawn anew, for they are other rows.
_DRAWS = 400
_INTERVAL = (2.5, 97.5)
# Standard deviations of a normal distribution to either end of its 95 % interval.
_NORMAL = 1.96
# The alarm asks for more than the interval that is shown: one in 200 by chance, for it is asked daily.
_ALARM = 99.5


@dataclass(frozen=True)
class Answered:
    """Rows and what a model said of them: one row each, `probabilities` with a column per class or None.

    `labels` are what drift of predictions looks at: classes, numbers, names of clusters, or of a similarity
    how far the nearest other thing is.
    """

    features: pd.DataFrame
    labels: npt.NDArray[Any]
    probabilities: pd.DataFrame | None = None

    def __len__(self) -> int:
        return len(self.features)

    @property
    def classes(self) -> list[str]:
        """What classes or clusters there are among the labels, sorted; none where these are numbers."""
        if self.probabilities is not None:
            return sorted(self.probabilities.columns)
        return [] if self.labels.dtype.kind == "f" else sorted(set(self.labels.tolist()))

    def take(self, places: npt.NDArray[np.intp]) -> "Answered":
        """Return some of the rows, by place."""
        shares = self.probabilities
        return Answered(
            self.features.iloc[places].reset_index(drop=True),
            self.labels[places],
            None if shares is None else shares.iloc[places].reset_index(drop=True),
        )


@dataclass(frozen=True)
class Limits:
    """Drift scores, 0..1, above which there is drift; docs/monitoring.md says where they come from."""

    feature: float
    prediction: float


@dataclass(frozen=True)
class Drift:
    """What DeepChecks found: one outcome per check, and the drift score of each feature."""

    outcomes: tuple[CheckOutcome, ...]
    features: Mapping[str, float]

    def value(self, check: str) -> float | None:
        """Return the score of a check."""
        return next((o.value for o in self.outcomes if o.check == check), None)


@dataclass(frozen=True)
class Performance:
    """The headline metric on rows whose truth is known, its 95 % interval, and the score at training.

    `worse` says that it fell beyond noise: the difference of the two is below 0 in 99.5 % of the draws.
    """

    rows: int
    score: float
    low: float
    high: float
    at_training: float
    worse: bool

    def sentence(self, metric: str) -> str:
        """Say it in words."""
        return (
            f"{metric} is {self.score:.4g} on {self.rows:,} rows with feedback (95 % interval "
            f"{self.low:.4g} to {self.high:.4g}), and was {self.at_training:.4g} on the held-out rows"
        )


def answered(spec: ModelSpec, model: OnnxModel, rows: pd.DataFrame) -> Answered:
    """Return the model's answers to stored rows, with the features as the model reads them, float32."""
    features = rows[list(spec.features)].astype(np.float32).astype(np.float64).reset_index(drop=True)
    labels, shares = model.predict(features.to_numpy(np.float32))
    classes = list(model.description.classes)
    if spec.task == "similarity" and shares is not None:
        return Answered(features, _apart(model, features, labels, shares))
    if spec.task == "clustering":
        return Answered(features, np.array(classes)[labels.astype(np.int64)])
    if shares is None:
        return Answered(features, labels.astype(np.float64).ravel())
    return Answered(features, labels.astype(str), pd.DataFrame(shares, columns=classes))


def _apart(
    model: OnnxModel, features: pd.DataFrame, places: npt.NDArray[Any], distances: npt.NDArray[np.float32]
) -> npt.NDArray[np.float64]:
    """Return how far the nearest thing with other features is, for each row.

    Training rows are in the index themselves, and some of those who ask ask about a thing of it: the row
    itself would be the nearest of one side and not of the other.
    """
    items = model.description.items
    if items is None:
        raise ValueError("the model's file names nothing that it finds")
    others = (items.rows[places] != features.to_numpy(np.float32)[:, None, :]).any(axis=2)
    nearest = np.argmax(others, axis=1)  # the farthest of those found stands in where all are the same thing
    nearest = np.where(others.any(axis=1), nearest, places.shape[1] - 1)
    apart: npt.NDArray[np.float64] = distances[np.arange(len(places)), nearest].astype(np.float64)
    return apart


def find_drift(
    spec: ModelSpec, reference: Answered, window: Answered, limits: Limits, report_dir: Path
) -> Drift:
    """Compare a window with the training reference, by DeepChecks' FeatureDrift and PredictionDrift.

    The scores are Kolmogorov-Smirnov's statistic for numbers and the bias-corrected Cramér's V for codes and
    classes, 0 (alike) to 1. `report_dir`, made if need be, then holds `drift.html`. Raises
    `GateUnavailableError` when DeepChecks cannot be run at all.
    """
    checks = _checks(limits)
    classes = sorted({*reference.classes, *window.classes})
    content = {
        "task": "classification" if classes else "regression",
        "features": spec.features,
        "target": _LABEL,
        "categorical": spec.one_hot,
        "classes": classes,
        "checks": [check.model_dump(mode="json") for check in checks],
    }
    report_dir.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="greenroom-monitor-") as temporary:
        job = Path(temporary)
        for side, one in {"train": reference, "test": window}.items():
            (job / f"{side}.parquet").write_bytes(to_parquet(one.features.assign(**{_LABEL: one.labels})))
            said = pd.DataFrame({"prediction": one.labels})
            if one.probabilities is not None:
                said[[str(place) for place in range(len(classes))]] = one.probabilities[classes].to_numpy()
            (job / f"{side}_predictions.parquet").write_bytes(to_parquet(said))
        (job / "job.json").write_text(json.dumps(content), "utf-8")
        run = run_worker(job, ChecksSettings())
        if (job / f"{_SUITE}.html").exists():
            shutil.copyfile(job / f"{_SUITE}.html", report_dir / REPORT_FILE)
    raw = run.outcomes.get("FeatureDrift")
    return Drift(judge(GatePolicy(checks=checks), run), raw.scores if raw else {})


def _checks(limits: Limits) -> tuple[Check, ...]:
    return (
        Check(
            check="FeatureDrift",
            suite=_SUITE,
            condition="drift_score_less_than",
            condition_params={
                "max_allowed_categorical_score": limits.feature,
                "max_allowed_numeric_score": limits.feature,
            },
            why="What the model is asked looks like what it was trained on.",
        ),
        Check(
            check="PredictionDrift",
            suite=_SUITE,
            condition="drift_score_less_than",
            # Not of the probabilities of two classes: a model is surer of the rows that it was trained on.
            params={"drift_mode": "prediction"},
            condition_params={"max_allowed_drift_score": limits.prediction},
            why="What the model answers looks like what it answered to its training rows.",
        ),
    )


def measure_performance(
    spec: ModelSpec,
    live: tuple[Answered, npt.NDArray[Any]],
    held_out: tuple[Answered, npt.NDArray[Any]],
    width: float | None = None,
) -> Performance:
    """Compare the headline metric on rows with feedback with that on the held-out rows of the training.

    Each side is its answered rows and what was true. The interval is the percentile bootstrap's, by rows.
    `width` is that of the held-out score's 95 % interval when whole groups are drawn, artists say: what it
    is wider than by rows is due to the groups, and the rows with feedback, whose groups nobody knows, are
    taken to come in such groups, too. Raises `ValueError` where the metric cannot be computed on these rows.
    """
    random = np.random.default_rng(spec.split.seed)
    now, then = (_draws(spec.metric, side, random) for side in (live, held_out))
    if width is not None:
        by_groups = width / (2 * _NORMAL)
        more = np.sqrt(max(0.0, by_groups**2 - float(np.nanvar(then[1:]))))
        for side in (now, then):
            side[1:] += random.normal(0, more, _DRAWS)
    low, high = np.nanpercentile(now[1:], _INTERVAL)
    worst_case = np.nanpercentile(now[1:] - then[1:], _ALARM)
    if not np.isfinite([now[0], then[0], low, high, worst_case]).all():
        raise ValueError(f"{spec.metric} is no number on these rows")
    return Performance(
        rows=len(live[0]),
        score=float(now[0]),
        low=float(low),
        high=float(high),
        at_training=float(then[0]),
        worse=bool(worst_case < 0),
    )


def by_rows(said: Answered) -> Any:
    """Return what scikit-learn's scorers ask for answers that are known, by the numbers of rows."""
    if said.probabilities is None:
        return KnownRegressor(said.labels)
    classes = sorted(said.probabilities.columns)
    shares = said.probabilities[classes].to_numpy(np.float64)
    return KnownClassifier(
        said.labels.astype(str), shares / shares.sum(axis=1, keepdims=True), np.array(classes)
    )


def _draws(
    metric: str, side: tuple[Answered, npt.NDArray[Any]], random: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Return the score on all rows, then on each draw of them."""
    said, truth = side
    known = by_rows(said)
    score = get_scorer(metric)
    rows = np.arange(len(said))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a draw may miss a rare class; the scorer says so each time
        draws = [rows, *(random.choice(rows, len(rows)) for _ in range(_DRAWS))]
        return np.array([score(known, draw, truth[draw]) for draw in draws], dtype=np.float64)
