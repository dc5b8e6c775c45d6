"""How energetic a track sounds."""

from catalog.policies import REGRESSION
from catalog.spec import Candidate, FloatRange, IntRange, ModelSpec
from catalog.spotify_tracks import FEATURES, TRACKS

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
        Candidate(
            name="ridge",
            estimator="sklearn.linear_model.Ridge",
            params={"alpha": 1.0},
            search={"alpha": FloatRange(low=0.1, high=1000, log=True)},
        ),
        Candidate(
            name="random-forest",
            estimator="sklearn.ensemble.RandomForestRegressor",
            params={"n_estimators": 200, "min_samples_leaf": 10, "max_features": 0.5, "n_jobs": -1},
            search={
                "min_samples_leaf": IntRange(low=5, high=30, log=True),
                "max_features": FloatRange(low=0.2, high=0.8),
            },
        ),
        Candidate(
            name="gradient-boosting",
            estimator="sklearn.ensemble.GradientBoostingRegressor",
            params={
                "n_estimators": 300,
                "max_depth": 4,
                "learning_rate": 0.04,
                "subsample": 0.5,
                "max_features": 0.5,
                "min_samples_leaf": 5,
            },
            search={
                "n_estimators": IntRange(low=150, high=400),
                "max_depth": IntRange(low=3, high=4),
                "learning_rate": FloatRange(low=0.02, high=0.08, log=True),
                "max_features": FloatRange(low=0.2, high=0.8),
                "min_samples_leaf": IntRange(low=3, high=30, log=True),
            },
        ),
    ),
    metric="r2",
    gate=REGRESSION,
)
