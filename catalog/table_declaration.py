"""The declaration of a model that somebody brought with a plain table: data instead of a Python file.

It says all that the gate has to know and cannot see in the model's file. It lies in the run that made the
version, so that the gate can be asked again where no catalogue declares the model. What the gate asks for is
not in it: the policy is that of the task (catalog/policies.py) in any case.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, create_model, model_validator

from catalog.policies import CLASSIFICATION, REGRESSION
from catalog.spec import Candidate, Dataset, GatePolicy, ModelSpec, Split
from catalog.tasks import task_spec

PlainTask = Literal["classification", "regression"]
Kind = Literal["number", "integer", "boolean"]

# The file among the gate's reports of a run.
DECLARATION_FILE = "declaration.json"
# As few rows as leave 200 held out, which the gate asks for, when every second row is.
MIN_ROWS = 420
_PER_SIDE = 210
_POLICIES: dict[PlainTask, GatePolicy] = {"classification": CLASSIFICATION, "regression": REGRESSION}
_METRICS: dict[PlainTask, str] = {"classification": "balanced_accuracy", "regression": "r2"}
_TYPES: dict[Kind, Any] = {
    "number": Annotated[float, Field(allow_inf_nan=False)],
    "integer": int,
    "boolean": bool,
}


class PlainColumn(BaseModel):
    """A feature: what it holds, and from where to where it went in the table that came with the model.

    The range is information, no rule: other values of the quantity may exist.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, max_length=200)
    kind: Kind
    low: FiniteFloat
    high: FiniteFloat


class PlainDeclaration(BaseModel):
    """What a plain table and the arguments of `submit` say about a model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    name: str
    task: PlainTask
    target: str
    group: str | None = None
    features: tuple[PlainColumn, ...] = Field(min_length=1)
    # Nothing but an id: the gate reads what stands here, and whoever writes to a run can write it.
    source: str = Field(pattern=r"^sha256:[0-9a-f]{64}$", description="Id of the stored table, sha256:HEX.")
    rows: int = Field(ge=MIN_ROWS, description="Rows of the table.")
    estimator: str = Field(description="What was submitted: a class, or an ONNX file.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [column.name for column in self.features]
        if taken := sorted(name for name in names if name in (self.target, self.group)):
            raise ValueError(f"target or group is a feature, too: {', '.join(taken)}")
        if len(set(names)) < len(names):
            raise ValueError("two columns have the same name")
        if self.group == self.target:
            raise ValueError("target and group are the same column")
        return self

    def spec(self) -> ModelSpec:
        """Return the whole declaration: contract, split and the gate policy of the task.

        Every fifth row is held out; more of a table under 1,050 rows, so that at least 200 are. Rows equal in
        all features count once. Raises `ValueError` for a name that no model can have.
        """
        fields: dict[str, Any] = {
            column.name: (
                _TYPES[column.kind],
                Field(description=f"{column.low:g} to {column.high:g} in the table."),
            )
            for column in self.features
        }
        kinds = {self.target: _TYPES["number"] if task_spec(self.task).numeric_target else str}
        if self.group:
            kinds[self.group] = str
        others: dict[str, Any] = {name: (kind, ...) for name, kind in kinds.items()}
        # A column may be called `model_x` or `schema`, which Pydantic has for itself.
        features = create_model(
            "PlainFeatures",
            __config__=ConfigDict(extra="forbid", strict=True, protected_namespaces=()),
            **fields,
        )
        row = create_model(
            "PlainRow",
            __config__=ConfigDict(extra="ignore", strict=True, protected_namespaces=()),
            **fields,
            **others,
        )
        names = tuple(column.name for column in self.features)
        parts = min(5, max(2, self.rows // _PER_SIDE))
        return ModelSpec(
            name=self.name,
            description=f"{self.target} from {len(names)} features; submitted with a table of its own.",
            task=self.task,
            dataset=Dataset(
                name=self.name,
                description=f"{self.rows:,} rows that came with the model.",
                source=self.source,
                row=row,
                features=features,
                max_rejected=0,
                unique_by=names,
                group=self.group,
            ),
            target=self.target,
            features=names,
            candidates=(Candidate(name="submitted", estimator=self.estimator),),
            metric=_METRICS[self.task],
            # A half is as much as a split takes, and 0.4 comes to every second row (checks/data/sources.py).
            split=Split(test_fraction=0.4 if parts == 2 else 1 / parts),
            gate=_POLICIES[self.task],
        )
