"""Declarations of models without a target: what they need, and what they must not have."""

from typing import Any

import pytest
from pydantic import ValidationError

from catalog.loader import get_model
from catalog.policies import CLUSTERING, SIMILARITY
from catalog.spec import ModelSpec


def declared(name: str, **changes: Any) -> ModelSpec:
    """Return a model of the catalogue, declared anew with some changes."""
    spec = get_model(name)
    return ModelSpec(**{**{field: getattr(spec, field) for field in ModelSpec.model_fields}, **changes})


@pytest.mark.parametrize(
    ("name", "changes", "says"),
    [
        ("clusters", {"target": "track_genre"}, "a clustering has no target, and 'track_genre' is declared"),
        ("clusters", {"metric": "accuracy"}, "the metric of a clustering is 'silhouette', not 'accuracy'"),
        ("clusters", {"related_by": "track_genre"}, "`related_by` and `shown` are a similarity's alone"),
        ("similar", {"target": "popularity"}, "a similarity has no target"),
        ("similar", {"metric": "silhouette"}, "the metric of a similarity is 'agreement_at_10'"),
        ("similar", {"related_by": None}, "a similarity needs `related_by`, and an `id`"),
        ("similar", {"related_by": "gnere"}, "related_by 'gnere' is not a column"),
        ("similar", {"shown": ("title",)}, "shown 'title' is not a column"),
        ("similar", {"shown": ("distance",)}, "have for themselves: ['distance']"),
        ("genre", {"target": None}, "a classification needs a target"),
        ("energy", {"shown": ("artists",)}, "`related_by` and `shown` are a similarity's alone"),
    ],
)
def test_what_does_not_fit_the_task_is_refused(name: str, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError) as refused:
        declared(name, **changes)
    assert says in str(refused.value)


def test_a_similarity_needs_ids() -> None:
    dataset = get_model("similar").dataset
    with pytest.raises(ValidationError, match="an `id` of its dataset"):
        declared("similar", dataset=dataset.model_copy(update={"id": None}))
    with pytest.raises(ValidationError, match="id 'isrc' is not a column"):
        declared("similar", dataset=dataset.model_copy(update={"id": "isrc"}))


def test_columns_of_a_row() -> None:
    genre, clusters, similar = map(get_model, ("genre", "clusters", "similar"))
    assert genre.columns == (*genre.features, "track_genre")
    assert clusters.columns == clusters.features
    assert similar.columns == (*similar.features, "track_genre", "track_id", "track_name", "artists")
    assert [m.supervised for m in (genre, clusters, similar)] == [True, False, False]


def test_policies_look_at_rows_drift_and_the_model() -> None:
    for policy, own in ((CLUSTERING, "ClusterStability"), (SIMILARITY, "NeighbourRecall")):
        names = {check.check for check in policy.checks}
        assert {"DataDuplicates", "FeatureDrift", "TrainTestSamplesMix", own} <= names
        assert all(check.required and check.why for check in policy.checks)
