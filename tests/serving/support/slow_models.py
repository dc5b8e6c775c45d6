"""Models that are of the served form and cost too much: always, or for some requests."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from registry.model_format.onnx_model import Description

READS = ("a", "b", "c")


def described(model: onnx.ModelProto, features: tuple[str, ...] = READS) -> bytes:
    background = ((1.0,) * len(features),) * 2
    description = Description(task="regression", features=features, background=background)
    helper.set_model_props(model, description.to_metadata())
    return model.SerializeToString()


def matrices(many: int, size: int, features: tuple[str, ...] = READS) -> bytes:
    """It multiplies `many` matrices of size times size for each run; none of them is in the file."""
    steps = [helper.make_node("MatMul", [f"m{n}", "m0"], [f"m{n + 1}"]) for n in range(many)]
    return _model(
        [
            helper.make_node("ReduceMax", ["rows"], ["scale"], keepdims=0),
            helper.make_node("ConstantOfShape", ["sizes"], ["zeros"]),
            helper.make_node("Add", ["zeros", "scale"], ["m0"]),
            *steps,
            helper.make_node("ReduceMax", [f"m{many}"], ["least"], keepdims=0),
        ],
        {"sizes": np.array([size, size])},
        features,
    )


def slow_for_lists(size: int, features: tuple[str, ...] = READS) -> bytes:
    """One row costs nothing; for several it multiplies matrices of size times size."""
    steps = [helper.make_node("MatMul", [f"m{n}", "m0"], [f"m{n + 1}"]) for n in range(20)]
    return _model(
        [
            helper.make_node("Shape", ["rows"], ["shape"]),
            helper.make_node("Gather", ["shape", "first"], ["count"]),
            helper.make_node("Sub", ["count", "one"], ["more"]),
            helper.make_node("Min", ["more", "one"], ["several"]),
            helper.make_node("Mul", ["several", "size"], ["side"]),
            helper.make_node("Add", ["side", "one"], ["wide"]),
            helper.make_node("Concat", ["wide", "wide"], ["sizes"], axis=0),
            helper.make_node("ConstantOfShape", ["sizes"], ["m0"]),
            *steps,
            helper.make_node("ReduceMax", ["m20"], ["least"], keepdims=0),
        ],
        {"first": np.array([0]), "one": np.array([1]), "size": np.array([size])},
        features,
    )


def _model(
    steps: list[onnx.NodeProto], constants: dict[str, np.ndarray], features: tuple[str, ...] = READS
) -> bytes:
    """A model whose answer is the sum of a row's features, and what the steps call `least`."""
    graph = helper.make_graph(
        [
            *steps,
            helper.make_node("ReduceSum", ["rows", "last"], ["sum"], keepdims=1),
            helper.make_node("Mul", ["least", "zero"], ["nothing"]),
            helper.make_node("Add", ["sum", "nothing"], ["answer"]),
        ],
        "slow",
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, [None, len(features)])],
        [helper.make_tensor_value_info("answer", TensorProto.FLOAT, [None, 1])],
        [
            numpy_helper.from_array(value, name)
            for name, value in {**constants, "last": np.array([1]), "zero": np.zeros(1, np.float32)}.items()
        ],
    )
    return described(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), features
    )
