"""Candidates on a sample of the real tracks are served as they were fitted."""

from typing import Any

import numpy as np
import pytest
from skl2onnx.common import _topology

from catalog.loader import get_model
from catalog.spec import Candidate
from flows.errors import ExportError, TrainingError
from flows.modeling import candidates, onnx_export
from flows.tasks.base import MIN_LABEL_AGREEMENT
from registry.model_format.onnx_model import OnnxModel
from tests.flows.support.samples import SMALL, Sample

pytestmark = pytest.mark.slow
SCORES = (candidates.FoldScore(0.5),)
KINDS = [
    ("genre", "sklearn.linear_model.LogisticRegression", {"max_iter": 500}),
    ("genre", "sklearn.ensemble.RandomForestClassifier", {**SMALL, "min_samples_leaf": 10}),
    ("genre", "sklearn.ensemble.GradientBoostingClassifier", {**SMALL, "max_depth": 2, "subsample": 0.5}),
    ("energy", "sklearn.linear_model.Ridge", {}),
    ("energy", "sklearn.ensemble.RandomForestRegressor", {**SMALL, "max_features": 0.5}),
    ("energy", "sklearn.ensemble.GradientBoostingRegressor", {**SMALL, "max_depth": 3}),
]
KIND = pytest.mark.parametrize(
    ("name", "estimator", "params"), KINDS, ids=[estimator.rpartition(".")[2] for _, estimator, _ in KINDS]
)


def test_every_kind_of_the_catalogue_is_tried_here() -> None:
    declared = {c.estimator for name in ("genre", "energy", "popularity") for c in get_model(name).candidates}
    assert declared == {estimator for _, estimator, _ in KINDS}


@KIND
def test_candidate_is_served_as_it_was_fitted(
    samples: dict[str, Sample], name: str, estimator: str, params: dict[str, Any]
) -> None:
    sample = samples[name]
    candidate = Candidate(name="one", estimator=estimator, params=params)
    fitted = candidates.fit(sample.spec, candidate, sample.train, sample.folds)
    model = OnnxModel(onnx_export.export(sample.spec, fitted.pipeline))
    assert model.description.features == sample.spec.features
    agreement = onnx_export.agreement(fitted.pipeline, model, sample.held_out)
    if name == "genre":
        assert set(model.description.classes) == set(sample.target)
        assert agreement.labels is not None
        assert agreement.labels >= MIN_LABEL_AGREEMENT
        assert fitted.cv_mean > 1 / 6
    else:
        assert agreement.labels is None
        assert fitted.cv_mean > 0
    assert fitted.cv_std > 0


@KIND
def test_the_order_in_which_the_converter_has_domains_changes_no_byte(
    samples: dict[str, Sample],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    estimator: str,
    params: dict[str, Any],
) -> None:
    """skl2onnx keeps them in a set of strings, so that their order is another in each process."""
    sample = samples[name]
    candidate = Candidate(name="same", estimator=estimator, params=params)
    pipeline = candidates.fit_whole(sample.spec, candidate, sample.train, SCORES).pipeline
    files, orders = set[bytes](), set[tuple[Any, ...]]()
    fill = _topology._update_domain_version
    for backwards in (False, True):

        def fill_in_order(container: Any, model: Any, verbose: int = 0, backwards: bool = backwards) -> Any:
            pairs = sorted(container.node_domain_version_pair_sets, reverse=backwards)
            container.node_domain_version_pair_sets = dict.fromkeys(pairs)
            filled = fill(container, model, verbose=verbose)
            orders.add(tuple(opset.domain for opset in model.opset_import))
            return filled

        monkeypatch.setattr(_topology, "_update_domain_version", fill_in_order)
        files.add(onnx_export.export(sample.spec, pipeline))
    assert len(files) == 1
    assert len(orders) == 2, "the converter keeps domains in another way: look where the order comes from"


