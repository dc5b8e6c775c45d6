"""How popular a track is."""

from catalog.policies import WEAK_SIGNAL_REGRESSION
from catalog.spec import Candidate, ModelSpec
from catalog.tracks import FEATURES, TRACKS

MODEL = ModelSpec(
    name="popularity",
    description="Popularity of a track on Spotify from its audio: a weak signal, and honest about it.",
    task="regression",
    dataset=TRACKS,
    target="popularity",
    unit="0..100",
    features=FEATURES,
    one_hot=("key", "time_signature"),
    skewed=("speechiness", "acousticness", "instrumentalness", "liveness", "duration_ms"),
    candidates=(
        Candidate(name="ridge", estimator="sklearn.linear_model.Ridge"),
        Candidate(
            name="random-forest",
            estimator="sklearn.ensemble.RandomForestRegressor",
            params={"n_estimators": 200, "min_samples_leaf": 50, "max_features": 0.2, "n_jobs": -1},
        ),
        Candidate(
            name="gradient-boosting",
            estimator="sklearn.ensemble.GradientBoostingRegressor",
            params={"n_estimators": 200, "max_depth": 3, "subsample": 0.5, "learning_rate": 0.05},
        ),
    ),
    metric="r2",
    gate=WEAK_SIGNAL_REGRESSION,
)
