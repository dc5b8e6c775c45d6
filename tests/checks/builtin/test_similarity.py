"""The gate on indexes of real tracks: which pass, and what is refused and why."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer

from catalog.spec import GatePolicy
from checks.builtin.context import CheckContext
from checks.builtin.run import is_builtin
from checks.comparison import IncumbentModel, compare
from checks.errors import GateInputError
from checks.gate import run_gate
from flows.modeling import onnx_export
from flows.tasks import onnx_graph, similarity
from flows.tasks.registry import task_of
from registry.evidence.verdict import CheckOutcome, Incumbent, Verdict
from registry.model_format.onnx_model import Description, OnnxModel
from registry.model_format.similarity_index import SimilarityIndex
from tests.checks.support.unlabelled import Sides, sides

EXACT = ("IndexIntegrity", "NeighbourRecall")


@pytest.fixture(scope="module")
def rows() -> Sides:
    return sides("similar")


@pytest.fixture(scope="module")
def fitted(rows: Sides) -> Pipeline:
    return rows.fitted()


@pytest.fixture(scope="module")
def model(rows: Sides, fitted: Pipeline) -> OnnxModel:
    return rows.exported(fitted)


@pytest.fixture(scope="module")
def content(rows: Sides, fitted: Pipeline) -> bytes:
    whole = similarity.with_index(fitted, rows.features(rows.things))
    return onnx_export.export(rows.spec, whole, things=rows.things)


def judged(rows: Sides, model: OnnxModel, folder: Path, *names: str) -> dict[str, CheckOutcome]:
    """What Greenroom's own checks of the model's policy come to, or some of them; DeepChecks is left out."""
    checks = (check for check in rows.spec.gate.checks if is_builtin(check))
    own = GatePolicy(checks=tuple(check for check in checks if not names or check.check in names))
    verdict: Verdict = rows.gate(run_gate, model, folder, gate=own)
    return {outcome.check: outcome for outcome in verdict.outcomes}


def failed(found: dict[str, CheckOutcome]) -> set[str]:
    return {name for name, outcome in found.items() if outcome.status != "passed"}


def changed(content: bytes, rows: Sides, *, initializers: Any = None, **items: Any) -> OnnxModel:
    """Return a model's file with other things, or with other constants in its graph."""
    proto = onnx.load_model_from_string(content)
    description = OnnxModel(content).description
    held = description.items
    assert held is not None
    said = {"metric": held.metric, "id_name": held.id_name, "ids": held.ids, "shown": held.shown}
    new = SimilarityIndex.of(**{**said, "rows": held.rows, **items})
    said_again = Description(task="similarity", features=rows.spec.features, items=new)
    onnx.helper.set_model_props(proto, said_again.to_metadata())
    for constant in proto.graph.initializer:
        if initializers and constant.name in initializers:
            value = initializers[constant.name](numpy_helper.to_array(constant))
            constant.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value), constant.name))
    return OnnxModel(proto.SerializeToString())


@pytest.mark.slow
def test_an_honest_index_passes_every_check(rows: Sides, model: OnnxModel, tmp_path: Path) -> None:
    verdict = rows.gate(run_gate, model, tmp_path)
    assert verdict.passed, verdict.refusals
    assert len(verdict.outcomes) == len(rows.spec.gate.checks)
    value = {o.check: o.value for o in verdict.outcomes}
    assert value["NeighbourRecall"] == 1.0
    assert value["IndexIntegrity"] == 0.0
    assert 0.93 < value["NeighbourStability"] < 1
    assert 0.94 < value["NeighbourResampling"] < 1
    assert 0.3 < value["NeighbourAgreement"] < 1


def test_an_index_by_cosine_passes_as_well(rows: Sides, tmp_path: Path) -> None:
    found = judged(rows, rows.exported(rows.fitted(1)), tmp_path, *EXACT, "NeighbourAgreement")
    assert not failed(found)
    assert found["NeighbourRecall"].value == 1.0


def test_an_index_whose_vectors_are_in_another_order_is_refused(
    rows: Sides, content: bytes, tmp_path: Path
) -> None:
    order = np.random.default_rng(0).permutation(len(rows.things))
    turned = changed(
        content,
        rows,
        initializers={
            "index": lambda v: v[order],
            "half_squares": lambda v: v[order],
        },
    )
    found = judged(rows, turned, tmp_path, *EXACT, "NeighbourAgreement")
    assert {"IndexIntegrity", "NeighbourRecall", "NeighbourAgreement"} <= failed(found)
    assert found["NeighbourRecall"].value < 0.02
    assert "of an exact search; at least 0.99 is asked for" in found["NeighbourRecall"].reason


