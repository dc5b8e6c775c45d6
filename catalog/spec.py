"""The words a model is declared in. Nothing here trains, checks or serves: rooms above read these."""

import re
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Task = Literal["classification", "regression"]
Suite = Literal["data_integrity", "train_test_validation", "model_evaluation"]

# More would make the model's file larger and explanations no better within their bound of work.
MAX_BACKGROUND = 64

_NAME = re.compile(r"^[a-z][a-z0-9_-]{0,62}\Z")


class _Declaration(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


class Dataset(_Declaration):
    """A table of rows and how to read it honestly.

    `source` is `package:NAME/PATH` (a Parquet file inside an installed Python package), a path of a
    Parquet file, or the id of an uploaded dataset, `sha256:HEX`. `row` is the contract each row must
    meet; `features` is the part of it that a client sends to the predictor.
    """

    name: str
    description: str
    source: str
    row: type[BaseModel]
    features: type[BaseModel]
    max_rejected: float = Field(
        default=0.01,
        ge=0,
        le=1,
        description="Share of rows that may break the contract; they are left out. Above it, ingest stops.",
    )
    unique_by: tuple[str, ...] = Field(
        default=(), description="Rows equal in all of these columns are the same thing; one is kept."
    )
    prefer: str | None = Field(
        default=None, description="Of rows that are the same thing, keep the one with most of this."
    )
    group: str | None = Field(
        default=None, description="Rows that share a value of this column never sit on both sides of a split."
    )
    group_separator: str | None = Field(
        default=None, description="Splits the group column into several values, the first being the main one."
    )


class Candidate(_Declaration):
    """One estimator to try: the import path of a scikit-learn class and its parameters."""

    name: str
    estimator: str
    params: dict[str, Any] = Field(default_factory=dict)


class Split(_Declaration):
    """How held-out rows are chosen. They are used once, to evaluate and to gate; candidates are chosen
    by cross-validation inside the training rows."""

    test_fraction: float = Field(default=0.2, gt=0, lt=0.5)
    folds: int = Field(default=3, ge=2, le=10)
    seed: int = 7


class Check(_Declaration):
    """One DeepChecks check and the condition it must meet.

    `check` is DeepChecks' class name; `condition` is the name of one of its `add_condition_*` methods
    without that prefix. A `required` check that did not run and pass refuses the model.
    """

    check: str
    suite: Suite
    condition: str
    params: dict[str, Any] = Field(default_factory=dict)
    condition_params: dict[str, Any] = Field(default_factory=dict)
    required: bool = True
    why: str = Field(description="What the check guards against and where its threshold comes from.")


class GatePolicy(_Declaration):
    """What a model version must show before it may leave the green room."""

    checks: tuple[Check, ...]
    max_worse: float = Field(
        default=0.0,
        ge=0,
        allow_inf_nan=False,
        description="How much lower than that of the version in Production the headline metric may be, on "
        "the same held-out rows. A version is refused when it is worse by more than this beyond noise: when "
        "the whole 95 % interval of the difference is below minus this.",
    )

    @model_validator(mode="after")
    def _complete(self) -> Self:
        names = [check.check for check in self.checks]
        if repeated := sorted({n for n in names if names.count(n) > 1}):
            raise ValueError(f"the gate policy names a check twice: {', '.join(repeated)}")
        if not any(check.required for check in self.checks):
            raise ValueError("the gate policy requires no check, so it would let everything pass")
        return self


class ModelSpec(_Declaration):
    """All that Greenroom needs to know to train, gate and serve one model."""

    name: str
    description: str
    task: Task
    dataset: Dataset
    target: str
    unit: str | None = Field(default=None, description="Unit or range of a regression's prediction.")
    features: tuple[str, ...] = Field(min_length=1)
    one_hot: tuple[str, ...] = Field(default=(), description="Features that are codes, not quantities.")
    skewed: tuple[str, ...] = Field(default=(), description="Features to bring near a normal distribution.")
    candidates: tuple[Candidate, ...] = Field(min_length=1)
    background: int = Field(
        default=32,
        ge=0,
        le=MAX_BACKGROUND,
        description="How many training rows go into the model's file, as what a prediction is explained "
        "against. Whoever may read the file may read them: 0 for rows that must not leave training; such "
        "a model is served but not explained.",
    )
    metric: str = Field(description="Headline metric, higher is better; chooses among the candidates.")
    split: Split = Split()
    gate: GatePolicy

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        columns, contract = self.dataset.row.model_fields, self.dataset.features.model_fields
        problems = []
        if not _NAME.match(self.name):
            problems.append(f"name {self.name!r} must be lower-case letters, digits, - and _")
        if self.target not in columns:
            problems.append(f"target {self.target!r} is not a column of {self.dataset.name}")
        if self.target in self.features:
            problems.append(f"target {self.target!r} is among the features: the model would read the answer")
        if unknown := sorted(set(self.features) - set(contract)):
            problems.append(f"features not in the contract {self.dataset.features.__name__}: {unknown}")
        if stray := sorted((set(self.one_hot) | set(self.skewed)) - set(self.features)):
            problems.append(f"encoded columns that are not features: {stray}")
        if len({c.name for c in self.candidates}) < len(self.candidates):
            problems.append("two candidates have the same name")
        if problems:
            raise ValueError("; ".join(problems))
        return self
