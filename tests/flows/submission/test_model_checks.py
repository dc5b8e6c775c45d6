"""What is no model for the gate: each kind is refused with a sentence that says what to do."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest
from onnx import TensorProto, helper
from skl2onnx import to_onnx
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC

from catalog.spec import ModelSpec
from flows.errors import ExportError, LeakageError, SubmissionError
from flows.modeling import onnx_export
from flows.submission import flow, model_checks, model_sources, plain_table
from flows.submission.leakage import require_no_leakage
from flows.submission.model_sources import SubmittedModel
from registry.model_format.onnx_model import OnnxModel

_SIZE = 600


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    """Three classes that overlap: nobody can be perfect on rows that are new."""
    random = np.random.default_rng(1)
    label = random.integers(0, 3, _SIZE)
    return pd.DataFrame(
        {
            "length": label + random.normal(0, 0.8, _SIZE),
            "width": random.normal(0, 1, _SIZE),
            "depth": -label + random.normal(0, 0.8, _SIZE),
            "kind": np.array(["ash", "birch", "cedar"])[label],
        }
    )


def declared(table: pd.DataFrame, target: str = "kind") -> ModelSpec:
    task: Any = "classification" if target == "kind" else "regression"
    declaration, _ = plain_table.declare("trees", table.copy(), target=target, task=task)
    return declaration.spec()


@pytest.fixture(scope="module")
def spec(table: pd.DataFrame) -> ModelSpec:
    return declared(table)


@pytest.fixture(scope="module")
def rows(spec: ModelSpec, table: pd.DataFrame) -> pd.DataFrame:
    return table[list(spec.features)]


@pytest.fixture(scope="module")
def converted(rows: pd.DataFrame, table: pd.DataFrame) -> bytes:
    """A good classifier as somebody else would convert it."""
    fitted = LogisticRegression().fit(rows.to_numpy(), table["kind"])
    return to_bytes(fitted, rows)


def to_bytes(fitted: Any, rows: pd.DataFrame, *, zipmap: bool = False) -> bytes:
    options = {id(fitted): {"zipmap": False}} if hasattr(fitted, "classes_") and not zipmap else None
    sample = rows.to_numpy(np.float32)[:1]
    proto = to_onnx(fitted, sample, options=options, target_opset={"": 18, "ai.onnx.ml": 3})
    return bytes(proto.SerializeToString())


def describe(spec: ModelSpec, content: bytes, table: pd.DataFrame, *classes: str) -> OnnxModel:
    target = table[str(spec.target)]
    return OnnxModel(model_checks.with_metadata(spec, content, table[list(spec.features)], target, classes))


def graph(width: int, outputs: list[Any], nodes: list[Any], rows: Any = "n") -> bytes:
    """Return an ONNX file of a few nodes that read `x`."""
    matrix = helper.make_tensor_value_info("x", TensorProto.FLOAT, [rows, width])
    graph = helper.make_graph(nodes, "made", [matrix], outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return bytes(model.SerializeToString())


# Where a model comes from


def test_a_good_onnx_file_gets_metadata_of_ours_alone(
    spec: ModelSpec, converted: bytes, table: pd.DataFrame
) -> None:
    proto = onnx.load_model_from_string(converted)
    helper.set_model_props(proto, {"greenroom.features": '["other"]', "secret": "x"})
    content = model_checks.with_metadata(
        spec, proto.SerializeToString(), table[list(spec.features)], table["kind"], ()
    )
    model = OnnxModel(content)
    assert model.description.features == spec.features
    assert model.description.classes == ("ash", "birch", "cedar")
    assert len(model.description.background) == spec.background
    assert {prop.key.split(".")[0] for prop in onnx.load_model_from_string(content).metadata_props} == {
        "greenroom"
    }


@pytest.mark.parametrize("name", ["model.pkl", "model.joblib", "model.onnx"])
def test_files_are_read(tmp_path: Path, name: str, converted: bytes) -> None:
    file = tmp_path / name
    file.write_bytes(converted if name.endswith(".onnx") else pickle.dumps(LogisticRegression(C=3)))
    brought = model_sources.load(str(file))
    assert brought.source == name
    assert (brought.onnx == converted) if brought.onnx else (brought.params["C"] == 3)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("nothing.onnx", "There is no file nothing.onnx"),
        ("https://example.org/model.pkl", "neither a file nor"),
        (LogisticRegression, "is no model"),
        (42, "is no model"),
        (None, "is no model"),
    ],
)
def test_what_is_no_model_is_refused(source: object, words: str) -> None:
    with pytest.raises(SubmissionError, match=words):
        model_sources.load(source)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("model.txt", b"", "it must end in"),
        ("model.pkl", b"not a pickle", "cannot be unpickled"),
        ("model.pkl", b"cnowhere\nNothing\n.", "cannot be unpickled: ModuleNotFoundError"),
        ("model.skops", b"not a zip", "no skops file"),
    ],
)
def test_a_file_that_holds_none_is_refused(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SubmissionError, match=words):
        model_sources.load(tmp_path / name)


# ONNX files


def test_bytes_that_are_no_onnx_are_refused(spec: ModelSpec, table: pd.DataFrame) -> None:
    with pytest.raises(SubmissionError, match="This is no ONNX file"):
        describe(spec, b"\x00\x01nothing", table)


def test_another_number_of_features_is_refused(spec: ModelSpec, table: pd.DataFrame) -> None:
    two = table[["length", "width"]]
    content = to_bytes(LogisticRegression().fit(two.to_numpy(), table["kind"]), two)
    with pytest.raises(SubmissionError, match=r"one float32 input of shape \(rows, 3\)"):
        describe(spec, content, table)


def test_probabilities_in_dictionaries_are_refused(
    spec: ModelSpec, table: pd.DataFrame, rows: pd.DataFrame
) -> None:
    fitted = LogisticRegression().fit(rows.to_numpy(), table["kind"])
    with pytest.raises(SubmissionError, match="Convert without ZipMap"):
        describe(spec, to_bytes(fitted, rows, zipmap=True), table)


def test_a_regression_is_no_classifier(spec: ModelSpec, table: pd.DataFrame, rows: pd.DataFrame) -> None:
    fitted = LinearRegression().fit(rows.to_numpy(), table["width"])
    with pytest.raises(SubmissionError, match="has outputs"):
        describe(spec, to_bytes(fitted, rows), table)


def test_classes_that_the_data_do_not_have_are_refused(
    spec: ModelSpec, table: pd.DataFrame, rows: pd.DataFrame
) -> None:
    other = LogisticRegression().fit(rows.to_numpy(), table["kind"].replace("ash", "oak"))
    with pytest.raises(SubmissionError, match="classes that the data do not have: oak"):
        describe(spec, to_bytes(other, rows), table)


def test_the_order_of_probabilities_must_be_right(
    spec: ModelSpec, converted: bytes, table: pd.DataFrame
) -> None:
    with pytest.raises(SubmissionError, match=r"Say their order with --classes"):
        describe(spec, converted, table, "cedar", "birch", "ash")
    with pytest.raises(SubmissionError, match="Not the same: oak"):
        describe(spec, converted, table, "ash", "birch", "cedar", "oak")
    assert describe(spec, converted, table, "ash", "birch", "cedar").description.classes[0] == "ash"


def test_answers_that_are_no_numbers_are_refused(table: pd.DataFrame) -> None:
    spec = declared(table.drop(columns="kind"), "depth")
    value = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1])
    axes = helper.make_node(
        "Constant", [], ["axes"], value=helper.make_tensor("a", TensorProto.INT64, [1], [1])
    )
    nodes = [
        axes,
        helper.make_node("ReduceSum", ["x", "axes"], ["sum"], keepdims=1),
        helper.make_node("Log", ["sum"], ["y"]),
    ]
    with pytest.raises(SubmissionError, match=r"\d+ of 600 rows with NaN or infinity"):
        describe(spec, graph(2, [value], nodes), table)


def test_one_row_at_a_time_is_refused(table: pd.DataFrame) -> None:
    spec = declared(table.drop(columns="kind"), "depth")
    value = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1])
    nodes = [
        helper.make_node(
            "Constant", [], ["axes"], value=helper.make_tensor("a", TensorProto.INT64, [1], [1])
        ),
        helper.make_node("ReduceSum", ["x", "axes"], ["y"], keepdims=1),
    ]
    with pytest.raises(SubmissionError, match="does not answer 600 rows at once"):
        describe(spec, graph(2, [value], nodes, rows=1), table)


def test_a_forest_that_is_sure_of_everything_has_probabilities(table: pd.DataFrame) -> None:
    """Its trees' votes are added up in float32, which may end a little beyond 0 and 1."""
    two = table[table["kind"] != "birch"].reset_index(drop=True)
    spec = declared(pd.concat([two] * 2).reset_index(drop=True))
    rows = two[list(spec.features)]
    forest = RandomForestClassifier(20, random_state=0).fit(rows.to_numpy(), two["kind"])
    content = to_bytes(forest, rows)
    _, shares = describe(spec, content, two).predict(rows.to_numpy(np.float32))
    assert shares is not None
    assert shares.min() == pytest.approx(0, abs=1e-6)


