"""Clusterings and similarities on some of the real tracks: fitted, named, exported, as they are served."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.cluster import KMeans
from sklearn.pipeline import Pipeline

from catalog.loader import get_model
from catalog.spec import MAX_NEIGHBOURS, Candidate, ModelSpec
from flows import clusters, data, models, neighbours
from flows.errors import ExportError, TrainingError
from registry.errors import ModelFormatError
from registry.model_format.onnx_model import OnnxModel

CLUSTERS, SIMILAR = get_model("clusters"), get_model("similar")


def sample(spec: ModelSpec, count: int = 700) -> pd.DataFrame:
    """Some rows, with the columns of the declaration."""
    table = data.read_table(spec.dataset)
    rows = data.clean(table, spec, read=len(table))[0].sample(count, random_state=1)
    others = rows[[name for name in spec.columns if name not in spec.features]].astype(str)
    return data.features(rows, spec).join(others).reset_index(drop=True)


@pytest.fixture(scope="module")
def tracks() -> pd.DataFrame:
    return sample(SIMILAR)


@pytest.fixture(scope="module")
def sounds() -> pd.DataFrame:
    return sample(CLUSTERS)


def folds() -> list[Any]:
    return [(np.arange(350), np.arange(350, 700)), (np.arange(350, 700), np.arange(350))]


def search(tracks: pd.DataFrame, metric: str) -> Pipeline:
    candidate = next(c for c in SIMILAR.candidates if c.name == metric)
    pipeline = models.build(SIMILAR, candidate)
    return neighbours.fit(pipeline, tracks[list(SIMILAR.features)], tracks["track_genre"])


@pytest.mark.parametrize("candidate", CLUSTERS.candidates, ids=lambda c: c.name)
def test_every_declared_clustering_is_served_as_it_was_fitted(
    sounds: pd.DataFrame, candidate: Candidate
) -> None:
    fitted = models.fit(CLUSTERS, candidate, sounds, None, folds())
    model = OnnxModel(models.export(CLUSTERS, fitted.pipeline, sounds))
    assert models.agreement(fitted.pipeline, model, sounds).labels == 1.0
    said = model.description
    assert said.task == "clustering"
    assert len(said.classes) == len(set(said.classes)) == clusters.count(fitted.pipeline)
    assert said.background == ()
    assert -1 < fitted.cv_mean < 1
    assert models.score(CLUSTERS, fitted.pipeline, sounds, None)["silhouette"] < 1


def test_clusters_are_named_by_what_marks_them() -> None:
    random = np.random.default_rng(0)
    rows = pd.DataFrame(random.uniform(0.4, 0.6, (300, 7)), columns=list(CLUSTERS.features))
    numbers = np.repeat([0, 1, 2], 100)
    rows.loc[:99, ["acousticness", "loudness"]] = [0.99, -30.0]
    rows.loc[100:199, "loudness"] = 0.0
    rows.loc[200:, "loudness"] = -10.0
    rows.loc[200:, "valence"] = 0.9
    apart = clusters.profile(CLUSTERS, rows, numbers, 3)
    named = clusters.names(CLUSTERS, apart)
    assert set(named[0].split(", ")) == {"acoustic", "quiet"}
    assert named[1].startswith("loud")
    assert "cheerful" in named[2]


def test_clusters_that_two_features_do_not_tell_apart_have_other_names() -> None:
    marks = [[2.0, 1.5, third, 0.1] for third in (0.9, -0.9, 0.9)]
    same = pd.DataFrame(marks, columns=list("abcd"))
    spec = CLUSTERS.model_copy(update={"features": tuple("abcd")})
    named = clusters.names(spec, same)
    assert named[:2] == ("high a, high b", "high a, high b, low c")
    assert len(set(named)) == 3


def test_a_clustering_that_cannot_place_a_new_row_is_refused() -> None:
    candidate = Candidate(name="linked", estimator="sklearn.cluster.AgglomerativeClustering")
    with pytest.raises(TrainingError, match="cannot say to which cluster a new row belongs"):
        models.build(CLUSTERS, candidate)


@pytest.mark.parametrize(
    ("estimator", "params"),
    [
        ("sklearn.neighbors.KNeighborsClassifier", {}),
        ("sklearn.neighbors.NearestNeighbors", {"metric": "manhattan"}),
    ],
)
def test_a_search_that_cannot_be_served_is_refused(estimator: str, params: dict[str, Any]) -> None:
    candidate = Candidate(name="other", estimator=estimator, params=params)
    with pytest.raises(TrainingError, match="with the metric euclidean or cosine"):
        models.build(SIMILAR, candidate)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_the_graph_finds_what_scikit_learn_finds(tracks: pd.DataFrame, metric: str) -> None:
    features = tracks[list(SIMILAR.features)]
    whole = neighbours.complete(search(tracks[:500], metric), features)
    model = OnnxModel(models.export(SIMILAR, whole, things=tracks))
    places, distances = model.predict(features.to_numpy(np.float32))
    assert places.shape == distances.shape == (700, MAX_NEIGHBOURS + 1)
    np.testing.assert_array_equal(places[:, 0], np.arange(700))
    expected, order = whole[-1].kneighbors(whole[:-1].transform(features), n_neighbors=20)
    np.testing.assert_allclose(distances[:, :20], expected, atol=2e-3 if metric == "euclidean" else 1e-4)
    assert (distances[:, 0] < 1e-3).all()
    assert (np.diff(distances, axis=1) >= 0).all()
    assert np.mean(places[:, 1:10] == order[:, 1:10]) > 0.99
    assert models.agreement(whole, model, features).labels > 0.99


def test_what_is_found_travels_in_the_file(tracks: pd.DataFrame) -> None:
    model = OnnxModel(models.export(SIMILAR, search(tracks, "cosine"), things=tracks))
    items = model.description.items
    assert items is not None
    assert (items.metric, items.id_name) == ("cosine", "track_id")
    assert items.ids == tuple(tracks["track_id"])
    assert items.shown["artists"] == tuple(tracks["artists"])
    np.testing.assert_array_equal(items.rows, tracks[list(SIMILAR.features)].to_numpy(np.float32))
    assert items.places[tracks["track_id"][17]] == 17


def test_a_small_index_finds_as_many_as_it_holds(tracks: pd.DataFrame) -> None:
    few = tracks[:30]
    model = OnnxModel(models.export(SIMILAR, search(few, "euclidean"), things=few))
    assert model.predict(few[list(SIMILAR.features)].to_numpy(np.float32))[0].shape == (30, 30)


def test_a_list_of_questions_is_answered_in_parts(
    tracks: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the distances to a large index do not fill the memory."""
    model = OnnxModel(models.export(SIMILAR, search(tracks, "euclidean"), things=tracks))
    rows = tracks[list(SIMILAR.features)].to_numpy(np.float32)
    whole = model.predict(rows)
    monkeypatch.setattr("registry.model_format.onnx_model._DISTANCES", 700 * 64)
    for one, other in zip(whole, model.predict(rows), strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_index_that_finds_others_than_the_search_is_no_export_of_it(tracks: pd.DataFrame) -> None:
    features = tracks[list(SIMILAR.features)]
    model = OnnxModel(models.export(SIMILAR, search(tracks[::-1], "euclidean"), things=tracks))
    turned = search(tracks[::-1].reset_index(drop=True), "euclidean")
    with pytest.raises(ExportError, match="disagrees"):
        models.agreement(turned, model, features)


def test_two_things_of_one_id_cannot_be_found(tracks: pd.DataFrame) -> None:
    twice = pd.concat([tracks, tracks[:1]], ignore_index=True)
    with pytest.raises(ValueError, match="two things have the same id"):
        models.export(SIMILAR, search(twice, "euclidean"), things=twice)


def test_a_file_without_its_things_or_names_is_none(tracks: pd.DataFrame, sounds: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match="has things that it finds"):
        models.export(SIMILAR, search(tracks, "euclidean"))
    pipeline = models.build(CLUSTERS, CLUSTERS.candidates[0]).fit(sounds)
    with pytest.raises(ModelFormatError, match="clustering model has outputs"):
        OnnxModel(models.export(CLUSTERS, pipeline))


def test_scores_of_a_search_leave_the_row_itself_out(tracks: pd.DataFrame) -> None:
    pipeline, features = search(tracks, "euclidean"), tracks[list(SIMILAR.features)]
    found = neighbours.score(pipeline, features, tracks["track_genre"])
    assert 1 / 6 < found["agreement_at_10"] < 1
    assert found["nearest_distance"] > 0
    # Of everything related to itself alone, nothing is near.
    alone = neighbours.fit(pipeline, features, tracks["track_id"])
    assert neighbours.score(alone, features, tracks["track_id"])["agreement_at_10"] == 0


@pytest.mark.parametrize("name", ["clusters", "similar"])
def test_no_row_is_lost_in_the_split(name: str) -> None:
    spec = get_model(name)
    table = data.read_table(spec.dataset)
    rows, _ = data.clean(table, spec, read=len(table))
    train, test = data.split(rows, spec)
    assert sorted([*train, *test]) == list(range(len(rows)))
    main = rows["artists"].str.split(";").str[0]
    assert set(main.iloc[train]).isdisjoint(main.iloc[test])
    assert len(test) / len(rows) == pytest.approx(0.2, abs=0.01)


def test_clusters_of_everything_in_one_have_the_lowest_score(sounds: pd.DataFrame) -> None:
    pipeline = models.build(CLUSTERS, CLUSTERS.candidates[0])
    pipeline.steps[-1] = ("model", KMeans(1))
    assert clusters.score(pipeline.fit(sounds), sounds) == {"silhouette": -1.0, "clusters": 1.0}
