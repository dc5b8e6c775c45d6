"""The index of a similarity model: the things among which it finds neighbours, by id, with their features.

It travels in the model's file (metadata `greenroom.items`), in the order of the graph's index: a neighbour's
place there is a thing, and a request can name a thing by its id. Everybody who may read the file may read it.
"""

import binascii
from base64 import b64decode, b64encode
from functools import cached_property
from typing import Annotated, Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

Metric = Literal["euclidean", "cosine"]


class SimilarityIndex(BaseModel):
    """Things in the order of the index."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    metric: Metric = Field(description="How near two things are, in the space of the encoded features.")
    id_name: str = Field(description="What the ids are called, as `track_id`.")
    ids: Annotated[tuple[str, ...], Field(min_length=1, repr=False)]
    shown: dict[str, tuple[str, ...]] = Field(
        default_factory=dict, repr=False, description="Texts that an answer shows of each thing, by column."
    )
    packed: str = Field(
        repr=False, description="Raw features: float32, little-endian, a row per thing, in base64."
    )

    @classmethod
    def of(
        cls,
        metric: Metric,
        id_name: str,
        ids: tuple[str, ...],
        shown: dict[str, tuple[str, ...]],
        rows: npt.NDArray[np.float32],
    ) -> Self:
        """Return the things with those ids and raw features, shape (things, features)."""
        packed = b64encode(rows.astype("<f4").tobytes()).decode()
        return cls(metric=metric, id_name=id_name, ids=ids, shown=shown, packed=packed)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if len(self.places) < len(self.ids):
            raise ValueError("two things have the same id")
        if any(len(texts) != len(self.ids) for texts in self.shown.values()):
            raise ValueError("a shown column has not one text for each thing")
        if self.rows.ndim != 2 or not np.isfinite(self.rows).all():
            raise ValueError("the features of the things are not whole rows of finite numbers")
        return self

    @cached_property
    def places(self) -> dict[str, int]:
        """The place of each id in the index."""
        return {name: place for place, name in enumerate(self.ids)}

    @cached_property
    def rows(self) -> npt.NDArray[np.float32]:
        """The raw features, shape (things, features)."""
        try:
            content = b64decode(self.packed, validate=True)
            return np.frombuffer(content, dtype="<f4").astype(np.float32).reshape(len(self.ids), -1)
        except (binascii.Error, ValueError) as error:
            raise ValueError("the features of the things cannot be read") from error


def nearest_others(others: npt.NDArray[np.bool_], k: int | npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the columns of the first `k` neighbours of each row that are not the row itself.

    `others` says of each neighbour, nearest first, whether it is another thing: shape (rows, neighbours). `k`
    may be one number for each row. The result has shape (rows, largest k), and -1 where there are fewer.
    """
    rank = np.cumsum(others, axis=1) - 1
    limits = np.broadcast_to(np.reshape(k, (-1, 1)), (len(others), 1))
    rows, columns = np.nonzero(others & (rank < limits))
    nearest = np.full((len(others), int(np.max(k))), -1, dtype=np.int64)
    nearest[rows, rank[rows, columns]] = columns
    return nearest


def pick(values: npt.NDArray[Any], columns: npt.NDArray[np.int64], missing: float | str) -> npt.NDArray[Any]:
    """Return the values in some columns of each row, shape as `columns`, and `missing` where that is -1."""
    return np.where(columns < 0, missing, np.take_along_axis(values, np.maximum(columns, 0), axis=1))
