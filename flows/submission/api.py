"""From a notebook to the gate: `training_rows`, `submit`, `connect`.

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
from flows.environment import prepare_environment
from flows.errors import DataError, SubmissionError
from flows.settings import FlowSettings

if TYPE_CHECKING:
    import pandas as pd

    from flows.training.outcome import Outcome


@dataclass(frozen=True)
class TrainingRows:
    """The rows that a model may learn from; those held out for the gate are not among them.

    `features` has shape (rows, features), float64, booleans as 0 and 1, columns in the declared order;
    `target` is text for a classification and float64 for a regression. `groups` names what each row belongs
    to (the artist of a track), None without groups. `folds` are the positions of training and validation
    rows of each cross-validation fold, with no group on both sides: for `cross_val_score(…, cv=rows.folds)`.
    """

    features: "pd.DataFrame"
    target: "pd.Series[Any]"
    groups: "pd.Series[Any] | None"
    folds: list[tuple[Any, Any]]


def connect() -> None:
    """Point MLflow at the tracking server that Greenroom's settings name, with the login they have."""
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
    """Return the training side of a model's split: valid, clean rows, the same ones in every training.

    `model` is one of the catalogue; or a new name, with `table`, `target`, `task` and `group` as `submit`
    takes them. Raises `CatalogError` for an unknown model, `DataError` for a table that will not do, and
    `SubmissionError` for a model without a target.
    """
    from flows.data import cleaning, sources, splits, validation  # noqa: PLC0415 - scikit-learn takes seconds to load
    from flows.submission import plain_table  # noqa: PLC0415 - scikit-learn takes seconds to load

    words = _Table(table, target, task, group)
    if table is None:
        spec = words.catalogued(model)
        read = sources.read_table(spec.dataset)
    else:
        declared, kept = words.declared(model)
        spec = declared.spec()
        read = plain_table.frame(spec, kept)
    valid, _ = validation.validate(read, spec.dataset)
    rows, _ = cleaning.clean(valid, spec, read=len(read))
    train, _ = splits.split(rows, spec)
    kept_rows = rows.iloc[train]
    answers = kept_rows[spec.label].astype("float64" if spec.task == "regression" else "str")
    groups = kept_rows[spec.dataset.group].astype("str") if spec.dataset.group else None
    return TrainingRows(
        features=cleaning.features(rows, spec).iloc[train].reset_index(drop=True),
        target=answers.reset_index(drop=True),
        groups=None if groups is None else groups.reset_index(drop=True),
        folds=splits.folds(kept_rows, spec),
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
) -> "Outcome":
    """Bring a model through the gate, register it, sign the verdict; with `promote`, promote what passed.

    `estimator` is a scikit-learn estimator or pipeline that reads the raw features in declared order; an ONNX
    model (one float32 input of shape (rows, features); a classifier answers labels and probabilities, a
    regression float32 values); a file of either; or `runs:/ID/model`, `models:/…` of the tracking server. A
    pickle runs the code in it.

    An estimator is cloned and fitted on the training rows, so that held-out rows are new to it. With
    `as_fitted` it stays as it is, which is recorded; ONNX always does, and is not promoted by itself.
    `classes` is the order of an ONNX file's probabilities; sorted if left out.

    A `model` that the catalogue does not declare comes with a `table` (a DataFrame, a Parquet file, or the id
    of a stored one): every column is a feature but the `target` and the `group`, whose rows stay on one
    side of the split. `task` is `classification` or `regression`.

    Returns the outcome, refused by the gate or not. Raises `SubmissionError` for what is no such model,
    `SeenError` for one that scores as if it knew the held-out rows, `ExportError` for what ONNX cannot
    hold, `DataError` for the table, `CatalogError` for the name, and what the registry raises.
    """
    logging.getLogger("skl2onnx").setLevel(logging.ERROR)
    prepare_environment(FlowSettings())
    from flows import mlflow_connection  # noqa: PLC0415 - see `connect`
    from flows.submission import flow, model_sources, plain_table  # noqa: PLC0415 - see `connect`

    mlflow_connection.connect()
    brought = model_sources.load(estimator)
    as_fitted = as_fitted or brought.onnx is not None
    if promote and as_fitted:
        raise SubmissionError(
            "A model that was fitted elsewhere is not promoted by itself: it may have seen the rows that the "
            f"gate asks it about. Leave out promote, look at it, then `greenroom promote {model} VERSION`."
        )
    declared: PlainDeclaration | None = None
    words = _Table(table, target, task, group)
    if table is None:
        spec = words.catalogued(model)
    else:
        declared, kept = words.declared(model, brought.kind)
        plain_table.keep(declared, kept)
        spec = declared.spec()
    made = flow.Submission(spec, brought, as_fitted, declared, classes)
    return flow.run(made, promote_passed=promote)


@dataclass(frozen=True)
class _Table:
    """A table and the words about it, as `submit` takes them."""

    table: object
    target: str | None
    task: PlainTask | None
    group: str | None

    def catalogued(self, model: str) -> ModelSpec:
        """Return the declaration of a model that has its table in the catalogue."""
        spec = get_model(model)
        if self.target or self.task or self.group:
            raise SubmissionError("target, task and group belong to a table; give the table, too.")
        if not spec.supervised:
            raise SubmissionError(
                f"{model} is a {spec.task}. Only classifications and regressions can be submitted; declare a "
                "candidate of it in its file in catalog/models/ instead."
            )
        return spec

    def declared(self, model: str, estimator: str = "unknown") -> tuple[PlainDeclaration, Any]:
        """Return what the table declares, and its rows in the form in which they are kept."""
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
