"""Candidates on a sample of the real tracks: built, fitted, exported, and held against what is served."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.dummy import DummyRegressor
from sklearn.pipeline import Pipeline

from catalog.loader import get_model
from catalog.spec import Candidate, ModelSpec
from flows import data, models
from flows.errors import ExportError, TrainingError
from registry.model_format.onnx_model import OnnxModel

pytestmark = pytest.mark.slow

SMALL = {"n_estimators": 10}
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


class Sample:
    """Some of a model's rows, in two halves."""

    def __init__(self, spec: ModelSpec) -> None:
        table = data.read_table(spec.dataset)
        rows = data.clean(table, spec, read=len(table))[0].sample(800, random_state=1)
        self.spec = spec
        self.rows = data.features(rows, spec).reset_index(drop=True)
        self.target = rows[spec.target].reset_index(drop=True)
        self.folds = [(np.arange(400), np.arange(400, 600)), (np.arange(200, 600), np.arange(200))]

    @property
    def held_out(self) -> pd.DataFrame:
        return self.rows.iloc[600:]

    def pipeline(self, estimator: str, **params: Any) -> Pipeline:
        candidate = Candidate(name="one", estimator=estimator, params=params)
        return models.build(self.spec, candidate).fit(self.rows[:600], self.target[:600])


@pytest.fixture(scope="module")
def samples() -> dict[str, Sample]:
    return {name: Sample(get_model(name)) for name in ("genre", "energy")}


@pytest.fixture(scope="module")
def genre(samples: dict[str, Sample]) -> Sample:
    return samples["genre"]


@pytest.fixture(scope="module")
def energy(samples: dict[str, Sample]) -> Sample:
    return samples["energy"]


def test_every_kind_of_the_catalogue_is_tried_here() -> None:
    declared = {c.estimator for name in ("genre", "energy", "popularity") for c in get_model(name).candidates}
    assert declared == {estimator for _, estimator, _ in KINDS}


@KIND
def test_candidate_is_served_as_it_was_fitted(
    samples: dict[str, Sample], name: str, estimator: str, params: dict[str, Any]
) -> None:
    sample = samples[name]
    candidate = Candidate(name="one", estimator=estimator, params=params)
    fitted = models.fit(sample.spec, candidate, sample.rows[:600], sample.target[:600], sample.folds)
    model = OnnxModel(models.export(sample.spec, fitted.pipeline))
    assert model.description.features == sample.spec.features
    found = models.agreement(fitted.pipeline, model, sample.held_out)
    if name == "genre":
        assert set(model.description.classes) == set(sample.target)
        assert found.labels is not None
        assert found.labels >= models.MIN_LABEL_AGREEMENT
        assert fitted.cv_mean > 1 / 6
    else:
        assert found.labels is None
        assert fitted.cv_mean > 0
    assert fitted.cv_std > 0


@KIND
def test_code_unseen_in_training_is_served_like_the_pipeline_does(
    samples: dict[str, Sample], name: str, estimator: str, params: dict[str, Any]
) -> None:
    sample = samples[name]
    pipeline = sample.pipeline(estimator, **params)
    unseen = sample.held_out.assign(time_signature=7.0)
    assert 7.0 not in set(sample.rows["time_signature"])
    models.agreement(pipeline, OnnxModel(models.export(sample.spec, pipeline)), unseen)
    assert np.isfinite(pipeline.predict_proba(unseen) if name == "genre" else pipeline.predict(unseen)).all()


def test_some_training_rows_travel_in_the_file_as_what_to_explain_against(energy: Sample) -> None:
    pipeline, train = energy.pipeline("sklearn.linear_model.Ridge"), energy.rows[:600]
    first, again = (models.export(energy.spec, pipeline, train) for _ in range(2))
    assert first == again
    rows = OnnxModel(first).description.background_rows()
    assert rows.shape == (energy.spec.background, len(energy.spec.features))
    known = {row.tobytes() for row in train.to_numpy(dtype=np.float32)}
    assert {row.tobytes() for row in rows} <= known
    # Rows of other columns, in another order, are sorted out.
    other = models.background(energy.spec, train[train.columns[::-1]])
    np.testing.assert_array_equal(np.array(other, dtype=np.float32), rows)


