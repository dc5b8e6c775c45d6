"""The mathematics of explanations, against values that are known by other means."""

from itertools import combinations
from math import factorial

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.model_format.onnx_model import Rows
from serving.inference.shapley import Floats, Model, shapley

BUDGET = 8192
# Of the permutations that a small budget allows; the enumeration of the same games fits BUDGET.
SMALL = 400


def rows_of(count: int, features: int, seed: int = 3) -> Rows:
    return np.random.default_rng(seed).normal(size=(count, features)).astype(np.float32)


def textbook(model: Model, row: Rows, background: Rows) -> list[float]:
    """The definition, coalition by coalition."""
    features = range(len(row))

    def value(coalition: tuple[int, ...]) -> float:
        mixed = background.copy()
        mixed[:, list(coalition)] = row[list(coalition)]
        return float(model(mixed).mean())

    found = []
    for feature in features:
        others = [other for other in features if other != feature]
        total = 0.0
        for size in range(len(others) + 1):
            weight = factorial(size) * factorial(len(row) - size - 1) / factorial(len(row))
            for chosen in combinations(others, size):
                total += weight * (value((*chosen, feature)) - value(chosen))
        found.append(total)
    return found


def crooked(rows: Rows) -> Floats:
    """A function with interactions of every order and a jump."""
    x = rows.astype(np.float64)
    return np.sin(x).prod(axis=1) + x[:, 0] * x[:, -1] + np.where(x[:, 0] > 0.2, 1.5, 0.0) + x.sum(axis=1)


@pytest.mark.parametrize(
    ("features", "budget"), [(1, BUDGET), (5, BUDGET), (14, BUDGET), (14, 300), (40, 256)]
)
def test_of_a_linear_model_each_feature_contributes_its_weight_times_its_distance(
    features: int, budget: int
) -> None:
    weights = np.linspace(-2, 3, features)
    row, background = rows_of(1, features)[0], rows_of(32, features, seed=4)
    found = shapley(lambda rows: rows.astype(np.float64) @ weights + 0.5, row, background, budget)
    used = background[: found.background_rows].astype(np.float64)
    expected = weights * (row - used.mean(axis=0))
    np.testing.assert_allclose(found.contributions, expected, atol=1e-9)
    # However a walk goes, a feature gains the same: sampling has nothing to be wrong about.
    np.testing.assert_allclose(found.standard_errors, 0, atol=1e-9)
    assert found.base_value == pytest.approx(used.mean(axis=0) @ weights + 0.5)


def test_an_interaction_is_shared_as_the_formula_says() -> None:
    """Of f = x0 * x1 against one row of zeros both get half of the product, a third feature nothing."""

    def product(rows: Rows) -> Floats:
        return rows[:, 0].astype(np.float64) * rows[:, 1]

    row, zeros = np.array([3, 5, 7], dtype=np.float32), np.zeros((1, 3), dtype=np.float32)
    found = shapley(product, row, zeros, BUDGET)
    assert (found.method, found.base_value, found.prediction) == ("shapley_exact", 0.0, 15.0)
    assert found.contributions.tolist() == [7.5, 7.5, 0.0]
    # Against b: phi0 = (x0 - b0) * (x1 + b1) / 2, and phi1 the other way round, averaged over the rows.
    background = np.array([[1, 1, 0], [0, -2, 4]], dtype=np.float32)
    found = shapley(product, row, background, BUDGET)
    assert found.contributions == pytest.approx([(2 * 6 + 3 * 3) / 2 / 2, (4 * 4 + 7 * 3) / 2 / 2, 0])
    assert found.base_value == pytest.approx(0.5)


@pytest.mark.parametrize("features", [1, 2, 4, 6])
def test_enumeration_is_the_definition(features: int) -> None:
    row, background = rows_of(1, features)[0], rows_of(7, features, seed=4)
    found = shapley(crooked, row, background, BUDGET)
    assert found.method == "shapley_exact"
    assert found.contributions == pytest.approx(textbook(crooked, row, background))
    assert found.rows_evaluated == 7 * 2**features


