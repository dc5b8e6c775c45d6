"""The functions for notebooks: `training_rows`, `submit`, `connect`.

from flows.submission import submit, training_rows

rows = training_rows("genre")
submit(ExtraTreesClassifier(min_samples_leaf=10), "genre")
"""

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from catalog.loader import get_model
from catalog.spec import ModelSpec
from catalog.table_declaration import PlainDeclaration, PlainTask
from checks.errors import DataError
from flows.environment import prepare_environment
from flows.errors import SubmissionError
from flows.settings import FlowSettings

if TYPE_CHECKING:
    import pandas as pd

    from flows.training.outcome import TrainingOutcome


@dataclass(frozen=True)
class TrainingRows:
    """The rows that a model may learn from, without those held out for the gate.

    `features` has shape (rows, features), float64, booleans as 0 and 1, columns in the declared order;
    `target` is text for a classification and float64 for a regression. `groups` is the group of each row (the
    artist of a track), None without groups. `folds` are the positions of training and validation rows of each
    cross-validation fold, with no group on both sides: for `cross_val_score(…, cv=rows.folds)`.
    """

    features: "pd.DataFrame"
    target: "pd.Series[Any]"
    groups: "pd.Series[Any] | None"
    folds: list[tuple[Any, Any]]


def connect() -> None:
    """Set MLflow's tracking server and login from Greenroom's settings."""
    prepare_environment(FlowSettings())
    from flows import mlflow_connection  # noqa: PLC0415 - after the environment of MLflow and Prefect is made

    mlflow_connection.connect()


def training_rows(
    model: str,
    *,
    table: object = None,
    target: str | None = None,
    task: PlainTask | None = None,
    group: str | None = None,
) -> TrainingRows:
    """Return the training rows of a model's split: valid, clean, and the same in every training.

    `model` is one of the catalogue; or a new name, with `table`, `target`, `task` and `group` as `submit`
    takes them. Raises `CatalogError` for an unknown model, `DataError` for an unusable table, and
    `SubmissionError` for a model without a target.
    """
    from checks.data import cleaning, sources, splits, validation  # noqa: PLC0415 - scikit-learn takes seconds to load
    from flows.submission import plain_table  # noqa: PLC0415 - scikit-learn takes seconds to load

    source = _Table(table, target, task, group)
    if table is None:
        spec = source.spec(model)
        read = sources.read_table(spec.dataset)
    else:
        declaration, table_rows = source.declare(model)
        spec = declaration.spec()
        read = plain_table.frame(spec, table_rows)
    valid, _ = validation.validate(read, spec.dataset)
    rows, _ = cleaning.clean(valid, spec, read=len(read))
    train, _ = splits.split(rows, spec)
    training = rows.iloc[train]
    targets = training[spec.label].astype("float64" if spec.numeric_target else "str")
    groups = training[spec.dataset.group].astype("str") if spec.dataset.group else None
    return TrainingRows(
        features=cleaning.features(rows, spec).iloc[train].reset_index(drop=True),
        target=targets.reset_index(drop=True),
        groups=None if groups is None else groups.reset_index(drop=True),
        folds=splits.folds(training, spec),
    )


def submit(
    estimator: object,
    model: str,
    *,
    as_fitted: bool = False,
    promote: bool = False,
    classes: tuple[str, ...] = (),
    table: object = None,
    target: str | None = None,
    task: PlainTask | None = None,
    group: str | None = None,
) -> "TrainingOutcome":
    """Gate and register a model, and sign the verdict; with `promote`, promote it if it passed.

    `estimator` is a scikit-learn estimator or pipeline that reads the raw features in declared order; an ONNX
    model (one float32 input of shape (rows, features); a classifier answers labels and probabilities, a
    regression float32 values); a file of either; or `runs:/ID/model`, `models:/…` of the tracking server. A
    pickle runs the code in it.

    An estimator is cloned and fitted on the training rows, so that held-out rows are new to it. With
    `as_fitted`, and always for ONNX, it stays as it is; that is recorded, and `promote` is refused.
    `classes` is the order of an ONNX file's probabilities; sorted if left out.

    A `model` that the catalogue does not declare comes with a `table` (a DataFrame, a Parquet file, or the id
    of a stored one): every column is a feature but the `target` and the `group`, whose rows stay on one
    side of the split. `task` is `classification` or `regression`.

    Returns the outcome, refused by the gate or not. Raises `SubmissionError` for other objects,
    `LeakageError` for a model that scores as if it knew the held-out rows, `ExportError` for a model that
    ONNX cannot hold, `DataError` for the table, `CatalogError` for the name, and the registry's errors.
    """
    logging.getLogger("skl2onnx").setLevel(logging.ERROR)
    prepare_environment(FlowSettings())
    from flows import mlflow_connection  # noqa: PLC0415 - see `connect`
    from flows.submission import flow, model_sources, plain_table  # noqa: PLC0415 - see `connect`

    mlflow_connection.connect()
    submitted = model_sources.load(estimator)
    as_fitted = as_fitted or submitted.onnx is not None
    if promote and as_fitted:
        raise SubmissionError(
            "A model that was fitted elsewhere is not promoted by itself: it may have seen the rows that the "
            f"gate asks it about. Leave out promote, look at it, then `greenroom promote {model} VERSION`."
        )
    declaration: PlainDeclaration | None = None
    source = _Table(table, target, task, group)
    if table is None:
        spec = source.spec(model)
    else:
        declaration, rows = source.declare(model, submitted.kind)
        plain_table.store(declaration, rows)
        spec = declaration.spec()
    submission = flow.Submission(spec, submitted, as_fitted, declaration, classes)
    return flow.run(submission, promote_passed=promote)


@dataclass(frozen=True)
class _Table:
    """A table and its description, as `submit` takes them."""

    table: object
    target: str | None
    task: PlainTask | None
    group: str | None

    def spec(self, model: str) -> ModelSpec:
        """Return the declaration of a model of the catalogue, which has a table of its own."""
        spec = get_model(model)
        if self.target or self.task or self.group:
            raise SubmissionError("target, task and group belong to a table; give the table, too.")
        if not spec.supervised:
            raise SubmissionError(
                f"{model} is a {spec.task}. Only classifications and regressions can be submitted; declare a "
                "candidate of it in its file in catalog/models/ instead."
            )
        return spec

    def declare(self, model: str, estimator: str = "unknown") -> tuple[PlainDeclaration, Any]:
        """Return the declaration that follows from the table, and the rows to store."""
        from flows.submission import plain_table  # noqa: PLC0415 - see `training_rows`

        if self.target is None or self.task not in ("classification", "regression"):
            raise DataError("A table needs its target column and its task, classification or regression.")
        return plain_table.declare(
            model,
            plain_table.read(self.table),
            target=self.target,
            task=self.task,
            group=self.group,
            estimator=estimator,
        )
