"""The files of a model version: MLflow's folder, and which of them a served version may hold.

The list is closed. What loads `models:/NAME/VERSION` reads more than the ONNX file; a file that nobody looked
at would be signed with the rest.
"""

from collections.abc import Iterable
from typing import Literal

# What a version's files are: an ONNX file with MLflow's description of it, or code that MLflow would run.
Artifact = Literal["onnx", "pyfunc"]

# The file of a version that is served; MLflow's ONNX flavour gives it this name.
MODEL_FILE = "model.onnx"
MLMODEL = "MLmodel"
REQUIREMENTS, CONDA, PYTHON_ENV = "requirements.txt", "conda.yaml", "python_env.yaml"
EXAMPLES = ("input_example.json", "serving_input_example.json")
_REQUIRED = frozenset({MODEL_FILE, MLMODEL})
CLOSED_LIST = frozenset({*_REQUIRED, REQUIREMENTS, CONDA, PYTHON_ENV, *EXAMPLES})


def artifact_of(paths: Iterable[str]) -> Artifact:
    """Return what a version's files are, by their paths. `pyfunc` is run only where a setting allows it."""
    return "onnx" if MODEL_FILE in set(paths) else "pyfunc"


def beyond_closed_list(paths: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return which files of an ONNX version may not be there, and which must and are not; sorted.

    A pyfunc version's files are those that its model needs: of it both lists are empty, unless it has no
    description.
    """
    present = set(paths)
    if artifact_of(present) == "pyfunc":
        return [], sorted({MLMODEL} - present)
    return sorted(present - CLOSED_LIST), sorted(_REQUIRED - present)
