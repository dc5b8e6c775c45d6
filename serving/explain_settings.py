"""Settings of explanations."""

from pydantic import Field

from registry.settings import GreenroomSettings


class ExplainSettings(GreenroomSettings):
    """Whether predictions are explained, and how much work one explanation may be."""

    serving_explain: bool = Field(
        default=True, description="GREENROOM_SERVING_EXPLAIN: whether there is POST /api/explain/MODEL."
    )
    # A forest of 200 trees answers so many in about 0.1 s on one processor, which is what an explanation
    # takes; four times as many would halve the sampling error.
    serving_explain_rows: int = Field(
        default=8192,
        ge=256,
        le=262_144,
        description="GREENROOM_SERVING_EXPLAIN_ROWS: most rows that the model answers for one explanation, "
        "in one call; more rows, less sampling error.",
    )
