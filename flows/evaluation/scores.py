"""How good a model is: its held-out score with an interval, beside what is naive and what is usual.

Held-out rows of one group (an artist) are not independent, so that intervals come from drawing whole groups
again with replacement: the cluster bootstrap (Davison and Hinkley, Bootstrap Methods and their Application,
1997, section 3.8; Field and Welsh, Journal of the Royal Statistical Society B 69, 2007), percentiles of 400
draws. Differences are paired: both models are scored on the same draws. The chosen candidate is fixed, so
that the luck of training, or of the split, is not in an interval.
"""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from joblib import parallel_config
from sklearn.base import clone
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.metrics import get_scorer, precision_recall_fscore_support
from sklearn.pipeline import Pipeline

from catalog.spec import ModelSpec
from checks.builtin.encoding import encoder
from checks.precomputed import PrecomputedClassifier, PrecomputedRegressor
from flows.data.splits import Groups, Positions
from flows.evaluation import metrics
from flows.evaluation.intervals import Floats, Interval, draws, interval
from flows.modeling import calibration, clustering, similarity
from flows.modeling.threads import one_thread


@dataclass(frozen=True)
class ClassScore:
    """How well one class of held-out rows is recognised; all but `rows` are 0..1."""

    name: str
    rows: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class Measured:
    """What a model scores, on the metric it is known by (losses as losses), and beside what.

    `gain` is how much better it is than the baseline, `over_forest` than a RandomForest as scikit-learn has
    it by default, on the same encoded features and rows: above 0 is better, also of losses.
    """

    metric: str
    train: dict[str, float]
    test: dict[str, float]
    headline: Interval
    baseline_name: str
    baseline: Interval
    gain: Interval | None
    forest: Interval | None
    over_forest: Interval | None
    uncalibrated: dict[str, float]
    classes: tuple[ClassScore, ...]
    groups: int

    def metrics(self) -> dict[str, float]:
        """Return all numbers by the names that every model's run has them under (docs/models.md)."""
        found = {f"train_{name}": value for name, value in self.train.items()}
        found |= {f"test_{name}": value for name, value in self.test.items()}
        found |= {f"uncalibrated_{name}": value for name, value in self.uncalibrated.items()}
        for name, estimate in {
            f"test_{self.metric}": self.headline,
            f"baseline_{self.metric}": self.baseline,
            "gain_over_baseline": self.gain,
            f"default_forest_{self.metric}": self.forest,
            "gain_over_default_forest": self.over_forest,
        }.items():
            if estimate is not None:
                parts = {"": estimate.value, "_low": estimate.low, "_high": estimate.high}
                found |= {f"{name}{end}": value for end, value in parts.items() if value is not None}
        return found


@one_thread()
def measure(
    spec: ModelSpec,
    pipeline: Pipeline,
    train: tuple[pd.DataFrame, "pd.Series[Any] | None"],
    test: tuple[pd.DataFrame, "pd.Series[Any] | None"],
    groups: Groups | None = None,
) -> Measured:
    """Score a fitted model, its naive baseline and a default forest on held-out rows.

    `train` and `test` are features and target; `groups` are those of the held-out rows. A model without a
    target has no forest beside it.
    """
    rows, target = test
    again = draws(len(rows), groups, seed=spec.split.seed)
    name, rivals = _rivals(spec, pipeline, train, test)
    own = _drawn(spec, _by_row(spec, pipeline, *test), rows, target, again)
    baseline, *others = [_drawn(spec, one, rows, target, again) for one in rivals]
    forest = others[0] if others else None
    # Of a loss people read the loss; what is better than something else stays above 0.
    loss = spec.metric.startswith("neg_")

    def shown(one: tuple[float, Floats]) -> Interval:
        found = interval(*one)
        return found.turned() if loss else found

    def beyond(other: tuple[float, Floats] | None) -> Interval | None:
        return None if other is None else interval(own[0] - other[0], own[1] - other[1])

    found = metrics.score(spec, pipeline, *test)
    uncalibrated: dict[str, float] = {}
    classes: tuple[ClassScore, ...] = ()
    if spec.task == "classification" and target is not None:
        extra, uncalibrated, classes = _of_classes(pipeline, rows, target)
        found |= extra
    return Measured(
        metric=spec.metric.removeprefix("neg_"),
        train=metrics.score(spec, pipeline, *train),
        test=found,
        headline=shown(own),
        baseline_name=name,
        baseline=shown(baseline),
        # The baseline of a clustering are other rows, which no draw of these is paired with.
        gain=None if spec.task == "clustering" else beyond(baseline),
        forest=None if forest is None else shown(forest),
        over_forest=beyond(forest),
        uncalibrated=uncalibrated,
        classes=classes,
        groups=len(rows) if groups is None else len(np.unique(groups)),
    )


