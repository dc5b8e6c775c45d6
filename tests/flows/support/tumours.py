"""A model from outside the music domain: one file, with its own contract, table and policy.

The test copies it next to a Parquet file and names it in GREENROOM_CATALOG_PATH; nothing else is edited.
"""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from catalog.policies import CLASSIFICATION
from catalog.spec import Candidate, Dataset, ModelSpec, Split


class TumourFeatures(BaseModel):
    """Measurements of cell nuclei in a digitised image."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "examples": [{"radius": 18.0, "texture": 10.4, "smoothness": 0.12, "concavity": 0.3}]
        },
    )

    radius: float = Field(gt=0, le=60, allow_inf_nan=False, description="Mean radius in pixels.")
    texture: float = Field(ge=0, le=100, allow_inf_nan=False, description="Deviation of grey values.")
    smoothness: float = Field(ge=0, le=1, allow_inf_nan=False, description="Variation of radius, 0..1.")
    concavity: float = Field(ge=0, le=1, allow_inf_nan=False, description="Severity of concave parts, 0..1.")


class Tumour(TumourFeatures):
    """One row: the measurements and the diagnosis."""

    model_config = ConfigDict(extra="ignore", strict=True)

    diagnosis: str


MODEL = ModelSpec(
    name="tumour",
    description="Whether a tumour is malignant, from its cell nuclei.",
    task="classification",
    dataset=Dataset(
        name="tumours",
        description="569 biopsies (UCI, Wisconsin Diagnostic).",
        source=str(Path(__file__).with_name("tumours.parquet")),
        row=Tumour,
        features=TumourFeatures,
    ),
    target="diagnosis",
    features=tuple(TumourFeatures.model_fields),
    candidates=(
        Candidate(name="logistic-regression", estimator="sklearn.linear_model.LogisticRegression"),
        Candidate(
            name="random-forest",
            estimator="sklearn.ensemble.RandomForestClassifier",
            params={"n_estimators": 20, "min_samples_leaf": 10},
        ),
        Candidate(name="naive-bayes", estimator="sklearn.naive_bayes.GaussianNB"),
    ),
    metric="balanced_accuracy",
    split=Split(test_fraction=0.4),
    gate=CLASSIFICATION,
)
