"""Turning a fitted candidate into ONNX, and whether both agree. Plain functions."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pandas as pd
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.pipeline import Pipeline

from catalog.spec import ModelSpec
from flows.errors import ExportError
from flows.modeling import calibration, clustering, onnx_graph, similarity
from flows.modeling.threads import one_thread
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
class Agreement:
    """How close the ONNX model is to the fitted pipeline on held-out rows.

    `labels` is the share of classes or clusters that agree, or that of neighbours.
    """

    labels: float | None
    max_difference: float


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
            proto = onnx_graph.with_scaling(proto, calibration.exponent(pipeline))
    elif spec.task == "clustering" and train is not None:
        proto = onnx_graph.only_numbers(proto)
        said["classes"] = clustering.named(spec, pipeline, train)
    elif spec.task == "similarity" and things is not None:
        vectors = pipeline[:-1].transform(things[list(spec.features)])
        proto = onnx_graph.with_index(proto, pipeline[-1].metric, vectors)
        said["items"] = similarity.items(spec, pipeline, things)
    if spec.supervised and train is not None:
        said["background"] = background(spec, train)
    onnx.helper.set_model_props(proto, Description(**said).to_metadata())
    return bytes(proto.SerializeToString())


def agreement(pipeline: Pipeline, model: OnnxModel, rows: pd.DataFrame) -> Agreement:
    """Compare the ONNX model with the pipeline on rows; raises `ExportError` when they differ too much."""
    matrix = rows.to_numpy(dtype=np.float32)
    predicted, probabilities = model.predict(matrix)
    if model.description.items is not None:
        labels = similarity.overlap(pipeline, rows, predicted)
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
