"""The gate judges ONNX files of one form, which the predictor asks for as well."""

from checks.errors import GateInputError
from registry.errors import ModelFormatError
from registry.model_format import onnx_file
from registry.model_format.onnx_file import MAX_BYTES

__all__ = ["MAX_BYTES", "require_plain_file"]


def require_plain_file(content: bytes) -> None:
    """Raise `GateInputError` unless an ONNX file is of the form that the gate judges."""
    try:
        onnx_file.require_plain_file(content)
    except ModelFormatError as error:
        raise GateInputError(str(error)) from error
