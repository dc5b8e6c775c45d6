"""A model whose gate takes no time, for tests that train many times: groups of tumours, by their radius.

Like tumours.py it is copied next to its table; its policy has none of the checks that start DeepChecks.
"""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from catalog.policies import CLUSTERING
from catalog.spec import Candidate, Check, Dataset, GatePolicy, ModelSpec, Split


class Sizes(BaseModel):
    """What is seen of a tumour."""

    model_config = ConfigDict(extra="ignore", strict=True)

    radius: float = Field(gt=0, le=60, allow_inf_nan=False, description="Mean radius in pixels.")
    concavity: float = Field(ge=0, le=1, allow_inf_nan=False, description="Severity of concave parts, 0..1.")


def _quick(check: Check) -> Check:
    return check.model_copy(update={"params": {"refits": 2}}) if "refits" in check.params else check


MODEL = ModelSpec(
    name="groups",
    description="Groups of tumours by size and form.",
    task="clustering",
    dataset=Dataset(
        name="sizes",
        description="569 biopsies (UCI, Wisconsin Diagnostic).",
        source=str(Path(__file__).with_name("tumours.parquet")),
        row=Sizes,
        features=Sizes,
    ),
    features=tuple(Sizes.model_fields),
    candidates=(
        Candidate(
            name="k-means-2", estimator="sklearn.cluster.KMeans", params={"n_clusters": 2, "n_init": 1}
        ),
    ),
    metric="silhouette",
    split=Split(test_fraction=0.4),
    gate=GatePolicy(checks=tuple(_quick(c) for c in CLUSTERING.checks if c.check.startswith("Cluster"))),
)
