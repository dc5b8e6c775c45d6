"""Classification: a class for each row, with the probability of every class."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure
from onnx import ModelProto
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support
from sklearn.pipeline import Pipeline

from catalog.spec import Candidate
from checks.bootstrap import Positions
from checks.data.splits import Rows
from checks.precomputed import PrecomputedClassifier, PrecomputedEstimator
from flows.errors import TrainingError
from flows.tasks import calibration, onnx_graph
from flows.tasks.base import (
    MAX_PROBABILITY_DIFFERENCE,
    MIN_LABEL_AGREEMENT,
    Agreement,
    ClassificationQuality,
    ClassScore,
    SupervisedTask,
    required,
)
from flows.tasks.calibration import Calibration, OutOfFoldPredictions
from registry.model_format.onnx_model import OnnxModel


class Classification(SupervisedTask):
    """Models that predict one of some classes; their probabilities are calibrated."""

    name = "classification"
    scorers = ("accuracy", "balanced_accuracy", "f1_macro", "neg_log_loss")
    forest = RandomForestClassifier
    baseline_name = "always the most frequent class"
    dummy = DummyClassifier(strategy="prior")
    converter_options: ClassVar[Mapping[str, Any]] = {"zipmap": False}

    def require_estimator(self, candidate: Candidate, estimator: Any) -> None:
        if not hasattr(estimator, "predict_proba"):
            raise TrainingError(
                f"{self.spec.name}: {candidate.estimator} of the candidate {candidate.name} gives no "
                "probabilities, which the gate and the predictor need. Choose another estimator."
            )

    def out_of_fold(
        self, pipeline: Pipeline, features: pd.DataFrame, positions: Positions
    ) -> OutOfFoldPredictions:
        return calibration.out_of_fold(pipeline, features, positions)

    def calibrate(
        self, pipeline: Pipeline, folds: Sequence[OutOfFoldPredictions], train: Rows
    ) -> tuple[Pipeline, Calibration | None]:
        if not folds:
            return pipeline, None
        return calibration.calibrate(pipeline, folds, train.features, required(train.target))

    def precomputed(self, pipeline: Pipeline, rows: Rows) -> tuple[PrecomputedEstimator, npt.NDArray[Any]]:
        # By number: a comparison of text takes several times as long, hundreds of times.
        names, features = pd.Index(pipeline.classes_), rows.features
        labels, probabilities = (
            names.get_indexer(pipeline.predict(features)),
            pipeline.predict_proba(features),
        )
        estimator = PrecomputedClassifier(labels, probabilities, np.arange(len(names)))
        return estimator, names.get_indexer(required(rows.target).to_numpy())

    def quality(self, pipeline: Pipeline, rows: Rows) -> ClassificationQuality:
        actual, features, names = required(rows.target).to_numpy(), rows.features, pipeline.classes_
        uncalibrated, predicted = calibration.uncalibrated(pipeline), pipeline.predict(features)
        parts = precision_recall_fscore_support(actual, predicted, labels=names, zero_division=0)
        return ClassificationQuality(
            calibration.quality(actual, pipeline.predict_proba(features), names),
            calibration.quality(actual, uncalibrated.predict_proba(features), names)
            if uncalibrated is not pipeline
            else {},
            tuple(
                ClassScore(str(name), int(count), float(precision), float(recall), float(f1))
                for name, precision, recall, f1, count in zip(names, *parts, strict=True)
            ),
        )

    def converted_part(self, pipeline: Pipeline) -> Pipeline:
        return calibration.uncalibrated(pipeline)

    def finish_graph(
        self, graph: ModelProto, pipeline: Pipeline, train: pd.DataFrame | None, things: pd.DataFrame | None
    ) -> tuple[ModelProto, dict[str, Any]]:
        if calibration.is_calibrated(pipeline):
            power = calibration.probability_exponent(pipeline)
            graph = onnx_graph.add_temperature_scaling(graph, power)
        return graph, {"classes": tuple(str(label) for label in pipeline.classes_)}

    @staticmethod
    def agreement(pipeline: Pipeline, model: OnnxModel, features: pd.DataFrame) -> Agreement:
        predicted, probabilities = model.predict(features.to_numpy(dtype=np.float32))
        share = float(np.mean(predicted.astype(str) == pipeline.predict(features).astype(str)))
        differences = np.abs(probabilities - pipeline.predict_proba(features))
        sufficient = share >= MIN_LABEL_AGREEMENT and differences.mean() <= MAX_PROBABILITY_DIFFERENCE
        return Agreement(share, float(differences.max()), bool(sufficient))

    def plots(self, pipeline: Pipeline, train: Rows, test: Rows) -> Iterator[tuple[str, Any]]:
        rows, actual = test.features, required(test.target).to_numpy()
        classes = [str(label) for label in pipeline.classes_]
        yield "pictures/confusion-matrix.png", confusion(actual, pipeline.predict(rows), classes)
        yield "pictures/calibration-curve.png", reliability(actual, pipeline, rows)


def confusion(actual: npt.NDArray[Any], predicted: npt.NDArray[Any], classes: list[str]) -> Figure:
    """Draw the confusion matrix of held-out rows: counts, coloured by the share of each true class."""
    counts = confusion_matrix(actual, predicted, labels=classes)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = Figure(figsize=(1.5 + 0.8 * len(classes), 1.2 + 0.7 * len(classes)), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(classes)), classes, rotation=40, ha="right")
    axes.set_yticks(range(len(classes)), classes)
    axes.set(xlabel="predicted", ylabel="true", title="Held-out rows")
    for row, column in np.ndindex(counts.shape):
        colour = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour)
    return figure


def reliability(actual: npt.NDArray[Any], pipeline: Pipeline, rows: pd.DataFrame) -> Figure:
    """Draw accuracy against confidence, before and after calibration, and how often each confidence is."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot([0, 1], [0, 1], color="black", linewidth=1, label="as sure as right")
    forms = {"served": pipeline}
    if calibration.is_calibrated(pipeline):
        forms["before calibration"] = calibration.uncalibrated(pipeline)
    for name, form in forms.items():
        probabilities = form.predict_proba(rows)
        _, confidence, accuracy, _ = calibration.reliability(actual, probabilities, form.classes_)
        error = calibration.expected_error(actual, probabilities, form.classes_)
        left.plot(confidence, accuracy, marker="o", markersize=4, label=f"{name}: ECE {error:.3f}")
        right.hist(probabilities.max(axis=1), bins=calibration.BINS, range=(0, 1), alpha=0.6, label=name)
    left.set(xlabel="probability of the class named", ylabel="share that is right", title="Held-out rows")
    left.legend()
    right.set(xlabel="probability of the class named", ylabel="rows")
    right.legend()
    return figure
