"""The files of a model version: MLflow's folder, and what of it a served version may hold."""

from collections.abc import Iterable
from typing import Literal

# The file of a version that is served; MLflow's ONNX flavour gives it this name.
MODEL_FILE = "model.onnx"
MLMODEL = "MLmodel"


def artifact_of(files: Iterable[str]) -> Literal["onnx", "pyfunc"]:
    """Return what a version's files are, by their paths: `pyfunc` is code, which MLflow would run."""
    return "onnx" if MODEL_FILE in files else "pyfunc"
