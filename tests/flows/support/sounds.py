"""Genres of the real tracks, learned from a file beside this one, which tests may spoil; one candidate."""

from pathlib import Path

from catalog.models.genre import MODEL as GENRE
from catalog.spec import Candidate, ModelSpec

MODEL = ModelSpec(
    name="sounds",
    description=GENRE.description,
    task="classification",
    dataset=GENRE.dataset.model_copy(update={"source": str(Path(__file__).with_name("tracks.parquet"))}),
    target=GENRE.target,
    features=GENRE.features,
    one_hot=GENRE.one_hot,
    skewed=GENRE.skewed,
    candidates=(
        Candidate(
            name="logistic-regression",
            estimator="sklearn.linear_model.LogisticRegression",
            params={"max_iter": 500},
        ),
    ),
    metric=GENRE.metric,
    gate=GENRE.gate,
)
