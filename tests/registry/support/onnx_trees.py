"""Trees that nobody fitted: valid for ONNX Runtime's loader, or nearly, and not for ours."""

from typing import Any

import onnx
from onnx import TensorProto, helper


def trees(features: int = 3, **attributes: Any) -> onnx.ModelProto:
    """One tree that asks the first feature once, or what the attributes say."""
    tree = {
        "nodes_treeids": [0] * 3,
        "nodes_nodeids": [0, 1, 2],
        "nodes_featureids": [0] * 3,
        "nodes_values": [0.5, 0.0, 0.0],
        "nodes_modes": ["BRANCH_GT", "LEAF", "LEAF"],
        "nodes_truenodeids": [2, 0, 0],
        "nodes_falsenodeids": [1, 0, 0],
        "target_treeids": [0, 0],
        "target_nodeids": [1, 2],
        "target_ids": [0, 0],
        "target_weights": [1.0, 2.0],
    }
    ensemble = helper.make_node(
        "TreeEnsembleRegressor", ["x"], ["y"], domain="ai.onnx.ml", n_targets=1, **{**tree, **attributes}
    )
    graph = helper.make_graph(
        [ensemble],
        "trees",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, features])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 1])],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def leads_back_up(features: int = 3, feature: int = 0, above: float = 0.5) -> onnx.ModelProto:
    """A tree that ONNX Runtime loads, and walks in circles for rows whose feature is above a number."""
    return trees(
        features,
        nodes_treeids=[0] * 6,
        nodes_nodeids=[0, 1, 2, 3, 4, 5],
        nodes_featureids=[feature] * 6,
        nodes_values=[-5.0, -5.0, above, 0.0, 0.0, 0.0],
        nodes_modes=["BRANCH_LEQ", "BRANCH_LEQ", "BRANCH_GT", "LEAF", "LEAF", "LEAF"],
        nodes_truenodeids=[5, 4, 1, 0, 0, 0],
        nodes_falsenodeids=[1, 2, 3, 0, 0, 0],
        target_treeids=[0] * 3,
        target_nodeids=[3, 4, 5],
        target_ids=[0] * 3,
        target_weights=[1.0, 2.0, 3.0],
    )


def chain(levels: int, features: int = 3) -> onnx.ModelProto:
    """A tree with one branch on each level; many thousands of them end ONNX Runtime while it loads them."""
    nodes = list(range(2 * levels + 1))
    branches = nodes[:levels]
    return trees(
        features,
        nodes_treeids=[0] * len(nodes),
        nodes_nodeids=nodes,
        nodes_featureids=[0] * len(nodes),
        nodes_values=[float(levels - place) for place in branches] + [0.0] * (levels + 1),
        nodes_modes=["BRANCH_GT"] * levels + ["LEAF"] * (levels + 1),
        nodes_truenodeids=[levels + 1 + place for place in branches] + [0] * (levels + 1),
        nodes_falsenodeids=[place + 1 for place in branches] + [0] * (levels + 1),
        target_treeids=[0] * (levels + 1),
        target_nodeids=nodes[levels:],
        target_ids=[0] * (levels + 1),
        target_weights=[1.0] * (levels + 1),
    )
