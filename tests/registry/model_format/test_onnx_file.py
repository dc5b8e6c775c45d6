"""Files of a known form alone: what could run on, read elsewhere or load code is refused."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from registry.errors import ModelFormatError
from registry.model_format import onnx_file
from registry.model_format.onnx_file import require_plain_file
from tests.registry.support.onnx_trees import chain, leads_back_up, trees

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


def resized(*steps: onnx.NodeProto) -> Callable[[], onnx.ModelProto]:
    """As many rows as have a feature above zero, whose number becomes a size."""
    return lambda: graph(
        node("Greater", "x", "zero", output="positive"),
        node("Reshape", "positive", "flat", output="chosen"),
        node("Compress", "x", "chosen", output="some"),
        *steps,
        constants={
            "zero": np.zeros(1, np.float32),
            "flat": np.array([-1]),
            "many": np.array([10**9]),
            "place": np.array([0]),
        },
    )


def texts(in_tensor: bool) -> onnx.ModelProto:
    long = "a" * 5_000
    if in_tensor:
        return graph(node("Gather", "t", "x"), constants={"t": np.array([long])})
    return graph(node("LabelEncoder", "x", domain="ai.onnx.ml", keys_floats=[1.0], values_strings=[long]))


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
        (
            resized(
                node("Shape", "some", output="shape"),
                node("Mul", "shape", "many", output="sizes"),
                node("ConstantOfShape", "sizes"),
            ),
            "the size of ConstantOfShape from the value of a feature",
        ),
        (
            resized(
                node("Size", "some", output="size"),
                node("Unsqueeze", "size", "place", output="times"),
                node("Tile", "x", "times"),
            ),
            "the size of Tile from the value of a feature",
        ),
        (lambda: texts(in_tensor=True), "a text of more than 4,096 bytes in 't'"),
        (lambda: texts(in_tensor=False), "a text of more than 4,096 bytes in ai.onnx.ml.LabelEncoder"),
        (leads_back_up, "a tree that leads back up, or is deeper than 1,000 levels"),
        (lambda: chain(20_000), "a tree that leads back up, or is deeper than 1,000 levels"),
        (lambda: trees(nodes_nodeids=[7, 8, 9]), "a tree with a branch to nowhere"),
        (lambda: trees(nodes_modes=["LEAF"]), "trees that cannot be read"),
    ],
)
def test_other_files_are_refused(build: Callable[[], onnx.ModelProto], reason: str) -> None:
    with pytest.raises(ModelFormatError, match=reason) as refused:
        require_plain_file(build().SerializeToString())
    assert "docs/gate.md" in str(refused.value)


def test_what_is_no_onnx_file_or_too_much_of_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelFormatError, match="cannot be read"):
        require_plain_file(b"\xff" * 100)
    plain = graph(node("Identity", "x")).SerializeToString()
    require_plain_file(plain)
    monkeypatch.setattr(onnx_file, "MAX_NODES", 0)
    with pytest.raises(ModelFormatError, match="1 nodes, more than 0"):
        require_plain_file(plain)
    monkeypatch.setattr(onnx_file, "MAX_BYTES", 10)
    with pytest.raises(ModelFormatError, match="larger than"):
        require_plain_file(plain)


def test_a_size_may_follow_from_the_shape_of_the_rows() -> None:
    require_plain_file(
        graph(
            node("Shape", "x", output="shape"), node("Expand", "one", "shape"), constants={"one": np.ones(1)}
        ).SerializeToString()
    )


def test_what_a_row_costs_is_bounded_or_the_file_says_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert require_plain_file(chain(900).SerializeToString()).unbounded == ""
    monkeypatch.setattr(onnx_file, "BOUNDED_STEPS", 100)
    assert "its trees take up to 901 steps" in require_plain_file(chain(900).SerializeToString()).unbounded
    modulo = require_plain_file(graph(node("Mod", "x", "x", fmod=1)).SerializeToString())
    assert modulo.unbounded == "Mod takes longer for some values"


def test_a_size_that_is_computed_from_the_number_of_rows_is_not_bounded() -> None:
    """For two rows it may be a billion, where it was none for the first."""
    shape = node("Shape", "x", output="shape")
    constants = {"many": np.array([10**9]), "one": np.ones(1)}
    computed = graph(
        shape,
        node("Mul", "shape", "many", output="sizes"),
        node("Expand", "one", "sizes"),
        constants=constants,
    )
    form = require_plain_file(computed.SerializeToString())
    assert form.unbounded == "it computes the size of Expand from the number of rows"
    copied = graph(shape, node("Expand", "one", "shape"), constants=constants)
    assert require_plain_file(copied.SerializeToString()).unbounded == ""
