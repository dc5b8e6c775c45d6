"""Similarities on some of the real tracks: fitted, exported, as they are served."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.pipeline import Pipeline

from catalog.loader import get_model
from catalog.spec import MAX_NEIGHBOURS, Candidate
from checks.data import cleaning, sources, splits
from checks.data.splits import Rows
from flows.errors import ExportError, TrainingError
from flows.modeling import candidates, onnx_export
from flows.tasks import similarity
from flows.tasks.registry import task_of
from registry.errors import ModelFormatError
from registry.model_format.onnx_model import OnnxModel
from tests.flows.support.samples import CLUSTERS, SIMILAR


def search(tracks: pd.DataFrame, metric: str) -> Pipeline:
    candidate = next(c for c in SIMILAR.candidates if c.name == metric)
    pipeline = candidates.build(SIMILAR, candidate)
    return task_of(SIMILAR).fit(pipeline, tracks[list(SIMILAR.features)], tracks["track_genre"])


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
        candidates.build(SIMILAR, candidate)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_the_graph_finds_what_scikit_learn_finds(tracks: pd.DataFrame, metric: str) -> None:
    features = tracks[list(SIMILAR.features)]
    whole = similarity.with_index(search(tracks[:500], metric), features)
    model = OnnxModel(onnx_export.export(SIMILAR, whole, things=tracks))
    places, distances = model.predict(features.to_numpy(np.float32))
    assert places.shape == distances.shape == (700, MAX_NEIGHBOURS + 1)
    np.testing.assert_array_equal(places[:, 0], np.arange(700))
    expected, order = whole[-1].kneighbors(whole[:-1].transform(features), n_neighbors=20)
    np.testing.assert_allclose(distances[:, :20], expected, atol=2e-3 if metric == "euclidean" else 1e-4)
    assert (distances[:, 0] < 1e-3).all()
    assert (np.diff(distances, axis=1) >= 0).all()
    assert np.mean(places[:, 1:10] == order[:, 1:10]) > 0.99
    assert onnx_export.agreement(whole, model, features).labels > 0.99


def test_what_is_found_travels_in_the_file(tracks: pd.DataFrame) -> None:
    model = OnnxModel(onnx_export.export(SIMILAR, search(tracks, "cosine"), things=tracks))
    items = model.description.items
    assert items is not None
    assert (items.metric, items.id_name) == ("cosine", "track_id")
    assert items.ids == tuple(tracks["track_id"])
    assert items.shown["artists"] == tuple(tracks["artists"])
    np.testing.assert_array_equal(items.rows, tracks[list(SIMILAR.features)].to_numpy(np.float32))
    assert items.places[tracks["track_id"][17]] == 17


def test_a_small_index_finds_as_many_as_it_holds(tracks: pd.DataFrame) -> None:
    few = tracks[:30]
    model = OnnxModel(onnx_export.export(SIMILAR, search(few, "euclidean"), things=few))
    assert model.predict(few[list(SIMILAR.features)].to_numpy(np.float32))[0].shape == (30, 30)


def test_a_list_of_questions_is_answered_in_parts(
    tracks: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the distances to a large index do not fill the memory."""
    model = OnnxModel(onnx_export.export(SIMILAR, search(tracks, "euclidean"), things=tracks))
    rows = tracks[list(SIMILAR.features)].to_numpy(np.float32)
    whole = model.predict(rows)
    monkeypatch.setattr("registry.model_format.onnx_model._DISTANCES", 700 * 64)
    for expected, in_parts in zip(whole, model.predict(rows), strict=True):
        np.testing.assert_array_equal(expected, in_parts)


def test_an_index_that_finds_others_than_the_search_is_no_export_of_it(tracks: pd.DataFrame) -> None:
    features = tracks[list(SIMILAR.features)]
    model = OnnxModel(onnx_export.export(SIMILAR, search(tracks[::-1], "euclidean"), things=tracks))
    turned = search(tracks[::-1].reset_index(drop=True), "euclidean")
    with pytest.raises(ExportError, match="disagrees"):
        onnx_export.agreement(turned, model, features)


def test_two_things_of_one_id_cannot_be_found(tracks: pd.DataFrame) -> None:
    twice = pd.concat([tracks, tracks[:1]], ignore_index=True)
    with pytest.raises(ValueError, match="two things have the same id"):
        onnx_export.export(SIMILAR, search(twice, "euclidean"), things=twice)


def test_a_file_without_its_things_or_names_is_none(tracks: pd.DataFrame, sounds: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match="has things that it finds"):
        onnx_export.export(SIMILAR, search(tracks, "euclidean"))
    pipeline = candidates.build(CLUSTERS, CLUSTERS.candidates[0]).fit(sounds)
    with pytest.raises(ModelFormatError, match="clustering model has outputs"):
        OnnxModel(onnx_export.export(CLUSTERS, pipeline))


def test_scores_of_a_search_leave_the_row_itself_out(tracks: pd.DataFrame) -> None:
    pipeline, features = search(tracks, "euclidean"), tracks[list(SIMILAR.features)]
    metrics = task_of(SIMILAR).metrics(pipeline, Rows(features, tracks, "track_genre"))
    assert 1 / 6 < metrics["agreement_at_10"] < 1
    assert metrics["nearest_distance"] > 0
    # Of everything related to itself alone, nothing is near.
    alone = task_of(SIMILAR).fit(pipeline, features, tracks["track_id"])
    assert task_of(SIMILAR).metrics(alone, Rows(features, tracks, "track_id"))["agreement_at_10"] == 0


@pytest.mark.parametrize("name", ["clusters", "similar"])
def test_no_row_is_lost_in_the_split(name: str) -> None:
    spec = get_model(name)
    table = sources.read_table(spec.dataset)
    rows, _ = cleaning.clean(table, spec, read=len(table))
    train, test = splits.split(rows, spec)
    assert sorted([*train, *test]) == list(range(len(rows)))
    main = rows["artists"].str.split(";").str[0]
    assert set(main.iloc[train]).isdisjoint(main.iloc[test])
    assert len(test) / len(rows) == pytest.approx(0.2, abs=0.01)