def test_an_index_with_the_names_of_others_is_refused(rows: Sides, content: bytes, tmp_path: Path) -> None:
    held = OnnxModel(content).description.items
    assert held is not None
    renamed = changed(content, rows, ids=(*held.ids[1:], held.ids[0]))
    found = judged(rows, renamed, tmp_path, *EXACT)
    assert {"IndexIntegrity", "NeighbourRecall"} <= failed(found)
    titles = held.shown["track_name"]
    mistitled = changed(content, rows, shown={**held.shown, "track_name": (*titles[1:], titles[0])})
    assert failed(judged(rows, mistitled, tmp_path, *EXACT)) == {"IndexIntegrity"}


def test_an_index_of_some_of_the_rows_is_refused(rows: Sides, fitted: Pipeline, tmp_path: Path) -> None:
    found = judged(rows, rows.exported(fitted, rows.things[::2]), tmp_path, *EXACT)
    assert {"IndexIntegrity", "NeighbourRecall"} <= failed(found)
    assert found["IndexIntegrity"].value == pytest.approx(0.5, abs=0.001)
    assert found["NeighbourRecall"].value == pytest.approx(0.5, abs=0.1)
    assert "2,330 are missing" in found["IndexIntegrity"].reason


def test_one_missing_row_is_enough(rows: Sides, fitted: Pipeline, tmp_path: Path) -> None:
    found = judged(rows, rows.exported(fitted, rows.things[1:]), tmp_path, *EXACT)
    assert failed(found) == {"IndexIntegrity"}


def test_a_search_among_raw_features_is_refused(rows: Sides, tmp_path: Path) -> None:
    """Tempo, the largest number, would decide alone what is near."""
    raw = Pipeline([("features", FunctionTransformer()), *rows.fitted().steps[1:]])
    raw = task_of(rows.spec).fit(raw, rows.features(rows.train), rows.train["track_genre"])
    proto = onnx.helper.make_model(
        onnx.helper.make_graph(
            [onnx.helper.make_node("Identity", ["features"], ["same"])],
            "raw",
            [onnx.helper.make_tensor_value_info("features", onnx.TensorProto.FLOAT, [None, 9])],
            [onnx.helper.make_tensor_value_info("same", onnx.TensorProto.FLOAT, [None, 9])],
        ),
        opset_imports=[onnx.helper.make_opsetid("", 18)],
        ir_version=8,
    )
    onnx_graph.add_neighbour_search(proto, "euclidean", rows.features(rows.things).to_numpy())
    items = similarity.similarity_index(rows.spec, raw, rows.things)
    said = Description(task="similarity", features=rows.spec.features, items=items)
    onnx.helper.set_model_props(proto, said.to_metadata())
    found = judged(rows, OnnxModel(proto.SerializeToString()), tmp_path)
    assert failed(found) >= {"NeighbourRecall", "NeighbourStability", "NeighbourResampling"}


def test_neighbours_by_shuffled_features_are_refused(tmp_path: Path) -> None:
    """Such an index is whole and exact; what it finds has nothing to do with the tracks."""
    shuffled = sides("similar", shuffled=True)
    found = judged(shuffled, shuffled.exported(shuffled.fitted()), tmp_path)
    assert failed(found) == {"NeighbourAgreement"}
    assert found["NeighbourAgreement"].value == pytest.approx(1 / 6, abs=0.02)


def test_an_index_by_another_id_does_not_fit(rows: Sides, content: bytes, tmp_path: Path) -> None:
    with pytest.raises(GateInputError, match="finds things by isrc, but 'similar' declares track_id"):
        rows.gate(run_gate, changed(content, rows, id_name="isrc"), tmp_path)


def test_a_worse_index_than_the_one_in_production_is_refused(
    rows: Sides, model: OnnxModel, content: bytes
) -> None:
    order = np.random.default_rng(0).permutation(len(rows.things))
    worse = changed(
        content,
        rows,
        initializers={
            "index": lambda v: v[order],
            "half_squares": lambda v: v[order],
        },
    )
    incumbent = Incumbent(version=3, digest=None)
    outcome = compare(
        CheckContext(rows.spec, rows.train, rows.test, worse), IncumbentModel(incumbent, lambda: model)
    )
    assert outcome.status == "failed"
    assert "agreement_at_10" in outcome.reason
    back = compare(
        CheckContext(rows.spec, rows.train, rows.test, model), IncumbentModel(incumbent, lambda: worse)
    )
    assert back.status == "passed"
