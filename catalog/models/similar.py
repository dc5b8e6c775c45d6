"""Which tracks sound most like one."""

from catalog.policies import SIMILARITY
from catalog.spec import Candidate, ModelSpec
from catalog.spotify_tracks import TRACKS

MODEL = ModelSpec(
    name="similar",
    description="The tracks that sound most like one, by their audio analysis.",
    task="similarity",
    dataset=TRACKS,
    features=(
        "danceability",
        "energy",
        "valence",
        "acousticness",
        "instrumentalness",
        "liveness",
        "speechiness",
        "loudness",
        "tempo",
    ),
    skewed=("speechiness", "acousticness", "instrumentalness", "liveness"),
    related_by="track_genre",
    shown=("track_name", "artists"),
    candidates=tuple(
        Candidate(name=metric, estimator="sklearn.neighbors.NearestNeighbors", params={"metric": metric})
        for metric in ("euclidean", "cosine")
    ),
    metric="agreement_at_10",
    gate=SIMILARITY,
)
