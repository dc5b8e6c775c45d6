"""How good a model is: its held-out score with an interval, beside a naive baseline and a default forest.

Held-out rows of one group (an artist) are not independent, so intervals come from the cluster bootstrap,
which draws whole groups with replacement (Davison and Hinkley, Bootstrap Methods and their Application, 1997,
section 3.8; Field and Welsh, Journal of the Royal Statistical Society B 69, 2007): percentiles of 400 draws.
Differences are paired: both models are scored on the same draws. The chosen candidate is fixed, so an
interval leaves out the luck of training and of the split.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from joblib import parallel_config
from sklearn.pipeline import Pipeline

from catalog.spec import ModelSpec
from checks.bootstrap import Floats, resampled_scores
from checks.builtin.encoding import encoder
from checks.data.splits import Rows
from flows.evaluation.intervals import Interval, bootstrap_samples, interval
from flows.modeling.threads import one_thread
from flows.tasks.base import ClassScore, required
from flows.tasks.registry import task_of


@dataclass(frozen=True)
class Evaluation:
    """What a model scores, on its headline metric (losses as losses), and what the models beside it score.

    `gain` is how much better it is than the baseline, `over_forest` than a RandomForest with scikit-learn's
    defaults, on the same encoded features and rows: above 0 is better, also of losses.
    """

    metric: str
    train: Mapping[str, float]
    test: Mapping[str, float]
    headline: Interval
    baseline_name: str
    baseline: Interval
    gain: Interval | None
    forest: Interval | None
    over_forest: Interval | None
    uncalibrated: Mapping[str, float]
    classes: tuple[ClassScore, ...]
    groups: int

    def metrics(self) -> dict[str, float]:
        """Return all numbers by the names that every model's run has them under (docs/models.md)."""
        metrics = {f"train_{name}": value for name, value in self.train.items()}
        metrics |= {f"test_{name}": value for name, value in self.test.items()}
        metrics |= {f"uncalibrated_{name}": value for name, value in self.uncalibrated.items()}
        for name, estimate in {
            f"test_{self.metric}": self.headline,
            f"baseline_{self.metric}": self.baseline,
            "gain_over_baseline": self.gain,
            f"default_forest_{self.metric}": self.forest,
            "gain_over_default_forest": self.over_forest,
        }.items():
            if estimate is not None:
                parts = {"": estimate.value, "_low": estimate.low, "_high": estimate.high}
                metrics |= {f"{name}{end}": value for end, value in parts.items() if value is not None}
        return metrics


@one_thread()
def score(spec: ModelSpec, pipeline: Pipeline, rows: Rows) -> dict[str, float]:
    """Return the metrics of a pipeline on rows: the headline metric and the task's usual ones."""
    return task_of(spec).metrics(pipeline, rows)


@one_thread()
def evaluate(spec: ModelSpec, pipeline: Pipeline, train: Rows, test: Rows) -> Evaluation:
    """Score a fitted model, its naive baseline and a default forest on held-out rows.

    A model without a target has no forest beside it.
    """
    task, seed, rows = task_of(spec), spec.split.seed, len(test.features)
    samples = [np.arange(rows), *bootstrap_samples(rows, test.groups, seed=seed)]
    # Of a loss people read the loss; a difference stays above 0 where the model is better.
    loss = spec.metric.startswith("neg_")

    def shown(scores: Floats) -> Interval:
        estimate = interval(scores)
        return estimate.negated() if loss else estimate

    own = resampled_scores(task.sample_score(pipeline, test), samples)
    baseline_name, baseline_score = task.baseline(pipeline, train, test)
    baseline = resampled_scores(baseline_score, samples)
    forest = None
    if task.forest is not None:
        forest = resampled_scores(task.sample_score(default_forest(spec, train), test), samples)
    quality = task.quality(pipeline, test)
    return Evaluation(
        metric=spec.metric.removeprefix("neg_"),
        train=task.metrics(pipeline, train),
        test={**task.metrics(pipeline, test), **quality.probabilities},
        headline=shown(own),
        baseline_name=baseline_name,
        baseline=shown(baseline),
        gain=interval(own - baseline) if task.paired_baseline else None,
        forest=None if forest is None else shown(forest),
        over_forest=None if forest is None else interval(own - forest),
        uncalibrated=quality.uncalibrated,
        classes=quality.classes,
        groups=rows if test.groups is None else len(np.unique(test.groups)),
    )


def default_forest(spec: ModelSpec, train: Rows) -> Pipeline:
    """Return a RandomForest with scikit-learn's defaults, fitted on the same encoded features."""
    # The threads change its speed alone.
    forest = task_of(spec).forest(random_state=spec.split.seed, n_jobs=-1)
    with parallel_config(backend="threading"):
        pipeline = Pipeline([("features", encoder(spec)), ("model", forest)])
        return pipeline.fit(train.features, required(train.target))
