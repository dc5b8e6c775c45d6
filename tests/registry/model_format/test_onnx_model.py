"""Only files in the served format are loaded, and each refusal says what is wrong."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from registry.digests import digest
from registry.errors import ModelFormatError
from registry.model_format.onnx_model import (
    BACKGROUND_KEY,
    CLASSES_KEY,
    FEATURES_KEY,
    TASK_KEY,
    Description,
    OnnxModel,
)

REGRESSION = Description(task="regression", features=("a", "b"))
CLASSIFICATION = Description(task="classification", features=("a", "b"), classes=("no", "yes"))
FLOAT = TensorProto.FLOAT


def graph(
    shape: list[int | None],
    outputs: tuple[str, ...] = ("y",),
    element: int = FLOAT,
    metadata: dict[str, str] | None = None,
) -> bytes:
    """Return a model that copies its input to each of its outputs."""
    made = helper.make_graph(
        [helper.make_node("Identity", ["x"], [name]) for name in outputs],
        "copy",
        [helper.make_tensor_value_info("x", element, shape)],
        [helper.make_tensor_value_info(name, element, shape) for name in outputs],
    )
    model: onnx.ModelProto = helper.make_model(
        made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9
    )
    helper.set_model_props(model, REGRESSION.to_metadata() if metadata is None else metadata)
    return bytes(model.SerializeToString())


def test_a_described_model_is_loaded() -> None:
    content = graph([None, 2])
    model = OnnxModel(content)
    assert model.description == REGRESSION
    assert model.digest == digest(content)
    classifier = OnnxModel(graph([None, 2], ("label", "p"), metadata=CLASSIFICATION.to_metadata()))
    rows = np.array([[0.25, 0.75]], dtype=np.float32)
    _, probabilities = classifier.predict(rows)
    assert probabilities is not None
    assert probabilities.tolist() == [[0.25, 0.75]]


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x00" * 100, graph([None, 2])[:-60]])
def test_what_is_no_onnx_file_is_refused(content: bytes) -> None:
    with pytest.raises(ModelFormatError, match="ONNX"):
        OnnxModel(content)


@pytest.mark.parametrize(
    "change",
    [
        {FEATURES_KEY: None},
        {TASK_KEY: None},
        {CLASSES_KEY: None},
        {FEATURES_KEY: "a, b"},
        {FEATURES_KEY: "[1, 2]"},
        {TASK_KEY: json.dumps("ranking")},
    ],
)
def test_a_file_that_does_not_describe_itself_is_refused(change: dict[str, str | None]) -> None:
    metadata = {k: v for k, v in {**REGRESSION.to_metadata(), **change}.items() if v is not None}
    with pytest.raises(ModelFormatError, match="does not say which features"):
        OnnxModel(graph([None, 2], metadata=metadata))


def test_a_background_travels_in_the_file_and_is_float32() -> None:
    rows = ((0.1, -2.5), (3e38, 0.0))
    described = REGRESSION.model_copy(update={"background": rows})
    model = OnnxModel(graph([None, 2], metadata=described.to_metadata()))
    assert model.description == described
    np.testing.assert_array_equal(model.description.background_rows(), np.array(rows, dtype=np.float32))
    assert REGRESSION.background_rows().shape == (0, 2)
    assert BACKGROUND_KEY not in REGRESSION.to_metadata()


@pytest.mark.parametrize(
    "background",
    ["[[1]]", "[[1, 2, 3]]", "[[1, NaN]]", "[[1, 1e39]]", "7", "[1, 2]", json.dumps([[1, 2]] * 65)],
)
def test_a_background_that_does_not_fit_is_refused(background: str) -> None:
    metadata = {**REGRESSION.to_metadata(), BACKGROUND_KEY: background}
    with pytest.raises(ModelFormatError, match=r"greenroom\.background"):
        OnnxModel(graph([None, 2], metadata=metadata))


@pytest.mark.parametrize(
    ("shape", "element"),
    [([None, 3], FLOAT), ([None, None], FLOAT), ([2], FLOAT), ([], FLOAT), ([None, 2], TensorProto.DOUBLE)],
)
def test_another_input_than_described_is_refused(shape: list[int | None], element: int) -> None:
    with pytest.raises(ModelFormatError, match=r"one float32 input of shape \(rows, 2\)"):
        OnnxModel(graph(shape, element=element))


def test_other_outputs_than_the_task_has_are_refused() -> None:
    with pytest.raises(ModelFormatError, match="regression model has outputs"):
        OnnxModel(graph([None, 2], ("y", "z")))
    with pytest.raises(ModelFormatError, match="classification model has outputs"):
        OnnxModel(graph([None, 2], ("y",), metadata=CLASSIFICATION.to_metadata()))


@pytest.mark.parametrize(("classes", "says"), [((), "name its classes"), (("a", "b", "c"), r"\(rows, 3\)")])
def test_classes_that_do_not_fit_the_probabilities_are_refused(classes: tuple[str, ...], says: str) -> None:
    metadata = CLASSIFICATION.model_copy(update={"classes": classes}).to_metadata()
    with pytest.raises(ModelFormatError, match=says):
        OnnxModel(graph([None, 2], ("label", "p"), metadata=metadata))
