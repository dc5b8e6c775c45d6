"""What is built into the ONNX graph beside the model: a scaling, an index, cluster numbers."""

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from catalog.spec import MAX_NEIGHBOURS
from flows.tasks.calibration import TINY


def add_temperature_scaling(proto: onnx.ModelProto, power: float) -> onnx.ModelProto:
    """Return a converted classifier whose graph scales its probabilities; its labels stay as they are."""
    graph = proto.graph
    probabilities = graph.output[1].name
    constants = {"scaling_tiny": np.float32(TINY), "scaling_power": np.float32(power)}
    graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()
    )
    graph.node.extend(
        [
            helper.make_node("Add", [probabilities, "scaling_tiny"], ["scaling_positive"]),
            helper.make_node("Log", ["scaling_positive"], ["scaling_logs"]),
            helper.make_node("Mul", ["scaling_logs", "scaling_power"], ["scaling_logits"]),
            helper.make_node("Softmax", ["scaling_logits"], ["scaled_probabilities"], axis=1),
        ]
    )
    width = graph.output[1].type.tensor_type.shape.dim[-1].dim_value or None
    del graph.output[1:]
    graph.output.append(
        helper.make_tensor_value_info("scaled_probabilities", TensorProto.FLOAT, [None, width])
    )
    onnx.checker.check_model(proto)
    return proto


def keep_labels_only(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return a converted clustering whose only output is the number of the cluster, int64.

    Other outputs differ between estimators: k-means gives distances, a mixture probabilities.
    """
    del proto.graph.output[1:]
    return proto


def add_neighbour_search(
    proto: onnx.ModelProto, metric: str, vectors: npt.NDArray[np.float64]
) -> onnx.ModelProto:
    """Return a converted encoder whose graph searches: places of the nearest things, and their distances.

    `vectors` are the encoded features of the things, shape (things, encoded features).

    The search is exact. Things are ranked by a product of matrices, in which near ones lose digits; so the
    distances of those that are found are computed once more from the differences, and ordered by that. Cosine
    distances are half the squared distances between vectors of length 1.
    """
    graph, index = proto.graph, vectors
    if cosine := metric == "cosine":
        index = index / np.maximum(np.linalg.norm(index, axis=1, keepdims=True), 1e-12)
    # One more than a request may ask for, because a thing of the index finds itself.
    neighbours = min(MAX_NEIGHBOURS + 1, len(index))
    constants = {
        "index": index.astype(np.float32),
        "half_squares": ((index**2).sum(axis=1) / 2).astype(np.float32),
        "found": np.array([neighbours], dtype=np.int64),
        "along_one": np.array([1], dtype=np.int64),
        "along_two": np.array([2], dtype=np.int64),
    }
    if cosine:
        constants |= {"half": np.float32(0.5), "tiny": np.float32(1e-12)}
    graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()
    )
    query = encoded = graph.output[0].name
    nodes = []
    if cosine:
        query = "asked"
        nodes += [
            helper.make_node("ReduceL2", [encoded, "along_one"], ["length"], keepdims=1),
            helper.make_node("Max", ["length", "tiny"], ["divisor"]),
            helper.make_node("Div", [encoded, "divisor"], [query]),
        ]
    nodes += [
        # query · index - |index|² / 2, which falls as the distance grows.
        helper.make_node("Gemm", [query, "index", "half_squares"], ["nearness"], transB=1, beta=-1.0),
        helper.make_node("TopK", ["nearness", "found"], ["nearest", "places"], axis=1),
        helper.make_node("Gather", ["index", "places"], ["near"], axis=0),
        helper.make_node("Unsqueeze", [query, "along_one"], ["one_by_one"]),
        helper.make_node("Sub", ["one_by_one", "near"], ["apart"]),
        helper.make_node("ReduceSumSquare", ["apart", "along_two"], ["squares"], keepdims=0),
        helper.make_node("Mul", ["squares", "half"], ["far"])
        if cosine
        else helper.make_node("Sqrt", ["squares"], ["far"]),
        helper.make_node("TopK", ["far", "found"], ["distances", "order"], axis=1, largest=0),
        helper.make_node("GatherElements", ["places", "order"], ["neighbours"], axis=1),
    ]
    graph.node.extend(nodes)
    del graph.output[:]
    graph.output.extend(
        helper.make_tensor_value_info(name, kind, [None, neighbours])
        for name, kind in (("neighbours", TensorProto.INT64), ("distances", TensorProto.FLOAT))
    )
    onnx.checker.check_model(proto)
    return proto
