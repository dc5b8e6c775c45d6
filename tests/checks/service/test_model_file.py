"""The gate judges ONNX files of a known form: what could run on, read elsewhere or load code is refused."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.neural_network import MLPRegressor
from sklearn.svm import SVR

from checks.errors import GateInputError
from checks.service import model_file
from checks.service.model_file import require_plain_file
from tests.checks.support.sample_models import Small, onnx_bytes

FLOATS = TensorProto.FLOAT


def graph(*nodes: onnx.NodeProto, constants: dict[str, np.ndarray] | None = None) -> onnx.ModelProto:
    """A model that reads `x`, one matrix, and answers `y`."""
    return helper.make_model(
        helper.make_graph(
            list(nodes),
            "g",
            [helper.make_tensor_value_info("x", FLOATS, [None, 3])],
            [helper.make_tensor_value_info("y", FLOATS, None)],
            [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()],
        )
    )


def node(
    kind: str, *inputs: str, output: str = "y", domain: str = "", **attributes: object
) -> onnx.NodeProto:
    return helper.make_node(kind, list(inputs), [output], domain=domain, **attributes)


def loop() -> onnx.ModelProto:
    """It runs so many times as the first feature says."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["going"], ["on"]), helper.make_node("Add", ["sum", "sum"], ["more"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("sum", FLOATS, None),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("more", FLOATS, None),
        ],
    )
    return graph(
        node("ReduceMax", "x", output="most", keepdims=0),
        node("Cast", "most", output="times", to=TensorProto.INT64),
        helper.make_node("Loop", ["times", "", "x"], ["y"], body=body),
    )


def external(in_attribute: bool) -> onnx.ModelProto:
    tensor = numpy_helper.from_array(np.ones(3, np.float32), "weights")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "keys/gate.pem"
    if in_attribute:
        return graph(node("Constant", output="weights", value=tensor), node("Add", "x", "weights"))
    model = graph(node("Add", "x", "weights"))
    model.graph.initializer.append(tensor)
    return model


def own_function() -> onnx.ModelProto:
    model = graph(node("Mine", "x", domain="own"))
    steps = [helper.make_node("Identity", ["a"], ["b"])]
    opsets = [helper.make_opsetid("", 18)]
    model.functions.append(helper.make_function("own", "Mine", ["a"], ["b"], steps, opsets))
    return model


def conditional() -> onnx.ModelProto:
    branch = helper.make_graph([], "b", [], [helper.make_tensor_value_info("x", FLOATS, None)])
    return graph(helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch))


def hidden_graph() -> onnx.ModelProto:
    """A graph as an attribute of an operator that has none."""
    empty = helper.make_graph([], "b", [], [])
    return graph(node("Identity", "x", surprise=empty))


def sized(kind: str, *rest: str, first: str = "x") -> Callable[[], onnx.ModelProto]:
    def build() -> onnx.ModelProto:
        return graph(
            node("Cast", "x", output="large", to=TensorProto.INT64),
            node(kind, *([first] if first else []), "large", *rest),
            constants={"one": np.ones(1, np.int64)},
        )

    return build


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (loop, "the operator Loop"),
        (conditional, "the operator If"),
        (hidden_graph, "a graph inside Identity"),
        (lambda: external(in_attribute=False), "keeps 'weights' outside of itself"),
        (lambda: external(in_attribute=True), "keeps a tensor of Constant outside of itself"),
        (own_function, "functions of its own"),
        (lambda: graph(node("Gelu", "x", domain="com.microsoft")), "the operator com.microsoft.Gelu"),
        (lambda: graph(node("Shell", "x", domain="evil")), "the operator evil.Shell"),
        (lambda: graph(node("RandomNormalLike", "x")), "the operator RandomNormalLike"),
        (lambda: graph(node("Scan", "x")), "the operator Scan"),
        (lambda: graph(node("SequenceMap", "x")), "the operator SequenceMap"),
        (lambda: graph(node("ImageDecoder", "x")), "the operator ImageDecoder"),
        (sized("ConstantOfShape", first=""), "the size of ConstantOfShape from the value of a feature"),
        (sized("Expand"), "the size of Expand from the value of a feature"),
        (sized("Tile"), "the size of Tile from the value of a feature"),
        (sized("Range", "one", first="one"), "the size of Range from the value of a feature"),
        (sized("Reshape"), "the size of Reshape from the value of a feature"),
    ],
)
def test_other_files_are_refused(build: Callable[[], onnx.ModelProto], reason: str) -> None:
    with pytest.raises(GateInputError, match=reason) as refused:
        require_plain_file(build().SerializeToString())
    assert "docs/gate.md" in str(refused.value)


def test_what_is_no_onnx_file_or_too_much_of_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(GateInputError, match="cannot be read"):
        require_plain_file(b"\xff" * 100)
    plain = graph(node("Identity", "x")).SerializeToString()
    require_plain_file(plain)
    monkeypatch.setattr(model_file, "MAX_NODES", 0)
    with pytest.raises(GateInputError, match="1 nodes, more than 0"):
        require_plain_file(plain)
    monkeypatch.setattr(model_file, "MAX_BYTES", 10)
    with pytest.raises(GateInputError, match="larger than"):
        require_plain_file(plain)


def test_a_size_may_follow_from_the_shape_of_the_rows() -> None:
    require_plain_file(
        graph(
            node("Shape", "x", output="shape"), node("Expand", "one", "shape"), constants={"one": np.ones(1)}
        ).SerializeToString()
    )


@pytest.mark.parametrize(
    "estimator",
    [
        GradientBoostingRegressor(n_estimators=2),
        MLPRegressor(hidden_layer_sizes=(4,), max_iter=5),
        SVR(),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_exported_estimators_are_plain(small: Small, estimator: object) -> None:
    spec, (train, _), _ = small
    require_plain_file(onnx_bytes(spec, estimator, train))
