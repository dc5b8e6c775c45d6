"""Clusterings of some of the real tracks: fitted, named, exported, as they are served."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.cluster import KMeans

from catalog.spec import Candidate
from checks.data.splits import Rows
from flows.errors import TrainingError
from flows.evaluation import scores
from flows.modeling import candidates, onnx_export
from flows.tasks import clustering
from flows.tasks.registry import task_of
from registry.model_format.onnx_model import OnnxModel
from tests.flows.support.samples import CLUSTERS


def unlabelled(features: pd.DataFrame) -> Rows:
    return Rows(features, pd.DataFrame(index=features.index), None)


def folds() -> list[Any]:
    return [(np.arange(350), np.arange(350, 700)), (np.arange(350, 700), np.arange(350))]


@pytest.mark.parametrize("candidate", CLUSTERS.candidates, ids=lambda c: c.name)
def test_every_declared_clustering_is_served_as_it_was_fitted(
    sounds: pd.DataFrame, candidate: Candidate
) -> None:
    fitted = candidates.fit(CLUSTERS, candidate, unlabelled(sounds), folds())
    model = OnnxModel(onnx_export.export(CLUSTERS, fitted.pipeline, sounds))
    assert onnx_export.agreement(fitted.pipeline, model, sounds).labels == 1.0
    classes, description = model.description.classes, model.description
    assert description.task == "clustering"
    assert len(classes) == len(set(classes)) == clustering.cluster_count(fitted.pipeline)
    assert description.background == ()
    assert -1 < fitted.cv_mean < 1
    assert scores.score(CLUSTERS, fitted.pipeline, unlabelled(sounds))["silhouette"] < 1


def test_clusters_are_named_by_what_marks_them() -> None:
    random = np.random.default_rng(0)
    rows = pd.DataFrame(random.uniform(0.4, 0.6, (300, 7)), columns=list(CLUSTERS.features))
    numbers = np.repeat([0, 1, 2], 100)
    rows.loc[:99, ["acousticness", "loudness"]] = [0.99, -30.0]
    rows.loc[100:199, "loudness"] = 0.0
    rows.loc[200:, "loudness"] = -10.0
    rows.loc[200:, "valence"] = 0.9
    apart = clustering.profile(CLUSTERS, rows, numbers, 3)
    named = clustering.cluster_names(CLUSTERS, apart)
    assert set(named[0].split(", ")) == {"acoustic", "quiet"}
    assert named[1].startswith("loud")
    assert "cheerful" in named[2]


def test_clusters_that_two_features_do_not_tell_apart_have_other_names() -> None:
    marks = [[2.0, 1.5, third, 0.1] for third in (0.9, -0.9, 0.9)]
    same = pd.DataFrame(marks, columns=list("abcd"))
    spec = CLUSTERS.model_copy(update={"features": tuple("abcd")})
    named = clustering.cluster_names(spec, same)
    assert named[:2] == ("high a, high b", "high a, high b, low c")
    assert len(set(named)) == 3


def test_a_clustering_that_cannot_place_a_new_row_is_refused() -> None:
    candidate = Candidate(name="linked", estimator="sklearn.cluster.AgglomerativeClustering")
    with pytest.raises(TrainingError, match="cannot say to which cluster a new row belongs"):
        candidates.build(CLUSTERS, candidate)


def test_clusters_of_everything_in_one_have_the_lowest_score(sounds: pd.DataFrame) -> None:
    pipeline = candidates.build(CLUSTERS, CLUSTERS.candidates[0])
    pipeline.steps[-1] = ("model", KMeans(1))
    assert task_of(CLUSTERS).metrics(pipeline.fit(sounds), unlabelled(sounds)) == {
        "silhouette": -1.0,
        "clusters": 1.0,
    }
