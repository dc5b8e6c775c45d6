"""What the gate found out about one set of model bytes. Whether it passed is derived, never stored alone."""

from datetime import UTC, datetime
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, computed_field, model_validator

from catalog.spec import GatePolicy, Suite, Task
from registry.digests import digest

Status = Literal["passed", "failed", "error", "not_run", "missing"]

# Where a run keeps the gate's evidence, as artifact paths.
VERDICT_ARTIFACT = "gate/verdict.json"


def policy_digest(policy: GatePolicy) -> str:
    """Return the digest of a gate policy, so that a verdict says which rules it applied."""
    return digest(policy.model_dump_json().encode())


class Incumbent(BaseModel):
    """The version in Production that another one was compared with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int
    digest: str | None = Field(
        description="Digest of all its files, `sha256:HEX`; None where no evidence says what they should be."
    )


class DataOrigin(BaseModel):
    """Where the rows come from that a version was judged on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str = Field(description="The declared source, or the id of a stored dataset, `sha256:HEX`.")
    declared: bool = Field(description="Whether the catalogue declares that source for the model.")
    brought_by: str | None = Field(
        default=None, description="Of other rows: the name that the run or the version gives, unproven."
    )


class CheckOutcome(BaseModel):
    """The result of one check of the policy."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    check: str = Field(description="DeepChecks' class name.")
    suite: Suite
    required: bool
    status: Status = Field(description="Everything but `passed` counts against a required check.")
    reason: str = Field(description="The condition and what was found, in DeepChecks' words.")
    value: float | None = Field(default=None, description="The check's main number, where it has one.")


class Verdict(BaseModel):
    """The gate's answer for one set of model bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    task: Task
    model_digest: str = Field(description="Digest of the ONNX file whose predictions were checked.")
    policy_digest: str
    dataset_digests: dict[str, str] = Field(description="Digest of the training and held-out rows.")
    data: DataOrigin | None = Field(default=None, description="None in verdicts of older versions.")
    git_commit: str | None = Field(default=None, description="Commit of the gate's code.")
    incumbent: Incumbent | None = Field(
        default=None, description="The version in Production it was compared with; none if there was none."
    )
    created_at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    outcomes: tuple[CheckOutcome, ...]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def passed(self) -> bool:
        """True only if every required check ran and passed, and there was at least one."""
        required = [outcome for outcome in self.outcomes if outcome.required]
        return bool(required) and all(outcome.status == "passed" for outcome in required)

    @model_validator(mode="before")
    @classmethod
    def _passed_is_derived(cls, data: object) -> object:
        # A stored verdict carries `passed` for people to read; it is never believed.
        if isinstance(data, dict):
            return {key: value for key, value in data.items() if key != "passed"}
        return data

    @model_validator(mode="after")
    def _one_outcome_per_check(self) -> Self:
        names = [outcome.check for outcome in self.outcomes]
        if len(set(names)) < len(names):
            raise ValueError("a verdict has two outcomes for one check")
        return self

    @property
    def refusals(self) -> list[CheckOutcome]:
        """The required checks that did not pass."""
        return [outcome for outcome in self.outcomes if outcome.required and outcome.status != "passed"]