@KIND
def test_code_unseen_in_training_is_served_like_the_pipeline_does(
    samples: dict[str, Sample], name: str, estimator: str, params: dict[str, Any]
) -> None:
    sample = samples[name]
    pipeline = sample.pipeline(estimator, **params)
    unseen = sample.held_out.assign(time_signature=7.0)
    assert 7.0 not in set(sample.rows["time_signature"])
    onnx_export.agreement(pipeline, OnnxModel(onnx_export.export(sample.spec, pipeline)), unseen)
    assert np.isfinite(pipeline.predict_proba(unseen) if name == "genre" else pipeline.predict(unseen)).all()


def test_some_training_rows_travel_in_the_file_as_what_to_explain_against(energy: Sample) -> None:
    pipeline, train = energy.pipeline("sklearn.linear_model.Ridge"), energy.rows[:600]
    first, again = (onnx_export.export(energy.spec, pipeline, train) for _ in range(2))
    assert first == again
    rows = OnnxModel(first).description.background_rows()
    assert rows.shape == (energy.spec.background, len(energy.spec.features))
    known = {row.tobytes() for row in train.to_numpy(dtype=np.float32)}
    assert {row.tobytes() for row in rows} <= known
    # Rows of other columns, in another order, are sorted out.
    other = onnx_export.background(energy.spec, train[train.columns[::-1]])
    np.testing.assert_array_equal(np.array(other, dtype=np.float32), rows)


def test_rows_that_must_not_leave_training_do_not(energy: Sample) -> None:
    pipeline, private = energy.pipeline("sklearn.linear_model.Ridge"), {"background": 0}
    content = onnx_export.export(energy.spec.model_copy(update=private), pipeline, energy.rows[:600])
    assert OnnxModel(content).description.background == ()
    assert content == onnx_export.export(energy.spec, pipeline)


@pytest.mark.parametrize(
    ("estimator", "params"),
    [
        ("sklearn.ensemble.HistGradientBoostingClassifier", {"max_iter": 2}),
        ("sklearn.semi_supervised.LabelPropagation", {}),
    ],
)
def test_estimator_that_onnx_cannot_express_is_named(genre: Sample, estimator: str, params: Any) -> None:
    pipeline = genre.pipeline(estimator, **params)
    with pytest.raises(ExportError, match=f"genre: {estimator.rpartition('.')[2]} cannot be converted"):
        onnx_export.export(genre.spec, pipeline)


@pytest.mark.parametrize(
    ("estimator", "params", "why"),
    [
        ("sklearn.nosuch.Ridge", {}, "No module named 'sklearn.nosuch'"),
        ("sklearn.linear_model.NoSuch", {}, "NoSuch"),
        ("Ridge", {}, "Empty module name"),
        ("sklearn.linear_model.LogisticRegression", {"depth": 3}, "depth"),
        ("sklearn.linear_model.RidgeClassifier", {}, "no probabilities"),
        ("sklearn.linear_model.Ridge", {}, "no probabilities"),
    ],
)
def test_wrong_declaration_is_refused(genre: Sample, estimator: str, params: Any, why: str) -> None:
    candidate = Candidate(name="mine", estimator=estimator, params=params)
    with pytest.raises(TrainingError, match=why) as refused:
        candidates.build(genre.spec, candidate)
    assert "genre: " in str(refused.value)
    assert "candidate mine" in str(refused.value)
    assert estimator in str(refused.value)


def test_classifier_that_disagrees_is_refused(genre: Sample) -> None:
    fitted = genre.pipeline("sklearn.linear_model.LogisticRegression")
    other = genre.pipeline("sklearn.ensemble.RandomForestClassifier", **SMALL)
    with pytest.raises(ExportError, match="disagrees"):
        onnx_export.agreement(fitted, OnnxModel(onnx_export.export(genre.spec, other)), genre.held_out)


def test_regression_that_disagrees_is_refused(energy: Sample) -> None:
    fitted = energy.pipeline("sklearn.linear_model.Ridge")
    other = energy.pipeline("sklearn.linear_model.Ridge", alpha=100.0)
    with pytest.raises(ExportError, match="disagrees"):
        onnx_export.agreement(fitted, OnnxModel(onnx_export.export(energy.spec, other)), energy.held_out)
