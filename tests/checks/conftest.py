"""Rows, models and stand-in workers that several of the gate's tests share."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import GradientBoostingRegressor, RandomForestClassifier, RandomForestRegressor

from catalog.loader import get_model
from catalog.policies import WEAK_SIGNAL_REGRESSION
from catalog.spec import Check, Dataset, GatePolicy, ModelSpec
from checks.gate import run_gate
from registry.evidence.verdict import CheckOutcome, Verdict
from registry.model_format.onnx_model import OnnxModel
from tests.checks.support.sample_models import Gate, Refusal, Rows, Small, StandIn, rows_of, trained


@pytest.fixture(scope="session")
def genre() -> ModelSpec:
    return get_model("genre")


@pytest.fixture(scope="session")
def energy() -> ModelSpec:
    return get_model("energy")


@pytest.fixture(scope="session")
def popularity() -> ModelSpec:
    return get_model("popularity").model_copy(update={"gate": WEAK_SIGNAL_REGRESSION})


@pytest.fixture(scope="session")
def genre_rows(genre: ModelSpec) -> Rows:
    return rows_of(genre)


@pytest.fixture(scope="session")
def energy_rows(energy: ModelSpec) -> Rows:
    return rows_of(energy)


@pytest.fixture(scope="session")
def genre_model(genre: ModelSpec, genre_rows: Rows) -> OnnxModel:
    forest = RandomForestClassifier(
        100, min_samples_leaf=10, class_weight="balanced", n_jobs=2, random_state=7
    )
    return trained(genre, forest, genre_rows[0])


@pytest.fixture(scope="session")
def energy_model(energy: ModelSpec, energy_rows: Rows) -> OnnxModel:
    return trained(energy, GradientBoostingRegressor(n_estimators=100, random_state=7), energy_rows[0])


@pytest.fixture(scope="session")
def popularity_rows(popularity: ModelSpec) -> Rows:
    return rows_of(popularity)


@pytest.fixture(scope="session")
def popularity_model(popularity: ModelSpec, popularity_rows: Rows) -> OnnxModel:
    forest = RandomForestRegressor(100, min_samples_leaf=50, max_features=0.2, n_jobs=2, random_state=7)
    return trained(popularity, forest, popularity_rows[0])


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    """Run the gate with only some checks of the model's policy, or with a policy of the test's own."""

    def run(
        spec: ModelSpec,
        rows: Rows,
        model: OnnxModel,
        *,
        only: tuple[str, ...] = (),
        policy: GatePolicy | None = None,
    ) -> Verdict:
        if only:
            chosen = tuple(check for check in spec.gate.checks if check.check in only)
            assert len(chosen) == len(only)
            policy = GatePolicy(checks=chosen)
        if policy:
            spec = spec.model_copy(update={"gate": policy})
        return run_gate(spec, train=rows[0], test=rows[1], model=model, report_dir=tmp_path / "report")

    return run


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """Put a shell script in the place of the checks' Python; `$3` is the job's folder."""

    def install(script: str) -> None:
        python = tmp_path / "python"
        python.write_text(f"#!/bin/sh\n{script}\n")
        python.chmod(0o755)
        monkeypatch.setenv("GREENROOM_CHECKS_PYTHON", str(python))

    return install


@pytest.fixture
def refusal() -> Refusal:
    """Return the one required check that refused."""

    def one(verdict: Verdict) -> CheckOutcome:
        assert not verdict.passed
        assert len(verdict.refusals) == 1, verdict.refusals
        return verdict.refusals[0]

    return one


@pytest.fixture
def constant_spec(energy: ModelSpec) -> ModelSpec:
    """Return a model over two columns and two required checks, for tests that need no DeepChecks."""
    dataset: Dataset = energy.dataset
    checks = tuple(
        Check(check=name, suite=suite, condition="some", why="a test")
        for name, suite in (("First", "data_integrity"), ("Second", "model_evaluation"))
    )
    return ModelSpec(
        **{
            **{name: getattr(energy, name) for name in ModelSpec.model_fields},
            "dataset": dataset,
            "features": ("danceability", "valence"),
            "one_hot": (),
            "skewed": (),
            "gate": GatePolicy(checks=checks),
        }
    )


@pytest.fixture
def small(constant_spec: ModelSpec) -> Small:
    """Return that model with ten rows on each side."""
    random = np.random.default_rng(0)
    frame = pd.DataFrame(random.random((20, 3)), columns=["danceability", "valence", "energy"])
    model = trained(constant_spec, GradientBoostingRegressor(n_estimators=1), frame)
    return constant_spec, (frame.head(10), frame.tail(10)), model


@pytest.fixture(autouse=True)
def _no_stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A local stack's settings must not reach these tests.
    monkeypatch.setenv("GREENROOM_HOME", str(tmp_path / "home"))
