"""How popular a track is."""

from catalog.policies import WEAK_SIGNAL_REGRESSION
from catalog.spec import Candidate, FloatRange, IntRange, ModelSpec
from catalog.spotify_tracks import FEATURES, TRACKS

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
        Candidate(
            name="ridge",
            estimator="sklearn.linear_model.Ridge",
            params={"alpha": 1.0},
            search={"alpha": FloatRange(low=0.1, high=1000, log=True)},
        ),
        Candidate(
            name="random-forest",
            estimator="sklearn.ensemble.RandomForestRegressor",
            params={"n_estimators": 200, "min_samples_leaf": 20, "max_features": 0.2, "n_jobs": -1},
            search={
                "min_samples_leaf": IntRange(low=15, high=80, log=True),
                "max_features": FloatRange(low=0.1, high=0.5),
            },
        ),
        Candidate(
            name="gradient-boosting",
            estimator="sklearn.ensemble.GradientBoostingRegressor",
            params={
                "n_estimators": 150,
                "max_depth": 5,
                "learning_rate": 0.02,
                "subsample": 0.5,
                "max_features": 0.15,
                "min_samples_leaf": 30,
            },
            search={
                "n_estimators": IntRange(low=80, high=250),
                "max_depth": IntRange(low=3, high=6),
                "learning_rate": FloatRange(low=0.01, high=0.05, log=True),
                "max_features": FloatRange(low=0.1, high=0.4),
                "min_samples_leaf": IntRange(low=10, high=80, log=True),
            },
        ),
    ),
    metric="r2",
    gate=WEAK_SIGNAL_REGRESSION,
)
