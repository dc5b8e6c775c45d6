"""The search: it stops at its budget, finds what is better by training rows alone, refuses bad spaces."""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError
from rich.console import Console

from catalog.loader import get_model
from catalog.spec import Candidate, Choice, FloatRange, IntRange, ModelSpec
from flows.errors import TrainingError
from flows.modeling import candidates, search
from flows.orchestration import progress
from flows.training import tasks
from flows.training.tasks import Rows

FOLDS = 3


class Clock:
    """Time that passes only when work is done."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def candidate(name: str = "toy", **params: Any) -> Candidate:
    return Candidate(
        name=name,
        estimator="sklearn.linear_model.Ridge",
        params={"alpha": 9.0, **params},
        search={"alpha": FloatRange(low=0, high=10)},
    )


def declared(
    one: Candidate, value: float, seconds: float = 3.0, state: search.State = "declared"
) -> search.Tried:
    return search.Tried(one, (candidates.Scored(value),) * FOLDS, state, seconds)


def toy(clock: Clock, seconds: float = 1.0) -> Callable[[Candidate, int], candidates.Scored]:
    """Best at alpha 2; each fold takes as many seconds."""

    def score(one: Candidate, _: int) -> candidates.Scored:
        clock.now += seconds
        return candidates.Scored(1 - abs(one.params["alpha"] - 2) / 10)

    return score


def run(seconds: float, cost: float = 1.0, seed: int = 7, **options: Any) -> list[search.Tried]:
    clock = Clock()
    first = options.pop("declared", [declared(candidate(), 0.3, FOLDS * cost)])
    score = options.pop("score", toy(clock, cost))
    return search.search(first, score, seconds=seconds, seed=seed, clock=clock, **options)


def test_a_better_point_than_the_declared_one_is_found() -> None:
    start = declared(candidate(), 0.3)
    found = search.best([start, *run(120)])
    assert found.state == "complete"
    assert found.mean > 0.95
    assert found.candidate.params["alpha"] == pytest.approx(2, abs=0.5)
    assert found.candidate.name == "toy"


@pytest.mark.parametrize("seconds", [1, 2, 3, 4, 5, 10, 30.5])
def test_no_fold_is_begun_that_would_end_after_the_budget(seconds: float) -> None:
    clock = Clock()
    tried = search.search([declared(candidate(), 0.3)], toy(clock), seconds=seconds, seed=7, clock=clock)
    folds = sum(len(one.folds) for one in tried)
    assert folds == int(seconds), "all of the budget, and not a fold more"
    assert clock.now - 1000 <= seconds
    assert [one.state for one in tried].count("cut") <= 1


def test_a_trial_that_is_cut_is_told_and_never_chosen() -> None:
    tried = run(5)
    assert (tried[-1].state, len(tried[-1].folds)) == ("cut", 2)
    perfect = search.Tried(candidate(), (candidates.Scored(9.9),), "cut", 1.0)
    given_up = search.Tried(candidate(), (candidates.Scored(9.9),), "given up", 1.0)
    start = declared(candidate(), 0.3)
    assert search.best([start, perfect, given_up]) is start


def test_a_fold_slower_than_ever_is_what_the_next_ones_are_expected_to_take() -> None:
    clock = Clock()
    costs = iter([1.0, 8.0])

    def score(one: Candidate, number: int) -> candidates.Scored:
        return toy(clock, next(costs))(one, number)

    tried = search.search([declared(candidate(), 0.3)], score, seconds=15, seed=7, clock=clock)
    assert [(one.state, len(one.folds)) for one in tried] == [("cut", 2)]


@pytest.mark.parametrize(
    ("seconds", "spaces"), [(0, {"alpha": FloatRange(low=0, high=10)}), (60, {})], ids=["budget", "space"]
)
def test_without_a_budget_or_a_space_nothing_is_tried(seconds: float, spaces: Any) -> None:
    plain = candidate().model_copy(update={"search": spaces})
    assert run(seconds, declared=[declared(plain, 0.3)]) == []


def test_the_seed_drives_what_is_tried() -> None:
    def points(seed: int) -> list[float]:
        return [one.candidate.params["alpha"] for one in run(40, seed=seed)]

    assert points(3) == points(3) != points(4)


def test_every_kind_of_space_is_searched_inside_its_ends_and_other_parameters_stay() -> None:
    kinds = Candidate(
        name="kinds",
        estimator="x.Y",
        params={"shape": (8, 8), "depth": 3, "rate": 0.1, "seed": 5},
        search={
            "shape": Choice(values=((8,), (8, 8), None)),
            "depth": IntRange(low=2, high=5, log=True),
            "rate": FloatRange(low=0.01, high=1, log=True),
        },
    )
    other = candidate("other")
    clock = Clock()

    def score(one: Candidate, _: int) -> candidates.Scored:
        clock.now += 1
        return candidates.Scored(0.5)

    tried = search.search(
        [declared(kinds, 0.5), declared(other, 0.5)], score, seconds=150, seed=7, clock=clock
    )
    assert {one.candidate.name for one in tried} == {"kinds", "other"}
    points = [one.candidate.params for one in tried if one.candidate.name == "kinds"]
    assert {point["shape"] for point in points} == {(8,), (8, 8), None}
    assert all(point["depth"] in range(2, 6) and 0.01 <= point["rate"] <= 1 for point in points)
    assert all(isinstance(point["depth"], int) and point["seed"] == 5 for point in points)


def test_what_is_plainly_worse_is_given_up_after_a_fold() -> None:
    clock = Clock()

    def score(one: Candidate, _: int) -> candidates.Scored:
        clock.now += 1
        return candidates.Scored(1.0 if one.params["alpha"] < 1 else -one.params["alpha"])

    tried = search.search([declared(candidate(), 0.3)], score, seconds=90, seed=7, clock=clock)
    states = {one.state for one in tried}
    assert "given up" in states
    assert all(len(one.folds) < FOLDS for one in tried if one.state == "given up")


def test_a_score_that_is_no_number_is_not_the_best() -> None:
    clock = Clock()

    def score(one: Candidate, _: int) -> candidates.Scored:
        clock.now += 1
        return candidates.Scored(float("nan"))

    start = declared(candidate(), 0.3)
    tried = search.search([start], score, seconds=20, seed=7, clock=clock)
    assert len(tried) > 3
    assert search.best([start, *tried]) is start


def test_the_table_has_a_line_for_every_trial() -> None:
    spec = get_model("energy")
    tried = [declared(candidate(), 0.3), *run(20)]
    table = search.table(spec, tried)
    assert len(table) == len(tried)
    assert table["state"][0] == "declared"
    assert table["cv_r2"][0] == pytest.approx(0.3)
    assert table["params"][0] == "alpha=9.0"


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: IntRange(low=5, high=5), "from a lower to a higher number, not from 5 to 5"),
        (lambda: FloatRange(low=0, high=1, log=True), "begins above 0, not at 0"),
        (lambda: FloatRange(low=0, high=float("inf")), "finite"),
        (lambda: Choice(values=(1,)), "at least 2"),
        (lambda: candidate(alpha=11.0), "its declared value 11.0 is not in it"),
        (
            lambda: Candidate(name="a", estimator="x.Y", search={"n": IntRange(low=1, high=2)}),
            "the candidate a searches 'n', which has no declared value",
        ),
        (
            lambda: Candidate(
                name="a", estimator="x.Y", params={"n": 1.5}, search={"n": IntRange(low=1, high=2)}
            ),
            "its declared value 1.5 is not in it",
        ),
    ],
)
def test_bad_space_is_refused(make: Callable[[], Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        make()


def misspelt() -> ModelSpec:
    wrong = Candidate(
        name="typo",
        estimator="sklearn.linear_model.Ridge",
        params={"alfa": 1.0},
        search={"alfa": FloatRange(low=0, high=1)},
    )
    return get_model("energy").model_copy(update={"candidates": (wrong,)})


def test_parameter_that_the_estimator_does_not_have_is_refused_before_anything_is_fitted() -> None:
    with pytest.raises(TrainingError, match=r"candidate typo cannot be made .*alfa.* named by `search`"):
        search.require_spaces(misspelt())
    for spec in map(get_model, ("genre", "energy", "popularity", "clusters", "similar")):
        search.require_spaces(spec)


def sides(random: np.random.Generator) -> tuple[ModelSpec, Rows, Any]:
    """A small regression whose best depth is not the declared one."""
    features = ("danceability", "valence")
    spec = get_model("energy").model_copy(
        update={
            "features": features,
            "one_hot": (),
            "skewed": (),
            "candidates": (
                Candidate(
                    name="tree",
                    estimator="sklearn.tree.DecisionTreeRegressor",
                    params={"max_depth": 1},
                    search={"max_depth": IntRange(low=1, high=6)},
                ),
            ),
        }
    )
    rows = pd.DataFrame(random.uniform(size=(240, 2)), columns=list(features))
    others = pd.DataFrame({"energy": np.floor(rows["danceability"] * 8) / 8})
    at = np.arange(240)
    folds = [(at[at % 3 != n], at[at % 3 == n]) for n in range(3)]
    return spec, Rows(rows, others, "energy"), folds


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The step without Prefect's server."""
    lines: list[str] = []

    class Log:
        def info(self, line: str) -> None:
            lines.append(line)

        def log(self, _: int, line: str, *values: Any) -> None:
            lines.append(line % values)

    monkeypatch.setattr("flows.training.tasks.get_run_logger", Log)
    return lines


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second for each look at the clock."""
    seconds = itertools.count()
    timed = functools.partial(search.search, clock=lambda: float(next(seconds)))
    monkeypatch.setattr("flows.training.tasks.search.search", timed)


def test_the_step_puts_a_better_point_in_the_place_of_the_declared_one(
    logged: list[str], counted: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GREENROOM_SEARCH_SECONDS", "60")
    spec, rows, folds = sides(np.random.default_rng(0))
    (tree,) = spec.candidates
    first = candidates.fit(spec, tree, rows.features, rows.target, folds)
    ((better, _),), tried = tasks.search_further.fn(spec, [(first, 0.01)], rows, folds)
    assert better.cv_mean > first.cv_mean
    assert better.candidate.params["max_depth"] > 1
    assert better.pipeline[-1].max_depth == better.candidate.params["max_depth"]
    np.testing.assert_allclose(better.pipeline.predict(rows.features), rows.target, atol=0.13)
    assert tried[0].state == "declared"
    assert any("tree: r2" in line for line in logged)
    assert any(" of 60 s; " in line for line in logged)


def test_with_a_budget_of_nothing_the_step_changes_nothing(
    logged: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GREENROOM_SEARCH_SECONDS", "0")
    spec, rows, folds = sides(np.random.default_rng(0))
    fitted = [(candidates.fit(spec, spec.candidates[0], rows.features, rows.target, folds), 0.01)]
    after, tried = tasks.search_further.fn(spec, fitted, rows, folds)
    assert after is fitted
    assert [one.state for one in tried] == ["declared"]
    assert logged == []


def test_a_point_that_scikit_learn_refuses_is_told_with_its_space(
    logged: list[str], counted: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GREENROOM_SEARCH_SECONDS", "60")
    spec, rows, folds = sides(np.random.default_rng(0))
    wrong = spec.candidates[0].model_copy(update={"search": {"max_depth": Choice(values=(1, -3, -4))}})
    spec = spec.model_copy(update={"candidates": (wrong,)})
    fitted = [(candidates.fit(spec, wrong, rows.features, rows.target, folds), 0.01)]
    with pytest.raises(TrainingError, match=r"tree cannot be fitted with .*its `search` allows.*narrower"):
        tasks.search_further.fn(spec, fitted, rows, folds)


def test_negative_budget_is_refused(logged: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GREENROOM_SEARCH_SECONDS", "-1")
    spec, rows, folds = sides(np.random.default_rng(0))
    with pytest.raises(ValidationError, match="search_seconds"):
        tasks.search_further.fn(spec, [], rows, folds)


def test_progress_is_a_line_for_each_quarter_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    logged: list[str] = []
    with progress.budget("energy search", 20, logged.append) as advance:
        for second in range(21):
            advance(second, f"{second} trials")
    assert logged == [f"energy search: {at} of 20 s; {at} trials" for at in (5, 10, 15, 20)]
    assert capsys.readouterr().out.count("energy search") == 4


def test_progress_is_a_bar_on_a_terminal_and_lines_in_the_log(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "Console", lambda: Console(force_terminal=True, force_interactive=True))
    logged: list[str] = []
    with progress.budget("energy search", 20, logged.append) as advance:
        advance(10, "best r2 0.750")
        advance(20, "best r2 0.760")
    assert logged == ["energy search: 10 of 20 s; best r2 0.750", "energy search: 20 of 20 s; best r2 0.760"]
    assert "━" in capsys.readouterr().out
