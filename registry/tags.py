"""Names of the tags that Greenroom puts on runs and model versions."""

MODEL = "greenroom.model"
GATE = "greenroom.gate"
METRIC = "greenroom.metric"
SCORE = "greenroom.score"


def check_tag(check: str) -> str:
    """Return the tag that holds the status of one of the gate's checks."""
    return f"check.{check}"
