"""Which kind of sound a track has, without anybody's labels."""

from catalog.policies import CLUSTERING
from catalog.spec import Candidate, ModelSpec
from catalog.spotify_tracks import TRACKS


def _kmeans(clusters: int) -> Candidate:
    return Candidate(
        name=f"k-means-{clusters}",
        estimator="sklearn.cluster.KMeans",
        params={"n_clusters": clusters, "n_init": 5},
    )


MODEL = ModelSpec(
    name="clusters",
    description="Kind of sound of a track, found without labels and named by what marks it.",
    task="clustering",
    dataset=TRACKS,
    # What describes the sound. Codes (key, mode) and tempo have no groups in them and blur the others'.
    features=(
        "danceability",
        "energy",
        "valence",
        "acousticness",
        "instrumentalness",
        "speechiness",
        "loudness",
    ),
    skewed=("speechiness", "acousticness", "instrumentalness"),
    candidates=(
        _kmeans(4),
        _kmeans(5),
        _kmeans(6),
        _kmeans(8),
        Candidate(
            name="gaussian-mixture-4",
            estimator="sklearn.mixture.GaussianMixture",
            params={"n_components": 4, "n_init": 2},
        ),
    ),
    metric="silhouette",
    gate=CLUSTERING,
)
