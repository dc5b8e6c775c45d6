"""The real tracks, and a dataset of three columns."""

import pandas as pd
import pytest
from pydantic import BaseModel, Field

from catalog.loader import get_model
from catalog.spec import Dataset, ModelSpec
from checks.data import sources, validation
from checks.data.cleaning import clean


@pytest.fixture(scope="module")
def genre() -> ModelSpec:
    return get_model("genre")


@pytest.fixture(scope="module")
def tracks(genre: ModelSpec) -> pd.DataFrame:
    """The real table, validated and cleaned."""
    table = sources.read_table(genre.dataset)
    valid, _ = validation.validate(table, genre.dataset)
    return clean(valid, genre, read=len(table))[0]


class Row(BaseModel):
    """A contract."""

    name: str
    size: float = Field(gt=0)


@pytest.fixture
def dataset() -> Dataset:
    return Dataset(name="things", description="-", source="-", row=Row, features=Row, max_rejected=0.5)
