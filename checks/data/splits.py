"""Rows split into training and held-out rows, by group, with folds. Plain functions."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold

from catalog.spec import Dataset, ModelSpec
from checks.data.cleaning import features
from checks.errors import DataError

Groups = npt.NDArray[Any]
Positions = npt.NDArray[np.intp]
Folds = list[tuple[Positions, Positions]]
_BINS = 5


@dataclass(frozen=True)
class Rows:
    """Rows: what the model reads, and the other columns of its declaration.

    `groups` has the main group of each row, where the dataset has groups.
    """

    features: pd.DataFrame
    others: pd.DataFrame
    label: str | None
    groups: Groups | None = None

    @property
    def target(self) -> "pd.Series[Any] | None":
        """The column that scores are made with; None for a clustering."""
        return None if self.label is None else self.others[self.label]

    @property
    def frame(self) -> pd.DataFrame:
        """Features and other columns in one table."""
        return pd.concat([self.features, self.others], axis=1)

    def take(self, positions: Positions) -> "Rows":
        """Return the rows at these positions, numbered from 0."""
        return Rows(
            self.features.iloc[positions].reset_index(drop=True),
            self.others.iloc[positions].reset_index(drop=True),
            self.label,
            None if self.groups is None else self.groups[positions],
        )


@dataclass(frozen=True)
class SplitRows:
    """Training and held-out rows, and the folds of the training rows by position."""

    train: Rows
    test: Rows
    folds: Folds


def split_rows(rows: pd.DataFrame, spec: ModelSpec) -> SplitRows:
    """Split clean rows; raises `DataError` where that cannot be done."""
    train, test = split(rows, spec)
    others = rows[[name for name in spec.columns if name not in spec.features]]
    others = others.astype("float64" if spec.numeric_target else "str")
    whole = Rows(features(rows, spec), others, spec.label, main_groups(rows, spec.dataset))
    return SplitRows(whole.take(train), whole.take(test), folds(rows.iloc[train], spec))


def split(rows: pd.DataFrame, spec: ModelSpec) -> tuple[Positions, Positions]:
    """Return the positions of training and held-out rows.

    Held-out rows are about `split.test_fraction` of all, spread evenly over the label. With a group column,
    no main group value is on both sides, and training rows that share any value (a guest artist) with a
    held-out row are left out, unless there is no target that these could give away. The same rows and seed
    always give the same split.
    """
    folds = round(1 / spec.split.test_fraction)
    options = {"n_splits": folds, "shuffle": True, "random_state": spec.split.seed}
    target = _strata(rows, spec)
    groups = _groups(rows, spec.dataset)
    try:
        if groups is None:
            train, test = next(StratifiedKFold(**options).split(rows, target))
        else:
            main = [values[0] for values in groups]
            train, test = next(StratifiedGroupKFold(**options).split(rows, target, main))
    except ValueError as error:
        raise DataError(f"{spec.name}: the rows cannot be split: {error}") from error
    if groups is not None and spec.supervised:
        held = {value for position in test for value in groups[position]}
        train = train[np.array([held.isdisjoint(groups[position]) for position in train], dtype=bool)]
    # A class on one side only could be learned and never measured, or asked for and never learned.
    if lone := sorted(map(str, set(target.iloc[train]) ^ set(target.iloc[test]))):
        raise DataError(
            f"{spec.name}: the rows cannot be split: too few have {spec.label} {', '.join(lone)} for "
            "both sides. Add such rows, or leave them out."
        )
    return train, test


def folds(rows: pd.DataFrame, spec: ModelSpec) -> Folds:
    """Return the cross-validation folds of training rows, by main group where there is one."""
    groups = _groups(rows, spec.dataset)
    if groups is None:
        return list(KFold(spec.split.folds, shuffle=True, random_state=spec.split.seed).split(rows))
    return list(GroupKFold(spec.split.folds).split(rows, groups=[values[0] for values in groups]))


def _groups(rows: pd.DataFrame, dataset: Dataset) -> list[list[str]] | None:
    if not dataset.group:
        return None
    values = rows[dataset.group].astype(str)
    separator = dataset.group_separator
    return [value.split(separator) if separator else [value] for value in values]


def _strata(rows: pd.DataFrame, spec: ModelSpec) -> "pd.Series[Any]":
    if spec.label is None:
        return pd.Series(0, index=rows.index)
    if spec.numeric_target:
        return pd.qcut(rows[spec.label].rank(method="first"), _BINS, labels=False)
    return rows[spec.label]


def main_groups(rows: pd.DataFrame, dataset: Dataset) -> Groups | None:
    """Return the main group of each row, by which the split keeps rows together; None without groups."""
    if not dataset.group:
        return None
    values = rows[dataset.group].astype(str)
    if dataset.group_separator:
        values = values.str.split(dataset.group_separator, regex=False).str[0]
    return values.to_numpy()
