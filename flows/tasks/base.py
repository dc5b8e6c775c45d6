"""What a training asks of a task, and the defaults that most tasks share.

A further task is a subclass of `FlowTask` that `flows.tasks.registry.register` is called with; what a
declaration of it needs is said in catalog/tasks.py.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd
from onnx import ModelProto
from sklearn.base import clone
from sklearn.metrics import get_scorer
from sklearn.pipeline import Pipeline

from catalog.spec import Candidate, ModelSpec
from checks.bootstrap import Positions
from checks.data.splits import Rows
from checks.precomputed import PrecomputedEstimator
from flows.tasks.calibration import Calibration, OutOfFoldPredictions
from registry.model_format.onnx_model import OnnxModel

# One value per row: classes as text, numbers, or what near things share; None for a clustering.
Target: TypeAlias = "pd.Series[Any] | None"
# The score of some held-out rows, by their positions; higher is better, NaN where it is not defined.
SampleScore = Callable[[Positions], float]

# How far the served model may be from the fitted one. float32 moves a row across a tree's threshold now and
# then, which changes one tree in hundreds; anything beyond is a broken conversion.
MIN_LABEL_AGREEMENT = 0.995
MAX_RELATIVE_DIFFERENCE = 0.02
# The same for probabilities, the mean over rows and classes.
MAX_PROBABILITY_DIFFERENCE = 0.005


@dataclass(frozen=True)
class Agreement:
    """How close the ONNX model is to the fitted pipeline on held-out rows.

    `labels` is the share of classes or clusters that agree, or that of neighbours, 0..1; `max_difference` is
    the largest difference of a number or a probability. `sufficient` is False where both differ too much.
    """

    labels: float | None
    max_difference: float
    sufficient: bool = field(default=True, repr=False)


@dataclass(frozen=True)
class ClassScore:
    """How well one class of held-out rows is recognised; all but `rows` are 0..1."""

    name: str
    rows: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class ClassificationQuality:
    """The quality of a classifier's probabilities, as served and uncalibrated, and each class' scores."""

    probabilities: Mapping[str, float] = field(default_factory=dict)
    uncalibrated: Mapping[str, float] = field(default_factory=dict)
    classes: tuple[ClassScore, ...] = ()


class FlowTask(ABC):
    """How the models of one declaration are fitted, measured, converted and described.

    Features have shape (rows, features), in the declared order. The target is the column that scores are made
    with (`ModelSpec.label`); a clustering has none.
    """

    name: ClassVar[str]
    # The random forest that a model is compared with, of scikit-learn's defaults; None without a target.
    forest: ClassVar[Any] = None
    # Whether the baseline answers the same held-out rows, so that a difference can be drawn from both.
    paired_baseline: ClassVar[bool] = True
    # Options of skl2onnx for the converted estimator.
    converter_options: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec

    # Fitting

    def require_estimator(self, candidate: Candidate, estimator: Any) -> None:  # noqa: B027 - no must
        """Raise `TrainingError` for an estimator that cannot do the task."""

    def fit(self, pipeline: Pipeline, features: pd.DataFrame, target: Target) -> Pipeline:
        """Fit a pipeline and return it."""
        return pipeline.fit(features, target)

    def out_of_fold(
        self, pipeline: Pipeline, features: pd.DataFrame, positions: Positions
    ) -> OutOfFoldPredictions | None:
        """Return what a calibration needs of a fold's rows, which `pipeline` was not fitted on."""
        return None

    def calibrate(
        self, pipeline: Pipeline, folds: Sequence[OutOfFoldPredictions], train: Rows
    ) -> tuple[Pipeline, Calibration | None]:
        """Return a fitted pipeline with calibrated probabilities, where they get better by it."""
        return pipeline, None

    # Scores

    @abstractmethod
    def fold_score(self, pipeline: Pipeline, rows: Rows) -> float:
        """Return the headline metric, higher being better."""

    @abstractmethod
    def metrics(self, pipeline: Pipeline, rows: Rows) -> dict[str, float]:
        """Return the headline metric and the task's usual ones; losses as losses."""

    @abstractmethod
    def sample_score(self, pipeline: Pipeline, rows: Rows) -> SampleScore:
        """Return what scores samples of `rows` by the headline metric; predictions are made once."""

    @abstractmethod
    def baseline(self, pipeline: Pipeline, train: Rows, test: Rows) -> tuple[str, SampleScore]:
        """Return the name of the naive baseline, and what scores samples of held-out rows for it."""

    def quality(self, pipeline: Pipeline, rows: Rows) -> ClassificationQuality:
        """Return the scores that only a classifier has."""
        return ClassificationQuality()

    # The ONNX file

    def served(self, pipeline: Pipeline, train: Rows, test: Rows) -> tuple[Pipeline, pd.DataFrame | None]:
        """Return the pipeline that is served, and the things that it finds."""
        return pipeline, None

    def converted_part(self, pipeline: Pipeline) -> Pipeline:
        """Return the part of a pipeline that skl2onnx converts."""
        return pipeline

    def finish_graph(
        self, graph: ModelProto, pipeline: Pipeline, train: pd.DataFrame | None, things: pd.DataFrame | None
    ) -> tuple[ModelProto, dict[str, Any]]:
        """Return the graph with what skl2onnx does not convert, and what its description adds."""
        return graph, {}

    @staticmethod
    @abstractmethod
    def agreement(pipeline: Pipeline, model: OnnxModel, features: pd.DataFrame) -> Agreement:
        """Compare the ONNX model with the pipeline on rows."""

    # What people read

    @abstractmethod
    def plots(self, pipeline: Pipeline, train: Rows, test: Rows) -> Iterator[tuple[str, Any]]:
        """Yield the task's own plots and tables, each with its path among the run's artifacts."""

    def limits(self, metrics: Mapping[str, float]) -> Iterator[str]:
        """Yield the sentences of the model card that only this task needs; `metrics` are held-out ones."""
        yield from ()