def test_sampling_is_as_close_to_the_definition_as_it_says() -> None:
    row, background = rows_of(1, 6)[0], rows_of(8, 6, seed=4)
    exact = shapley(crooked, row, background, BUDGET)
    few, many = (shapley(crooked, row, background, budget) for budget in (200, 500))
    for found in (few, many):
        assert found.method == "shapley_permutations"
        off = np.abs(found.contributions - exact.contributions)
        assert (off < 4 * found.standard_errors + 1e-9).all()
    assert (many.standard_errors.sum()) < few.standard_errors.sum()


def test_the_standard_error_is_the_spread_over_other_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    row, background = rows_of(1, 6)[0], rows_of(8, 6, seed=4)
    estimates, errors = [], []
    for seed in range(200):
        monkeypatch.setattr("serving.inference.shapley._SEED", seed)
        found = shapley(crooked, row, background, SMALL)
        estimates.append(found.contributions)
        errors.append(found.standard_errors**2)
    spread, said = np.std(estimates, axis=0), np.sqrt(np.mean(errors, axis=0))
    np.testing.assert_allclose(said, spread, rtol=0.25)


@settings(max_examples=60, deadline=None)
@given(
    features=st.integers(1, 24),
    count=st.integers(1, 40),
    budget=st.integers(256, 3000),
    seed=st.integers(0, 2**32 - 1),
)
def test_contributions_add_up_whatever_the_size(features: int, count: int, budget: int, seed: int) -> None:
    row, background = rows_of(1, features, seed)[0], rows_of(count, features, seed + 1)
    calls = []

    def counted(rows: Rows) -> Floats:
        calls.append(len(rows))
        assert rows.dtype == np.float32
        return crooked(rows)

    found = shapley(counted, row, background, budget)
    assert found.base_value + found.contributions.sum() == pytest.approx(found.prediction, abs=1e-9)
    assert found.prediction == pytest.approx(float(crooked(row[None])[0]))
    used = background[: found.background_rows]
    assert found.base_value == pytest.approx(float(crooked(used).mean()))
    assert calls == [found.rows_evaluated]
    assert found.rows_evaluated <= budget
    again = shapley(crooked, row, background, budget)
    assert again.contributions.tolist() == found.contributions.tolist()


@pytest.mark.parametrize("features", [3, 14])
def test_what_the_model_ignores_or_the_background_shares_contributes_nothing(features: int) -> None:
    row, background = rows_of(1, features)[0], rows_of(16, features, seed=4)
    background[:, 1] = row[1]

    def ignores_the_last(rows: Rows) -> Floats:
        return crooked(rows[:, :-1])

    found = shapley(ignores_the_last, row, background, BUDGET)
    assert (found.contributions[1], found.contributions[-1]) == (0.0, 0.0)
    assert (found.standard_errors[1], found.standard_errors[-1]) == (0.0, 0.0)
    assert (np.abs(found.contributions[[0]]) > 0).all()


@pytest.mark.parametrize("budget", [BUDGET, 700])
def test_equal_features_contribute_equally(budget: int) -> None:
    def symmetric(rows: Rows) -> npt.NDArray[np.float64]:
        return np.asarray(rows.astype(np.float64).prod(axis=1))

    row = np.full(8, 2.0, dtype=np.float32)
    background = np.ones((5, 8), dtype=np.float32)
    found = shapley(symmetric, row, background, budget)
    off = np.abs(found.contributions - (2.0**8 - 1) / 8)
    assert (off <= 4 * found.standard_errors + 1e-9).all()


def test_more_features_than_the_budget_has_rows_use_one_background_row() -> None:
    row, background = rows_of(1, 300)[0], rows_of(32, 300, seed=4)
    found = shapley(lambda rows: rows.astype(np.float64).sum(axis=1), row, background, 256)
    assert (found.background_rows, found.rows_evaluated) == (1, 2 + 4 * 299)
    assert found.base_value + found.contributions.sum() == pytest.approx(found.prediction)
