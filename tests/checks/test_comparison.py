"""Challenger against incumbent, real ONNX models on real tracks: what is worse beyond noise is refused."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import balanced_accuracy_score, log_loss, r2_score
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from catalog.spec import ModelSpec
from checks.builtin.context import CheckContext
from checks.comparison import INCUMBENT_COMPARISON, IncumbentModel
from checks.comparison import compare as compare_in
from checks.gate import run_gate
from registry.evidence.verdict import CheckOutcome, Incumbent
from registry.model_format.onnx_model import OnnxModel
from tests.checks.support.sample_models import Rows, Small, StandIn, trained

INCUMBENT = Incumbent(version=7, digest="sha256:7")
INTERVAL = re.compile(r"95 % interval ([+-]\S+) to ([+-]\S+);")


def rival(model: OnnxModel) -> IncumbentModel:
    return IncumbentModel(INCUMBENT, lambda: model)


def compare(
    spec: ModelSpec, held_out: pd.DataFrame, challenger: OnnxModel, incumbent: IncumbentModel
) -> CheckOutcome:
    return compare_in(CheckContext(spec, held_out, held_out, challenger), incumbent)


def allowing(spec: ModelSpec, worse: float) -> ModelSpec:
    return spec.model_copy(update={"gate": spec.gate.model_copy(update={"max_worse": worse})})


def interval_of(outcome: CheckOutcome) -> tuple[float, float]:
    found = INTERVAL.search(outcome.reason)
    assert found, outcome.reason
    return float(found[1]), float(found[2])


@pytest.fixture(scope="module")
def linear(energy: ModelSpec, energy_rows: Rows) -> OnnxModel:
    return trained(energy, LinearRegression(), energy_rows[0])


@pytest.fixture(scope="module")
def stump(energy: ModelSpec, energy_rows: Rows) -> OnnxModel:
    return trained(energy, DecisionTreeRegressor(max_depth=1), energy_rows[0])


@pytest.fixture(scope="module")
def logistic(genre: ModelSpec, genre_rows: Rows) -> OnnxModel:
    return trained(genre, LogisticRegression(max_iter=200, class_weight="balanced"), genre_rows[0])


@pytest.fixture(scope="module")
def guesser(genre: ModelSpec, genre_rows: Rows) -> OnnxModel:
    return trained(genre, DecisionTreeClassifier(max_depth=1), genre_rows[0])


def test_worse_regression_is_refused(
    energy: ModelSpec, energy_rows: Rows, linear: OnnxModel, stump: OnnxModel
) -> None:
    outcome = compare(energy, energy_rows[1], stump, rival(linear))
    assert (outcome.check, outcome.status, outcome.required) == (INCUMBENT_COMPARISON, "failed", True)
    low, high = interval_of(outcome)
    assert outcome.value is not None
    assert low < outcome.value < high < 0
    assert outcome.reason.endswith("worse beyond noise")


def test_better_regression_passes_and_both_scores_are_said(
    energy: ModelSpec, energy_rows: Rows, linear: OnnxModel, stump: OnnxModel
) -> None:
    held_out = energy_rows[1]
    outcome = compare(energy, held_out, linear, rival(stump))
    assert outcome.status == "passed"
    low, high = interval_of(outcome)
    assert 0 < low < high
    matrix = held_out[list(energy.features)].to_numpy(np.float32)
    ours, theirs = (r2_score(held_out["energy"], m.predict(matrix)[0]) for m in (linear, stump))
    assert outcome.value == pytest.approx(ours - theirs, abs=1e-9)
    assert outcome.reason.startswith(
        f"r2 {ours:.4g} against {theirs:.4g} of version 7 in Production, "
        f"on the same {len(held_out):,} held-out rows"
    )
    assert outcome.reason.endswith("not worse beyond noise")


def test_worse_classification_is_refused(
    genre: ModelSpec, genre_rows: Rows, logistic: OnnxModel, guesser: OnnxModel
) -> None:
    held_out = genre_rows[1]
    outcome = compare(genre, held_out, guesser, rival(logistic))
    assert outcome.status == "failed"
    assert interval_of(outcome)[1] < 0
    matrix = held_out[list(genre.features)].to_numpy(np.float32)
    ours, theirs = (
        balanced_accuracy_score(held_out["track_genre"], m.predict(matrix)[0].astype(str))
        for m in (guesser, logistic)
    )
    assert outcome.value == pytest.approx(ours - theirs, abs=1e-9)
    assert f"balanced_accuracy {ours:.4g} against {theirs:.4g} of version 7" in outcome.reason
    assert compare(genre, held_out, logistic, rival(guesser)).status == "passed"


def test_a_metric_of_probabilities_is_compared_too(
    genre: ModelSpec, genre_rows: Rows, logistic: OnnxModel, guesser: OnnxModel
) -> None:
    spec, held_out = genre.model_copy(update={"metric": "neg_log_loss"}), genre_rows[1]
    outcome = compare(spec, held_out, guesser, rival(logistic))
    assert outcome.status == "failed"
    matrix = held_out[list(genre.features)].to_numpy(np.float32)
    losses = []
    for model in (guesser, logistic):
        probabilities = model.predict(matrix)[1]
        assert probabilities is not None
        losses.append(log_loss(held_out["track_genre"], probabilities, labels=model.description.classes))
    assert outcome.value == pytest.approx(losses[1] - losses[0], rel=1e-4)


@pytest.mark.parametrize("kind", ["regression", "classification"])
def test_equal_model_passes(kind: str, request: pytest.FixtureRequest) -> None:
    name, model = ("energy", "linear") if kind == "regression" else ("genre", "logistic")
    spec, rows, model = (request.getfixturevalue(n) for n in (name, f"{name}_rows", model))
    outcome = compare(spec, rows[1], model, rival(model))
    assert (outcome.status, outcome.value) == ("passed", 0)
    assert interval_of(outcome) == (0, 0)


def test_difference_within_noise_passes(energy: ModelSpec, energy_rows: Rows) -> None:
    """The same model by another roll of the dice: one of two is a little worse, and that says nothing."""
    train, held_out = energy_rows
    first, second = (
        trained(energy, GradientBoostingRegressor(n_estimators=40, subsample=0.5, random_state=seed), train)
        for seed in (1, 2)
    )
    outcomes = (
        compare(energy, held_out, first, rival(second)),
        compare(energy, held_out, second, rival(first)),
    )
    values = [outcome.value or 0.0 for outcome in outcomes]
    assert values[0] == pytest.approx(-values[1])
    assert min(values) < 0
    assert [outcome.status for outcome in outcomes] == ["passed", "passed"]
    assert all(low < 0 < high for low, high in map(interval_of, outcomes))


def test_what_is_worse_by_no_more_than_is_allowed_passes(
    energy: ModelSpec, energy_rows: Rows, linear: OnnxModel, stump: OnnxModel
) -> None:
    refused = compare(energy, energy_rows[1], stump, rival(linear))
    _, high = interval_of(refused)
    # The whole interval must be below what is allowed.
    outcome = compare(allowing(energy, -high + 0.01), energy_rows[1], stump, rival(linear))
    assert outcome.status == "passed"
    assert outcome.value == refused.value
    assert outcome.reason.endswith(f"not worse by more than {-high + 0.01:g} beyond noise")
    still = compare(allowing(energy, -high - 0.01), energy_rows[1], stump, rival(linear))
    assert still.status == "failed"
    assert still.reason.endswith(f"; worse by more than {-high - 0.01:g} beyond noise")


def test_same_inputs_give_the_same_interval(
    energy: ModelSpec, energy_rows: Rows, linear: OnnxModel, stump: OnnxModel
) -> None:
    first = compare(energy, energy_rows[1], stump, rival(linear))
    assert compare(energy, energy_rows[1].copy(), stump, rival(linear)) == first


def test_incumbent_that_reads_other_columns_of_the_rows_is_compared(
    energy: ModelSpec, energy_rows: Rows, linear: OnnxModel
) -> None:
    """A new declaration may drop or reorder features; the incumbent still finds its own by name."""
    train, held_out = energy_rows
    turned = energy.model_copy(update={"features": energy.features[::-1]})
    outcome = compare(energy, held_out, linear, rival(trained(turned, LinearRegression(), train)))
    assert outcome.status == "passed"
    assert outcome.value == pytest.approx(0, abs=1e-4)


def test_incumbent_that_cannot_predict_these_rows_is_an_error(
    energy: ModelSpec, genre: ModelSpec, energy_rows: Rows, linear: OnnxModel, logistic: OnnxModel
) -> None:
    train, held_out = energy_rows
    wider = energy.model_copy(update={"features": (*energy.features, "shoe_size")})
    shod = trained(wider, LinearRegression(), train.assign(shoe_size=np.arange(len(train)) % 7))
    outcome = compare(energy, held_out, linear, rival(shod))
    assert (outcome.status, outcome.value, outcome.required) == ("error", None, True)
    assert "could not be compared with version 7 in Production" in outcome.reason
    assert "it reads shoe_size, which these rows do not have" in outcome.reason

    # One that reads the answer itself would win every comparison.
    leaking = energy.model_copy(update={"features": (*energy.features, "energy")})
    outcome = compare(energy, held_out, linear, rival(trained(leaking, LinearRegression(), train)))
    assert outcome.status == "error"
    assert "it reads energy" in outcome.reason

    outcome = compare(energy, held_out, linear, rival(logistic))
    assert outcome.status == "error"
    assert "it is a classification model, this is a regression" in outcome.reason


def test_score_that_is_no_number_is_an_error(
    energy: ModelSpec, energy_rows: Rows, linear: OnnxModel, stump: OnnxModel
) -> None:
    one = energy_rows[1].head(1)  # r2 of a single row is not defined
    outcome = compare(energy, one, linear, rival(stump))
    assert (outcome.status, outcome.value) == ("error", None)
    assert "is no number" in outcome.reason


ALL_PASSED = """cat > $3/outcomes.json <<'END'
{"outcomes": [{"check": "First", "status": "passed", "reason": "fine"},
              {"check": "Second", "status": "passed", "reason": "fine"}]}
