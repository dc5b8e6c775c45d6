"""The gate judges ONNX files of a known form alone; tests/registry/model_format has every form."""

import pytest
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.neural_network import MLPRegressor
from sklearn.svm import SVR

from checks.errors import GateInputError
from checks.service.model_file import require_plain_file
from registry.model_format import onnx_file
from tests.checks.support.sample_models import Small, onnx_bytes
from tests.registry.model_format.test_onnx_file import loop
from tests.registry.support.onnx_trees import leads_back_up


def test_a_file_of_another_form_is_no_input_of_the_gate() -> None:
    for model, reason in ((loop(), "the operator Loop"), (leads_back_up(), "leads back up")):
        with pytest.raises(GateInputError, match=reason):
            require_plain_file(model.SerializeToString())


def test_what_is_no_onnx_file_is_no_input_of_the_gate() -> None:
    with pytest.raises(GateInputError, match="cannot be read"):
        require_plain_file(b"no model")


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
    content = onnx_bytes(spec, estimator, train)
    require_plain_file(content)
    assert onnx_file.require_plain_file(content).unbounded == ""
