"""The names of the stages that a version moves through: MLflow's."""

from enum import StrEnum


class Stage(StrEnum):
    """Where a version stands."""

    NONE = "None"
    STAGING = "Staging"
    PRODUCTION = "Production"
    ARCHIVED = "Archived"


# The stages that only a version with evidence may enter.
GATED = frozenset({Stage.STAGING, Stage.PRODUCTION})