END"""


def spread(rows: Rows) -> pd.DataFrame:
    """Rows whose target depends on both features."""
    frame = pd.concat(rows, ignore_index=True)
    frame = pd.concat([frame.assign(valence=frame["valence"] + i / 50) for i in range(10)], ignore_index=True)
    return frame.assign(energy=frame["danceability"] + frame["valence"] ** 2)


@pytest.mark.parametrize("better", ["challenger", "incumbent", "unreadable"])
def test_verdict_rests_on_the_comparison(
    small: Small, stand_in: StandIn, tmp_path: Path, better: str
) -> None:
    """All other checks pass: only the version in Production stands in the way."""
    spec, rows, _ = small
    stand_in(ALL_PASSED)
    frame = spread(rows)
    good = trained(spec, GradientBoostingRegressor(random_state=1), frame)
    bad = trained(spec, GradientBoostingRegressor(n_estimators=1, random_state=1), frame)
    old = spec.model_copy(update={"features": ("danceability", "shoe_size")})
    unreadable = trained(old, LinearRegression(), frame.assign(shoe_size=frame["valence"]))
    challenger, other = {
        "challenger": (good, bad),
        "incumbent": (bad, good),
        "unreadable": (good, unreadable),
    }[better]
    verdict = run_gate(
        spec,
        train=frame.iloc[::2],
        test=frame.iloc[1::2],
        model=challenger,
        report_dir=tmp_path / "gate",
        incumbent=rival(other),
    )
    assert verdict.passed is (better == "challenger")
    assert verdict.incumbent == INCUMBENT
    assert [o.check for o in verdict.outcomes] == ["First", "Second", INCUMBENT_COMPARISON]
    assert [o.check for o in verdict.refusals] == ([] if better == "challenger" else [INCUMBENT_COMPARISON])
