"""Which of six genres a track belongs to."""

from catalog.policies import CLASSIFICATION
from catalog.spec import Candidate, FloatRange, IntRange, ModelSpec
from catalog.spotify_tracks import FEATURES, TRACKS

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
            params={"max_iter": 500, "C": 1.0},
            search={"C": FloatRange(low=0.01, high=10, log=True)},
        ),
        Candidate(
            name="random-forest",
            estimator="sklearn.ensemble.RandomForestClassifier",
            # Leaves of ten rows: deeper trees score the same by artist and remember the training rows.
            params={"n_estimators": 200, "min_samples_leaf": 10, "class_weight": "balanced", "n_jobs": -1},
            search={"min_samples_leaf": IntRange(low=10, high=40, log=True)},
        ),
        Candidate(
            name="gradient-boosting",
            estimator="sklearn.ensemble.GradientBoostingClassifier",
            params={
                "n_estimators": 120,
                "max_depth": 3,
                "learning_rate": 0.06,
                "subsample": 0.5,
                "max_features": 0.3,
            },
            # The F1 of the corner that fits most closely falls by 28 % at most on five splits (docs/gate.md):
            # 7 points below what the gate allows. Deeper and faster trees remember rows and score the same.
            search={
                "n_estimators": IntRange(low=60, high=140),
                "max_depth": IntRange(low=2, high=3),
                "learning_rate": FloatRange(low=0.02, high=0.08, log=True),
                "max_features": FloatRange(low=0.1, high=0.5),
            },
        ),
    ),
    metric="balanced_accuracy",
    gate=CLASSIFICATION,
)
