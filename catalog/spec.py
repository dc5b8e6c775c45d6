"""The words a model is declared in. Nothing here trains, checks or serves: rooms above read these."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema, model_validator

from catalog.tasks import Answers, task_names, task_spec

# The name of a registered task.
Task = Annotated[
    str,
    AfterValidator(lambda name: task_spec(name).name),
    WithJsonSchema({"enum": list(task_names()), "type": "string"}),
]
Suite = Literal["data_integrity", "train_test_validation", "model_evaluation"]

# Most neighbours that a similarity model answers; its file finds one more, the thing that was asked about.
MAX_NEIGHBOURS = 100

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
    id: str | None = Field(default=None, description="Column of text that names a row, each another.")
    words: dict[str, tuple[str, str]] = Field(
        default_factory=dict,
        description="What people call a low and a high value of a column; else `low NAME` and `high NAME`.",
    )


class Choice(_Declaration):
    """A search space of a few values."""

    kind: Literal["choice"] = "choice"
    values: tuple[Any, ...] = Field(min_length=2)

    def holds(self, value: Any) -> bool:
        """Whether a value is among them."""
        return value in self.values


class _Range(_Declaration):
    log: bool = Field(default=False, description="Whether to search its orders of magnitude; low is above 0.")

    def _require_order(self, low: float, high: float) -> None:
        if not low < high:
            raise ValueError(f"a range goes from a lower to a higher number, not from {low} to {high}")
        if self.log and low <= 0:
            raise ValueError(f"a range that is searched by magnitude begins above 0, not at {low}")


class IntRange(_Range):
    """A search space of whole numbers, both ends included."""

    kind: Literal["int"] = "int"
    low: int
    high: int

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        self._require_order(self.low, self.high)
        return self

    def holds(self, value: Any) -> bool:
        """Whether a value is a whole number between the ends."""
        return isinstance(value, int) and self.low <= value <= self.high


class FloatRange(_Range):
    """A search space of real numbers, both ends included."""

    kind: Literal["float"] = "float"
    low: float = Field(allow_inf_nan=False)
    high: float = Field(allow_inf_nan=False)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        self._require_order(self.low, self.high)
        return self

    def holds(self, value: Any) -> bool:
        """Whether a value is a number between the ends."""
        return isinstance(value, int | float) and self.low <= value <= self.high


Space = Annotated[Choice | IntRange | FloatRange, Field(discriminator="kind")]


class Candidate(_Declaration):
    """One estimator to try: the import path of a scikit-learn class and its parameters.

    Of a clustering it predicts the cluster's number; of a similarity it is `NearestNeighbors` with the metric
    `euclidean` or `cosine`, over the encoded features.
    """

    name: str
    estimator: str
    params: dict[str, Any] = Field(default_factory=dict)
    search: dict[str, Space] = Field(
        default_factory=dict,
        description="Parameters to search, and where; each has a declared value in `params`, which is tried "
        "first and is all that is tried without a budget.",
    )

    @model_validator(mode="after")
    def _starts_inside(self) -> Self:
        for name, space in self.search.items():
            if name not in self.params:
                raise ValueError(
                    f"the candidate {self.name} searches {name!r}, which has no declared value in `params`"
                )
            if not space.holds(self.params[name]):
                raise ValueError(
                    f"the candidate {self.name} searches {name!r} in {space!r}, and its declared value "
                    f"{self.params[name]!r} is not in it"
                )
        return self


class Split(_Declaration):
    """How held-out rows are chosen. They are used once, to evaluate and to gate; candidates are chosen
    by cross-validation inside the training rows."""

    test_fraction: float = Field(default=0.2, gt=0, lt=0.5)
    folds: int = Field(default=3, ge=2, le=10)
    seed: int = 7


class Check(_Declaration):
    """One check and the condition it must meet.

    `check` is DeepChecks' class name; `condition` is the name of one of its `add_condition_*` methods
    without that prefix. Or it is one of Greenroom's own (checks/builtin), for what DeepChecks does not look
    at; its condition is `at_least` or `at_most`. A `required` check that did not run and pass refuses the
    model.
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
    target: str | None = Field(
        default=None, description="Column that is predicted; a clustering and a similarity have none."
    )
    related_by: str | None = Field(
        default=None,
        description="Of a similarity: a column whose value near things should share. Scores alone read it.",
    )
    shown: tuple[str, ...] = Field(
        default=(), description="Of a similarity: columns that an answer shows of each neighbour."
    )
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
    metric: str = Field(
        description="Headline metric, higher is better; chooses among the candidates. The name of one of "
        "scikit-learn's scorers, or the one metric of the task (catalog/tasks.py)."
    )
    search_trials: int = Field(
        default=8,
        ge=0,
        le=1000,
        description="How many points of the candidates' search spaces are tried; 0: none. Trials, not "
        "seconds, so that a training comes to the same model on every machine.",
    )
    split: Split = Split()
    gate: GatePolicy

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        contract = self.dataset.features.model_fields
        problems = self._problems_of_task()
        if not _NAME.match(self.name):
            problems.append(f"name {self.name!r} must be lower-case letters, digits, - and _")
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

    @property
    def supervised(self) -> bool:
        """Whether it learns from a known answer."""
        return task_spec(self.task).supervised

    @property
    def answers(self) -> Answers:
        """What the model answers for a row."""
        return task_spec(self.task).answers

    @property
    def numeric_target(self) -> bool:
        """Whether the target is a number; other targets are text."""
        return task_spec(self.task).numeric_target

    @property
    def label(self) -> str | None:
        """The column that scores are made with: the target, or what near things should share."""
        return self.target or self.related_by

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of a row that training and gate look at: features, label, and what names a thing."""
        columns = (*self.features, self.label, *task_spec(self.task).columns(self))
        return tuple(dict.fromkeys(filter(None, columns)))

    def _problems_of_task(self) -> list[str]:
        task, problems = task_spec(self.task), []
        if self.supervised and self.target is None:
            problems.append(f"a {self.task} needs a target")
        if not self.supervised and self.target is not None:
            problems.append(f"a {self.task} has no target, and {self.target!r} is declared as one")
        if task.metric and self.metric != task.metric:
            problems.append(f"the metric of a {self.task} is {task.metric!r}, not {self.metric!r}")
        problems += task.problems(self)
        roles = {"target": self.target, "related_by": self.related_by, "id": self.dataset.id}
        for role, name in [*roles.items(), *(("shown", name) for name in self.shown)]:
            if name is not None and name not in self.dataset.row.model_fields:
                problems.append(f"{role} {name!r} is not a column of {self.dataset.name}")
        return problems
