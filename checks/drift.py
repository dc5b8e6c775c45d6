"""Drift of a model's requests and answers against its training, and its score on rows with feedback."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import get_scorer

from catalog.spec import Check, GatePolicy, ModelSpec
from checks.bootstrap import DRAWS, Floats, percentile_interval, resampled_scores, resamples
from checks.gate import judge
from checks.job import CheckJob
from checks.precomputed import ScoredRows
from registry.evidence.verdict import CheckOutcome

REPORT_FILE = "drift.html"
_SUITE = "train_test_validation"
# DeepChecks wants a label. There is none yet, so it gets the prediction; no check here looks at it.
_LABEL = "prediction of the model"
# Standard deviations of a normal distribution to either end of its 95 % interval.
_NORMAL = 1.96
# The alarm asks for more than the interval that is shown: one in 200 by chance, for it is asked daily.
_ALARM = 99.5


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


def find_drift(
    spec: ModelSpec, reference: ScoredRows, window: ScoredRows, limits: Limits, report_dir: Path
) -> Drift:
    """Compare a window with the training reference, by DeepChecks' FeatureDrift and PredictionDrift.

    The scores are Kolmogorov-Smirnov's statistic for numbers and the bias-corrected Cramér's V for codes and
    classes, 0 (alike) to 1. `report_dir`, made if need be, then holds `drift.html`. Raises
    `GateUnavailableError` when DeepChecks cannot be run at all.
    """
    checks = _checks(limits)
    classes = sorted({*reference.classes, *window.classes})
    sides = {"train": reference, "test": window}
    job = CheckJob(
        checks=checks,
        rows={side: rows.features.assign(**{_LABEL: rows.labels}) for side, rows in sides.items()},
        features=spec.features,
        categorical=spec.one_hot,
        target=_LABEL,
        classes=classes,
        predictions={side: rows.predictions(classes) for side, rows in sides.items()},
    )
    run = job.run(report_dir, {f"{_SUITE}.html": REPORT_FILE})
    feature_drift = run.outcomes.get("FeatureDrift")
    return Drift(judge(GatePolicy(checks=checks), run), feature_drift.scores if feature_drift else {})


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
    live: tuple[ScoredRows, npt.NDArray[Any]],
    held_out: tuple[ScoredRows, npt.NDArray[Any]],
    width: float | None = None,
) -> Performance:
    """Compare the headline metric on rows with feedback with that on the held-out rows of the training.

    Each side is its answered rows and what was true. The interval is the percentile bootstrap's, by rows.
    `width` is that of the held-out score's 95 % interval when whole groups are drawn, artists say: what it
    is wider than by rows is due to the groups, and the rows with feedback, whose groups nobody knows, are
    taken to come in such groups, too. Raises `ValueError` where the metric cannot be computed on these rows.
    """
    random = np.random.default_rng(spec.split.seed)
    now, then = (_resampled_metric(spec.metric, *side, random) for side in (live, held_out))
    if width is not None:
        by_groups = width / (2 * _NORMAL)
        more = np.sqrt(max(0.0, by_groups**2 - float(np.nanvar(then[1:]))))
        for scores in (now, then):
            scores[1:] += random.normal(0, more, DRAWS)
    low, high = percentile_interval(now[1:][~np.isnan(now[1:])])
    worst_case = np.nanpercentile(now[1:] - then[1:], _ALARM)
    if not np.isfinite([now[0], then[0], low, high, worst_case]).all():
        raise ValueError(f"{spec.metric} is no number on these rows")
    return Performance(
        rows=len(live[0]),
        score=float(now[0]),
        low=low,
        high=high,
        at_training=float(then[0]),
        worse=bool(worst_case < 0),
    )


def _resampled_metric(
    metric: str, rows: ScoredRows, truth: npt.NDArray[Any], random: np.random.Generator
) -> Floats:
    """Return the score on all rows, then on each sample of them."""
    estimator, score = rows.estimator(), get_scorer(metric)
    return resampled_scores(
        lambda sample: score(estimator, sample, truth[sample]), resamples(len(rows), random)
    )
