"""Names that Greenroom and MLflow share: tags of runs and versions, stages, headers."""

import unicodedata
from enum import StrEnum

MODEL = "greenroom.model"
# On a training's run: what it is a training of, so that one that was killed is known again, and whose it is.
TRAINING = "greenroom.training"
FLOW_RUN = "greenroom.flow_run"
# On a version these three are reserved: the server takes only valid evidence for that very version, and
# writes `greenroom.gate` itself, from the evidence.
EVIDENCE = "greenroom.evidence"
OVERRIDE = "greenroom.override"
GATE = "greenroom.gate"
# Setting it asks the server to look at a version's bytes again; it is never stored.
REPORT = "greenroom.report"
_RESERVED = frozenset({EVIDENCE, OVERRIDE, GATE, REPORT})
METRIC = "greenroom.metric"
# Digest of the rows that a version was trained on, as its training says; to filter runs and versions by.
DATASET = "greenroom.dataset"
SCORE = "greenroom.score"


def check_tag(check: str) -> str:
    """Return the tag that holds the status of one of the gate's checks."""
    return f"check.{check}"


def normalize_name(name: str) -> str:
    """Return a name as a person reads it: without case, width and look-alike forms of Unicode."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold()).strip()


def is_reserved(key: str) -> bool:
    """Whether a tag's key is reserved, or could be taken for one that is."""
    return normalize_name(key) in _RESERVED


# What Greenroom's own client tells the guard besides MLflow's API. Values are percent-encoded UTF-8.
ACTOR_HEADER = "X-Greenroom-Actor"
REASON_HEADER = "X-Greenroom-Reason"
ACTION_HEADER = "X-Greenroom-Action"
ROLLBACK = "rollback"


class Stage(StrEnum):
    """Where a version stands."""

    NONE = "None"
    STAGING = "Staging"
    PRODUCTION = "Production"
    ARCHIVED = "Archived"


# The stages that only a version with evidence may enter.
GATED = frozenset({Stage.STAGING, Stage.PRODUCTION})
