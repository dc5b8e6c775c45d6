"""The form of a model's answers: its signature, its columns in scored files and in the prediction log.

A task's form is named in catalog/tasks.py, `TaskSpec.answers`. Imports no scikit-learn: each scoring process
loads this.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from catalog.tasks import task_spec

# Text of which few values differ.
TEXT = pa.dictionary(pa.int32(), pa.string())
Mask = npt.NDArray[np.bool_]
Probabilities = npt.NDArray[np.float32]
Columns = tuple[list[pa.Array], Mask]
Signature = tuple[tuple[str, tuple[int, ...]], ...]


@dataclass(frozen=True)
class AnswerForm(ABC):
    """Answers of one form; `classes` are the classes, or names of clusters, in the model's order."""

    classes: tuple[str, ...] = ()

    # Whether an answer is one value per row, which a scored file can hold.
    by_row: ClassVar[bool] = True

    @abstractmethod
    def signature(self) -> Signature:
        """Return the NumPy type and shape of each output; -1 is any length."""

    def fields(self) -> list[pa.Field]:
        """Return the columns of a scored file."""
        raise TypeError("neighbours are no answer of one value per row")

    def columns(self, labels: npt.NDArray[Any], probabilities: Probabilities | None) -> Columns:
        """Return a model's answers as the columns of a scored file, and which rows have no valid answer."""
        raise TypeError("neighbours are no answer of one value per row")

    def logged(self, rows: pd.DataFrame) -> tuple[npt.NDArray[Any], pd.DataFrame | None] | None:
        """Return labels and probabilities from rows of the prediction log; None if it lacks them."""
        return rows["prediction"].to_numpy().astype(str), None


class _Numbers(AnswerForm):
    def signature(self) -> Signature:
        return (("float32", (-1, 1)),)

    def fields(self) -> list[pa.Field]:
        return [pa.field("prediction", pa.float32())]

    def columns(self, labels: npt.NDArray[Any], probabilities: Probabilities | None) -> Columns:
        return [pa.array(labels.astype(np.float32))], ~np.isfinite(labels)

    def logged(self, rows: pd.DataFrame) -> tuple[npt.NDArray[Any], pd.DataFrame | None]:
        return rows["prediction"].to_numpy(np.float64), None


class _Clusters(AnswerForm):
    def signature(self) -> Signature:
        return (("int64", (-1,)),)

    def fields(self) -> list[pa.Field]:
        return [pa.field("cluster", pa.int32()), pa.field("label", TEXT)]

    def columns(self, labels: npt.NDArray[Any], probabilities: Probabilities | None) -> Columns:
        invalid = (labels < 0) | (labels >= len(self.classes))
        numbers = pa.array(np.where(invalid, 0, labels).astype(np.int32))
        names = pa.array(self.classes, pa.string())
        return [numbers, pa.DictionaryArray.from_arrays(numbers, names)], invalid


class _Classes(AnswerForm):
    def signature(self) -> Signature:
        return (("str", (-1,)), ("float32", (-1, len(self.classes))))

    def fields(self) -> list[pa.Field]:
        shares = [pa.field(f"probability_{name}", pa.float32()) for name in self.classes]
        return [pa.field("prediction", TEXT), *shares]

    def columns(self, labels: npt.NDArray[Any], probabilities: Probabilities | None) -> Columns:
        assert probabilities is not None  # noqa: S101 - a classifier's file has been checked for them
        names = pa.array(self.classes, pa.string())
        places = pc.index_in(pa.array(labels.astype(str), pa.string()), value_set=names)
        invalid = ~np.isfinite(probabilities).all(axis=1)
        invalid |= places.is_null().to_numpy(zero_copy_only=False)
        shares = [pa.array(np.ascontiguousarray(column)) for column in probabilities.T]
        return [pa.DictionaryArray.from_arrays(places.fill_null(0), names), *shares], invalid

    def logged(self, rows: pd.DataFrame) -> tuple[npt.NDArray[Any], pd.DataFrame | None]:
        shares = rows[[f"probability_{name}" for name in self.classes]].astype(np.float64)
        return rows["prediction"].to_numpy().astype(str), shares.set_axis(list(self.classes), axis=1)


class _Neighbours(AnswerForm):
    by_row = False

    def signature(self) -> Signature:
        return (("int64", (-1, -1)), ("float32", (-1, -1)))

    def logged(self, rows: pd.DataFrame) -> None:
        # The log has which things were found; drift is measured by how far the nearest other thing is.
        return None


_FORMS: Mapping[str, type[AnswerForm]] = {
    "numbers": _Numbers,
    "clusters": _Clusters,
    "classes": _Classes,
    "neighbours": _Neighbours,
}


def answer_form(task: str, classes: tuple[str, ...] = ()) -> AnswerForm:
    """Return the form of the answers of a task, by its name."""
    return _FORMS[task_spec(task).answers](classes)
