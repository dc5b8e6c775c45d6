"""What a similarity model finds among: the things of its index, by id, with the features that they have.

It travels in the model's file (metadata `greenroom.items`), in the order of the graph's index, so that a
neighbour's place there is a thing, and a thing can be asked for by its id. Whoever may read the file may
read it.
"""

import binascii
from base64 import b64decode, b64encode
from functools import cached_property
from typing import Annotated, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

Metric = Literal["euclidean", "cosine"]


class Items(BaseModel):
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