def default_forest(spec: ModelSpec, rows: pd.DataFrame, target: "pd.Series[Any]") -> Pipeline:
    """Return a RandomForest with scikit-learn's defaults, fitted on the same encoded features."""
    kind = RandomForestClassifier if spec.task == "classification" else RandomForestRegressor
    forest = kind(random_state=spec.split.seed, n_jobs=-1)  # the threads change its speed alone
    with parallel_config(backend="threading"):
        return Pipeline([("features", encoder(spec)), ("model", forest)]).fit(rows, target)


def _by_row(
    spec: ModelSpec, pipeline: Pipeline, rows: pd.DataFrame, target: "pd.Series[Any] | None"
) -> Pipeline | Floats:
    """Return the scores of rows one by one, where a metric is their mean; else what is to be asked."""
    if spec.task == "clustering":
        return clustering.silhouettes(pipeline, rows)
    if spec.task == "similarity" and target is not None:
        return similarity.agreements(pipeline, rows, target)
    return pipeline


def _rivals(
    spec: ModelSpec,
    pipeline: Pipeline,
    train: tuple[pd.DataFrame, "pd.Series[Any] | None"],
    test: tuple[pd.DataFrame, "pd.Series[Any] | None"],
) -> tuple[str, list[Pipeline | Floats]]:
    """Return what the baseline is called, it, and for a target the default forest."""
    (rows, known), (asked, target), seed = train, test, spec.split.seed
    if spec.task == "clustering":
        naive = clone(pipeline).fit(clustering.shuffled(rows, seed))
        return "the same on shuffled features", [
            clustering.silhouettes(naive, clustering.shuffled(asked, seed + 1))
        ]
    if known is None or target is None:
        raise RuntimeError(f"a {spec.task} has a column that scores are made with")
    if spec.task == "similarity":
        return "neighbours drawn at random", [similarity.chance(pipeline, target)]
    if spec.task == "classification":
        name, dummy = "always the most frequent class", DummyClassifier(strategy="prior")
    else:
        name, dummy = "always the mean", DummyRegressor(strategy="mean")
    return name, [dummy.fit(rows, known), default_forest(spec, rows, known)]


def _drawn(
    spec: ModelSpec,
    model: Pipeline | Floats,
    rows: pd.DataFrame,
    target: "pd.Series[Any] | None",
    again: list[Positions],
) -> tuple[float, Floats]:
    """Return the score of all rows, higher being better, and of each draw; NaN where there is none."""
    if isinstance(model, np.ndarray):
        return float(model.mean()), np.array([model[at].mean() for at in again])
    if target is None:
        raise RuntimeError("only a model with a target predicts it")
    actual, score = target.to_numpy(), get_scorer(spec.metric)
    if spec.task == "classification":
        # By number: comparing text takes several times as long, hundreds of times.
        names = pd.Index(model.classes_)
        actual, said = names.get_indexer(actual), names.get_indexer(model.predict(rows))
        known: Any = PrecomputedClassifier(said, model.predict_proba(rows), np.arange(len(names)))
    else:
        known = PrecomputedRegressor(model.predict(rows))

    def one(at: Positions) -> float:
        try:
            return float(score(known, at, actual[at]))
        except ValueError:  # a class that the metric asks for is not among the rows drawn
            return float("nan")

    with warnings.catch_warnings():
        # A draw may miss a rare class; the scorer says so each time.
        warnings.simplefilter("ignore")
        return one(np.arange(len(rows))), np.array([one(at) for at in again])


def _of_classes(
    pipeline: Pipeline, rows: pd.DataFrame, target: "pd.Series[Any]"
) -> tuple[dict[str, float], dict[str, float], tuple[ClassScore, ...]]:
    """Return the quality of probabilities as served and before calibration, and a score for each class."""
    actual, names = target.to_numpy(), pipeline.classes_
    quality = calibration.quality(actual, pipeline.predict_proba(rows), names)
    before = (
        calibration.quality(actual, calibration.bare(pipeline).predict_proba(rows), names)
        if calibration.is_calibrated(pipeline)
        else {}
    )
    parts = precision_recall_fscore_support(actual, pipeline.predict(rows), labels=names, zero_division=0)
    classes = tuple(
        ClassScore(str(name), int(count), float(precision), float(recall), float(f1))
        for name, precision, recall, f1, count in zip(names, *parts, strict=True)
    )
    return quality, before, classes
