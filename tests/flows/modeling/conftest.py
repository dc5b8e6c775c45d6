"""Samples of the real tracks, for each kind of model."""

import pandas as pd
import pytest

from catalog.loader import get_model
from tests.flows.support.samples import CLUSTERS, SIMILAR, Sample, sample


@pytest.fixture(scope="module")
def samples() -> dict[str, Sample]:
    return {name: Sample(get_model(name)) for name in ("genre", "energy")}


@pytest.fixture(scope="module")
def genre(samples: dict[str, Sample]) -> Sample:
    return samples["genre"]


@pytest.fixture(scope="module")
def energy(samples: dict[str, Sample]) -> Sample:
    return samples["energy"]


@pytest.fixture(scope="module")
def tracks() -> pd.DataFrame:
    return sample(SIMILAR)


@pytest.fixture(scope="module")
def sounds() -> pd.DataFrame:
    return sample(CLUSTERS)
