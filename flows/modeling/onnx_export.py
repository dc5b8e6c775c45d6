"""Conversion of a fitted candidate to ONNX, and whether both agree. Plain functions."""

from typing import Any

import numpy as np
import onnx
import pandas as pd
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.pipeline import Pipeline

from catalog.spec import ModelSpec
from flows.errors import ExportError
from flows.modeling.threads import one_thread
from flows.tasks.base import Agreement
from flows.tasks.registry import task_class, task_of
from registry.model_format.onnx_model import Description, OnnxModel

# The newest that skl2onnx 1.20 writes for ai.onnx and that onnxruntime 1.32 reads.
_OPSET = {"": 18, "ai.onnx.ml": 3}


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

    `train` has the training rows' features: a few of them go into the file, see `background`; without them
    the model cannot be explained, and a clustering cannot be named. `things` are what a similarity finds,
    with the columns of `spec`, in the order of its index.
    """
    task = task_of(spec)
    part = task.converted_part(pipeline)
    try:
        graph = to_onnx(
            part,
            initial_types=[("features", FloatTensorType([None, len(spec.features)]))],
            options={id(part): dict(task.converter_options)} if task.converter_options else None,
            target_opset=_OPSET,
        )
    except Exception as error:  # skl2onnx raises what its parsers raise
        # Some print whole trees below their first line.
        why = (str(error).splitlines() or [type(error).__name__])[0][:200].rstrip(".")
        raise ExportError(
            f"{spec.name}: {type(part[-1]).__name__} cannot be converted to ONNX, the format that is "
            f"served: {why}. Choose another estimator."
        ) from error
    graph, extra = task.finish_graph(graph, pipeline, train, things)
    description: dict[str, Any] = {"task": spec.task, "features": spec.features, **extra}
    if spec.supervised and train is not None:
        description["background"] = background(spec, train)
    onnx.helper.set_model_props(graph, Description(**description).to_metadata())
    # skl2onnx lists the domains in the order of a set of strings, which is another in each process.
    domains = sorted(graph.opset_import, key=lambda opset: opset.domain)
    del graph.opset_import[:]
    graph.opset_import.extend(domains)
    return bytes(graph.SerializeToString(deterministic=True))


def agreement(pipeline: Pipeline, model: OnnxModel, rows: pd.DataFrame) -> Agreement:
    """Compare the ONNX model with the pipeline on rows; raises `ExportError` when they differ too much."""
    result = task_class(model.description.task).agreement(pipeline, model, rows)
    if not result.sufficient:
        raise ExportError(
            f"The ONNX model disagrees with the scikit-learn pipeline on held-out rows ({result}); "
            "it would serve other predictions than were measured."
        )
    return result