# Estimators


@pytest.mark.parametrize(
    ("estimator", "words"),
    [
        (LinearRegression(), "trees is a classification, and LinearRegression is no estimator for that"),
        (make_pipeline(StandardScaler(), LinearRegression()), "LinearRegression is no estimator"),
    ],
)
def test_another_task_is_refused(spec: ModelSpec, table: pd.DataFrame, estimator: Any, words: str) -> None:
    with pytest.raises(SubmissionError, match=words):
        model_checks.as_pipeline(spec, SubmittedModel(estimator), as_fitted=False, target=table["kind"])


@pytest.mark.parametrize("estimator", [LinearSVC(), SVC(), make_pipeline(StandardScaler(), LinearSVC())])
def test_without_probabilities_it_is_refused(spec: ModelSpec, estimator: Any) -> None:
    with pytest.raises(SubmissionError, match="gives no probabilities"):
        model_checks.require_probabilities(spec, estimator)


class Uncloneable(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    def __init__(self, level: int = 1) -> None:
        self.level = level + 1

    def predict(self, rows: Any) -> Any:
        return rows


def test_what_cannot_be_cloned_is_refused_unless_as_fitted(spec: ModelSpec, table: pd.DataFrame) -> None:
    with pytest.raises(SubmissionError, match=r"cannot be cloned.*--as-fitted"):
        model_checks.as_pipeline(spec, SubmittedModel(Uncloneable()), as_fitted=False, target=table["kind"])


def test_as_fitted_it_must_be_fitted_on_these_features_and_classes(
    spec: ModelSpec, table: pd.DataFrame, rows: pd.DataFrame
) -> None:
    def refused(estimator: Any, words: str) -> None:
        with pytest.raises(SubmissionError, match=words):
            model_checks.as_pipeline(spec, SubmittedModel(estimator), as_fitted=True, target=table["kind"])

    kinds = table["kind"]
    refused(LogisticRegression(), "is not fitted")
    refused(
        LogisticRegression().fit(rows[["width", "length", "depth"]], kinds), "was fitted on width, length"
    )
    refused(LogisticRegression().fit(rows.to_numpy()[:, :2], kinds), "was fitted on 2 features")
    refused(LogisticRegression().fit(rows, kinds.replace("ash", "oak")), "Not the same: ash, oak")


def test_what_onnx_cannot_hold_is_refused(spec: ModelSpec, table: pd.DataFrame, rows: pd.DataFrame) -> None:
    class Mine(LogisticRegression):  # type: ignore[misc]
        pass

    pipeline = model_checks.as_pipeline(spec, SubmittedModel(Mine()), as_fitted=False, target=table["kind"])
    pipeline.fit(rows, table["kind"])
    with pytest.raises(ExportError, match="Mine cannot be converted to ONNX"):
        onnx_export.export(spec, pipeline, rows)


@pytest.mark.parametrize(
    "estimator",
    [
        make_pipeline(
            ColumnTransformer(
                [("one", StandardScaler(), ["depth"]), ("two", "passthrough", ["length"])], remainder="drop"
            ),
            LogisticRegression(),
        ),
        make_pipeline(
            ColumnTransformer([("one", StandardScaler(), ["width"])], remainder="passthrough"),
            LogisticRegression(),
        ),
        GridSearchCV(LogisticRegression(), {"C": [0.1, 1.0]}, cv=2),
        LogisticRegression(),
        make_pipeline(StandardScaler(), CalibratedClassifierCV(LogisticRegression(), cv=2)),
    ],
    ids=["columns", "remainder", "search", "bare", "calibrated"],
)
def test_what_people_bring_becomes_an_onnx_model_that_agrees(
    spec: ModelSpec, table: pd.DataFrame, rows: pd.DataFrame, estimator: Any
) -> None:
    pipeline = model_checks.as_pipeline(
        spec, SubmittedModel(estimator), as_fitted=False, target=table["kind"]
    )
    pipeline.fit(rows, table["kind"])
    expected = pipeline.predict_proba(rows)
    model_checks.use_column_positions(pipeline, spec.features)
    np.testing.assert_allclose(pipeline.predict_proba(rows), expected)
    model = OnnxModel(onnx_export.export(spec, pipeline, rows))
    agreement = onnx_export.agreement(pipeline, model, rows)
    assert agreement.labels == 1.0
    assert agreement.max_difference < 1e-5
    assert "sklearn." in SubmittedModel(estimator).kind
    assert "._" not in SubmittedModel(estimator).kind


# Held-out rows that were seen


def sides(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    return table.iloc[:300].reset_index(drop=True), table.iloc[300:].reset_index(drop=True)


def exported(spec: ModelSpec, table: pd.DataFrame, seed: int, leaf: int = 1) -> OnnxModel:
    forest = RandomForestClassifier(20, min_samples_leaf=leaf, random_state=seed)
    pipeline = make_pipeline(forest).fit(table[list(spec.features)], table["kind"])
    return OnnxModel(onnx_export.export(spec, pipeline))


def test_a_model_that_has_seen_the_held_out_rows_is_refused(spec: ModelSpec, table: pd.DataFrame) -> None:
    train, test = sides(table)
    fresh, knows_all = exported(spec, train, 1), exported(spec, table, 2)
    with pytest.raises(LeakageError, match="it has seen held-out rows, or rows that are not in the data"):
        require_no_leakage(spec, knows_all, fresh, train, test)


def test_a_model_that_learned_from_the_training_rows_alone_is_not(
    spec: ModelSpec, table: pd.DataFrame
) -> None:
    train, test = sides(table)
    assert (
        abs(require_no_leakage(spec, exported(spec, train, 2), exported(spec, train, 1), train, test)) < 0.05
    )


def test_a_worse_model_is_the_gates_to_refuse(spec: ModelSpec, table: pd.DataFrame) -> None:
    train, test = sides(table)
    shuffled = train.assign(kind=train["kind"].sample(frac=1, random_state=3).to_numpy())
    assert (
        require_no_leakage(spec, exported(spec, shuffled, 1, 10), exported(spec, train, 1), train, test)
        < -0.1
    )


def test_a_submission_says_where_it_learned(spec: ModelSpec) -> None:
    assert flow.Submission(spec, SubmittedModel(LogisticRegression())).tags["greenroom.fitted"] == "here"
    submission = flow.Submission(spec, SubmittedModel(onnx=b"", source="model.onnx"), as_fitted=True)
    assert submission.tags["greenroom.fitted"] == "elsewhere"
    assert submission.tags["greenroom.submitted_from"] == "model.onnx"
