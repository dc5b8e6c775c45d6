"""Small real ONNX models, and the way into a real registry."""

import json
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper
from skl2onnx import to_onnx
from sklearn.linear_model import LinearRegression, LogisticRegression

from registry.client.registry import Version
from registry.client.tracking_client import TrackingClient
from registry.model_format.onnx_model import Description
from registry.settings import RegistrySettings
from tests.conftest import Stack
from tests.evidence import Gate, key_settings

CLASSES = ("country", "metal", "rock")
WEIGHTS = {"danceability": 0.5, "duration_ms": 0.001, "explicit": 4.0}
BIAS = 0.25


def _described(model: onnx.ModelProto, description: Description | None) -> onnx.ModelProto:
    if description is not None:
        helper.set_model_props(model, description.to_metadata())
    return model


def classifier(features: tuple[str, ...], *, zipmap: bool = False) -> onnx.ModelProto:
    """A logistic regression with three classes; the features keep the order they are given in."""
    rng = np.random.default_rng(7)
    rows = rng.normal(size=(120, len(features))).astype(np.float32)
    labels = np.array(CLASSES)[rng.integers(0, 3, size=120)]
    fitted = LogisticRegression(max_iter=200).fit(rows, labels)
    model = to_onnx(fitted, rows[:1], options={id(fitted): {"zipmap": zipmap}}, target_opset=18)
    return _described(model, Description(task="classification", features=features, classes=CLASSES))


def regression(features: tuple[str, ...], weights: dict[str, float], bias: float) -> onnx.ModelProto:
    """A linear regression that computes exactly bias + sum of weight * feature."""
    fitted = LinearRegression().fit(np.eye(len(features), dtype=np.float32), np.zeros(len(features)))
    fitted.coef_ = np.array([weights.get(name, 0.0) for name in features])
    fitted.intercept_ = bias
    model = to_onnx(fitted, np.zeros((1, len(features)), dtype=np.float32), target_opset=18)
    return _described(model, Description(task="regression", features=features))


def divides_by_zero(features: tuple[str, ...]) -> onnx.ModelProto:
    """A model that answers infinity, whatever it is given."""
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMax", ["rows"], ["top"], keepdims=1),
            helper.make_node("Div", ["one", "zero"], ["inf"]),
            helper.make_node("Add", ["top", "inf"], ["answer"]),
        ],
        "broken",
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, [None, len(features)])],
        [helper.make_tensor_value_info("answer", TensorProto.FLOAT, [None, 1])],
        [
            helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0]),
            helper.make_tensor("zero", TensorProto.FLOAT, [1], [0.0]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return _described(model, Description(task="regression", features=features))


def undescribed(features: tuple[str, ...]) -> onnx.ModelProto:
    """A model that does not say which features it reads."""
    model = regression(features, {}, 0.0)
    del model.metadata_props[:]
    return model


def publish(stack: Stack, models: dict[str, onnx.ModelProto]) -> dict[str, Version]:
    """Register each model, sign that it passed the gate, and put it into Production."""
    with TrackingClient(RegistrySettings(tracking_uri=stack.tracking_url)) as client:
        gate = Gate(client, key_settings(stack))
        return {
            name: gate.to_production(register(gate, stack, name, model)) for name, model in models.items()
        }


def register(gate: Gate, stack: Stack, name: str, model: onnx.ModelProto) -> Version:
    """Log and register a model with MLflow's own client."""
    import mlflow  # noqa: PLC0415 - seconds of import that most tests do without
    import mlflow.onnx  # noqa: PLC0415

    mlflow.set_tracking_uri(stack.tracking_url)
    with mlflow.start_run():
        # Without requirements it would infer them by loading the model in another process.
        logged: Any = mlflow.onnx.log_model(
            model, name="model", registered_model_name=name, pip_requirements=["onnxruntime"]
        )
    return gate.registry.version(name, int(logged.registered_model_version))


def json_of(text: str) -> Any:
    """Parse strictly: NaN and Infinity are not JSON."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)