def test_rows_that_must_not_leave_training_do_not(energy: Sample) -> None:
    pipeline, private = energy.pipeline("sklearn.linear_model.Ridge"), {"background": 0}
    content = models.export(energy.spec.model_copy(update=private), pipeline, energy.rows[:600])
    assert OnnxModel(content).description.background == ()
    assert content == models.export(energy.spec, pipeline)


def test_same_seed_fits_the_same_model(genre: Sample) -> None:
    estimator = "sklearn.ensemble.RandomForestClassifier"
    one, other = (genre.pipeline(estimator, **SMALL).predict_proba(genre.held_out) for _ in range(2))
    np.testing.assert_array_equal(one, other)


def test_codes_are_one_hot_and_every_feature_reaches_the_model(genre: Sample) -> None:
    columns = genre.pipeline("sklearn.linear_model.LogisticRegression").named_steps["features"]
    groups = {name: [genre.spec.features[i] for i in at] for name, _, at in columns.transformers_}
    assert tuple(groups["one_hot"]) == genre.spec.one_hot
    assert tuple(groups["skewed"]) == genre.spec.skewed
    assert sorted(name for names in groups.values() for name in names) == sorted(genre.spec.features)


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
        models.export(genre.spec, pipeline)


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
        models.build(genre.spec, candidate)
    assert "genre: " in str(refused.value)
    assert "candidate mine" in str(refused.value)
    assert estimator in str(refused.value)


def test_classifier_that_disagrees_is_refused(genre: Sample) -> None:
    fitted = genre.pipeline("sklearn.linear_model.LogisticRegression")
    other = genre.pipeline("sklearn.ensemble.RandomForestClassifier", **SMALL)
    with pytest.raises(ExportError, match="disagrees"):
        models.agreement(fitted, OnnxModel(models.export(genre.spec, other)), genre.held_out)


def test_regression_that_disagrees_is_refused(energy: Sample) -> None:
    fitted = energy.pipeline("sklearn.linear_model.Ridge")
    other = energy.pipeline("sklearn.linear_model.Ridge", alpha=100.0)
    with pytest.raises(ExportError, match="disagrees"):
        models.agreement(fitted, OnnxModel(models.export(energy.spec, other)), energy.held_out)


def fitted(name: str, mean: float, std: float = 0.01) -> models.Fitted:
    pipeline = Pipeline([("model", DummyRegressor())])
    return models.Fitted(Candidate(name=name, estimator="sklearn.dummy.DummyRegressor"), pipeline, mean, std)


def test_best_is_chosen_by_its_score_on_training_folds() -> None:
    found = models.best([fitted("low", 0.2), fitted("high", 0.6, std=0.3), fitted("middle", 0.5)])
    assert found.candidate.name == "high"
    assert models.best([fitted("worse", -0.6), fitted("better", -0.2)]).candidate.name == "better"


def test_scores_of_a_classification(genre: Sample) -> None:
    pipeline = genre.pipeline("sklearn.linear_model.LogisticRegression")
    found = models.score(genre.spec, pipeline, genre.held_out, genre.target[600:])
    assert list(found) == ["balanced_accuracy", "accuracy", "f1_macro", "log_loss"]
    right = (pipeline.predict(genre.held_out) == genre.target[600:]).mean()
    assert found["accuracy"] == pytest.approx(right)
    assert found["log_loss"] > 0


def test_losses_are_positive_and_the_declared_metric_is_among_the_scores(energy: Sample) -> None:
    spec = energy.spec.model_copy(update={"metric": "neg_median_absolute_error"})
    pipeline = energy.pipeline("sklearn.linear_model.Ridge")
    found = models.score(spec, pipeline, energy.held_out, energy.target[600:])
    assert list(found) == ["median_absolute_error", "r2", "mean_absolute_error", "root_mean_squared_error"]
    off = np.abs(pipeline.predict(energy.held_out) - energy.target[600:])
    assert found["mean_absolute_error"] == pytest.approx(off.mean())
    assert found["median_absolute_error"] == pytest.approx(off.median())