class SupervisedTask(FlowTask):
    """A task that learns a target and is scored by scikit-learn's scorers."""

    # Scorers that every model of the task is measured by, beside its headline metric.
    scorers: ClassVar[tuple[str, ...]]
    baseline_name: ClassVar[str]
    # What predicts without features.
    dummy: ClassVar[Any]

    def fold_score(self, pipeline: Pipeline, rows: Rows) -> float:
        return float(get_scorer(self.spec.metric)(pipeline, rows.features, rows.target))

    def metrics(self, pipeline: Pipeline, rows: Rows) -> dict[str, float]:
        scores = {}
        for name in dict.fromkeys((self.spec.metric, *self.scorers)):
            value = float(get_scorer(name)(pipeline, rows.features, rows.target))
            # scikit-learn negates losses so that higher is better; people compare the losses themselves.
            scores[name.removeprefix("neg_")] = -value if name.startswith("neg_") else value
        return scores

    def sample_score(self, pipeline: Pipeline, rows: Rows) -> SampleScore:
        estimator, actual = self.precomputed(pipeline, rows)
        scorer = get_scorer(self.spec.metric)

        def score(positions: Positions) -> float:
            try:
                return float(scorer(estimator, positions, actual[positions]))
            except ValueError:  # a class that the metric needs is not among the sampled rows
                return float("nan")

        return score

    @abstractmethod
    def precomputed(self, pipeline: Pipeline, rows: Rows) -> tuple[PrecomputedEstimator, npt.NDArray[Any]]:
        """Return an estimator that has predicted `rows` already, and the target in the same form."""

    def baseline(self, pipeline: Pipeline, train: Rows, test: Rows) -> tuple[str, SampleScore]:
        dummy = clone(self.dummy).fit(train.features, required(train.target))
        return self.baseline_name, self.sample_score(dummy, test)


def mean_of(values: npt.NDArray[np.float64]) -> SampleScore:
    """Return what scores samples of rows by the mean of the rows' own scores."""
    return lambda positions: float(values[positions].mean())


def required(target: Target) -> "pd.Series[Any]":
    """Return the target; `TypeError` for a task that has none."""
    if target is None:
        raise TypeError("this task has a column that scores are made with")
    return target
