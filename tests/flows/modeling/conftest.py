"""Samples of the real tracks, for each kind of model."""

import pandas as pd
import pytest

from catalog.loader import get_model
from catalog.spec import ModelSpec
from flows.data import cleaning, sources
from tests.flows.modeling.test_similarity import CLUSTERS, SIMILAR
from tests.flows.support.samples import Sample


@pytest.fixture(scope="module")
def samples() -> dict[str, Sample]:
    return {name: Sample(get_model(name)) for name in ("genre", "energy")}


@pytest.fixture(scope="module")
def genre(samples: dict[str, Sample]) -> Sample:
    return samples["genre"]


@pytest.fixture(scope="module")
def energy(samples: dict[str, Sample]) -> Sample:
    return samples["energy"]


def sample(spec: ModelSpec, count: int = 700) -> pd.DataFrame:
    """Some rows, with the columns of the declaration."""
    table = sources.read_table(spec.dataset)
    rows = cleaning.clean(table, spec, read=len(table))[0].sample(count, random_state=1)
    others = rows[[name for name in spec.columns if name not in spec.features]].astype(str)
    return cleaning.features(rows, spec).join(others).reset_index(drop=True)


@pytest.fixture(scope="module")
def tracks() -> pd.DataFrame:
    return sample(SIMILAR)


@pytest.fixture(scope="module")
def sounds() -> pd.DataFrame:
    return sample(CLUSTERS)
