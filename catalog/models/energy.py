"""How energetic a track sounds."""

from catalog.policies import REGRESSION
from catalog.spec import Candidate, ModelSpec
from catalog.tracks import FEATURES, TRACKS

MODEL = ModelSpec(
    name="energy",
    description="Perceived energy of a track from the rest of its audio analysis.",
    task="regression",
    dataset=TRACKS,
    target="energy",
    unit="0..1",
    features=tuple(name for name in FEATURES if name != "energy"),
    one_hot=("key", "time_signature"),
    skewed=("speechiness", "acousticness", "instrumentalness", "liveness", "duration_ms"),
    candidates=(
        Candidate(name="ridge", estimator="sklearn.linear_model.Ridge"),
        Candidate(
            name="random-forest",
            estimator="sklearn.ensemble.RandomForestRegressor",
            params={"n_estimators": 200, "min_samples_leaf": 10, "max_features": 0.5, "n_jobs": -1},
        ),
        Candidate(
            name="gradient-boosting",
            estimator="sklearn.ensemble.GradientBoostingRegressor",
            params={"n_estimators": 200, "max_depth": 3, "subsample": 0.5, "learning_rate": 0.05},
        ),
    ),
    metric="r2",
    gate=REGRESSION,
)
