"""Which of six genres a track belongs to."""

from catalog.policies import CLASSIFICATION
from catalog.spec import Candidate, ModelSpec
from catalog.tracks import FEATURES, TRACKS

MODEL = ModelSpec(
    name="genre",
    description="Genre of a track (country, deep-house, dubstep, hip-hop, metal, rock) from its audio.",
    task="classification",
    dataset=TRACKS,
    target="track_genre",
    features=FEATURES,
    one_hot=("key", "time_signature"),
    skewed=("speechiness", "acousticness", "instrumentalness", "liveness", "duration_ms"),
    candidates=(
        Candidate(
            name="logistic-regression",
            estimator="sklearn.linear_model.LogisticRegression",
            params={"max_iter": 500},
        ),
        Candidate(
            name="random-forest",
            estimator="sklearn.ensemble.RandomForestClassifier",
            # Leaves of ten rows: deeper trees score the same by artist and remember the training rows.
            params={"n_estimators": 200, "min_samples_leaf": 10, "class_weight": "balanced", "n_jobs": -1},
        ),
        Candidate(
            name="gradient-boosting",
            estimator="sklearn.ensemble.GradientBoostingClassifier",
            params={"n_estimators": 60, "max_depth": 2, "subsample": 0.5},
        ),
    ),
    metric="balanced_accuracy",
    gate=CLASSIFICATION,
)
