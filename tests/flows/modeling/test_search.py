"""The search: as many trials as asked for, by training rows alone, the same each time; no bad spaces."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError
from rich.console import Console

from catalog.loader import get_model
from catalog.spec import Candidate, Choice, FloatRange, IntRange, ModelSpec
from checks.data.splits import Rows, SplitRows
from flows.errors import TrainingError
from flows.modeling import candidates, search
from flows.orchestration import progress
from flows.training import steps

FOLDS = 3


def candidate(name: str = "toy", **params: Any) -> Candidate:
    return Candidate(
        name=name,
        estimator="sklearn.linear_model.Ridge",
        params={"alpha": 9.0, **params},
        search={"alpha": FloatRange(low=0, high=10)},
    )


def declared(
    declared_candidate: Candidate, value: float, seconds: float = 3.0, state: search.State = "declared"
) -> search.Trial:
    return search.Trial(declared_candidate, (candidates.FoldScore(value),) * FOLDS, state, seconds)


def toy(proposed: Candidate, _: int) -> candidates.FoldScore:
    """Best at alpha 2."""
    return candidates.FoldScore(1 - abs(proposed.params["alpha"] - 2) / 10)


def run(trials: int, seed: int = 7, **options: Any) -> list[search.Trial]:
    first = options.pop("declared", [declared(candidate(), 0.3)])
    return search.search(first, options.pop("score", toy), trials=trials, seed=seed, **options)


def test_a_better_point_than_the_declared_one_is_found() -> None:
    start = declared(candidate(), 0.3)
    best = search.best_trial([start, *run(40)])
    assert best.state == "complete"
    assert best.mean > 0.95
    assert best.candidate.params["alpha"] == pytest.approx(2, abs=0.5)
    assert best.candidate.name == "toy"


@pytest.mark.parametrize("trials", [1, 2, 7, 30])
def test_there_are_as_many_trials_as_were_asked_for(trials: int) -> None:
    counts = list[int]()
    assert len(run(trials, notify=lambda count, _: counts.append(count))) == trials
    assert counts == list(range(1, trials + 1))


def test_what_was_pruned_is_never_chosen() -> None:
    pruned = search.Trial(candidate(), (candidates.FoldScore(9.9),), "pruned", 1.0)
    start = declared(candidate(), 0.3)
    assert search.best_trial([start, pruned]) is start


@pytest.mark.parametrize("slow", [0.0, 0.02])
def test_neither_time_nor_load_has_a_say(slow: float) -> None:
    def score(proposed: Candidate, number: int) -> candidates.FoldScore:
        time.sleep(slow)
        return toy(proposed, number)

    points = [(trial.candidate.params["alpha"], trial.state, trial.mean) for trial in run(9, score=score)]
    assert points == [(trial.candidate.params["alpha"], trial.state, trial.mean) for trial in run(9)]


@pytest.mark.parametrize(
    ("scores", "better"),
    [
        ((0.6, 0.6, 0.6), True),
        ((0.51, 0.52, 0.515), True),
        ((0.9, 0.4, 0.5), False),
        ((0.5, 0.5, 0.5), False),
        ((0.4, 0.4, 0.4), False),
    ],
    ids=["better", "little but sure", "luck on one fold", "equal", "worse"],
)
def test_a_trial_must_be_better_than_the_folds_are_noisy(scores: tuple[float, ...], better: bool) -> None:
    trial = search.Trial(candidate(), tuple(map(candidates.FoldScore, scores)), "complete", 1.0)
    assert search.is_better(trial, declared(candidate(), 0.5)) is better


@pytest.mark.parametrize(
    ("trials", "spaces"), [(0, {"alpha": FloatRange(low=0, high=10)}), (9, {})], ids=["trials", "space"]
)
def test_without_trials_or_a_space_nothing_is_tried(trials: int, spaces: Any) -> None:
    plain = candidate().model_copy(update={"search": spaces})
    assert run(trials, declared=[declared(plain, 0.3)]) == []


def test_the_seed_drives_what_is_tried() -> None:
    def points(seed: int) -> list[float]:
        return [trial.candidate.params["alpha"] for trial in run(13, seed=seed)]

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

    def score(proposed: Candidate, _: int) -> candidates.FoldScore:
        return candidates.FoldScore(0.5)

    tried = search.search([declared(kinds, 0.5), declared(other, 0.5)], score, trials=50, seed=7)
    assert {trial.candidate.name for trial in tried} == {"kinds", "other"}
    points = [trial.candidate.params for trial in tried if trial.candidate.name == "kinds"]
    assert {point["shape"] for point in points} == {(8,), (8, 8), None}
    assert all(point["depth"] in range(2, 6) and 0.01 <= point["rate"] <= 1 for point in points)
    assert all(isinstance(point["depth"], int) and point["seed"] == 5 for point in points)


def test_what_is_plainly_worse_is_pruned_after_a_fold() -> None:
    def score(proposed: Candidate, _: int) -> candidates.FoldScore:
        return candidates.FoldScore(1.0 if proposed.params["alpha"] < 1 else -proposed.params["alpha"])

    tried = search.search([declared(candidate(), 0.3)], score, trials=40, seed=7)
    states = {trial.state for trial in tried}
    assert "pruned" in states
    assert all(len(trial.folds) < FOLDS for trial in tried if trial.state == "pruned")


def test_a_score_that_is_no_number_is_not_the_best() -> None:
    def score(proposed: Candidate, _: int) -> candidates.FoldScore:
        return candidates.FoldScore(float("nan"))

    start = declared(candidate(), 0.3)
    tried = search.search([start], score, trials=6, seed=7)
    assert len(tried) > 3
    assert search.best_trial([start, *tried]) is start


def test_the_table_has_a_line_for_every_trial() -> None:
    spec = get_model("energy")
    tried = [declared(candidate(), 0.3), *run(7)]
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


def sides(random: np.random.Generator) -> tuple[ModelSpec, SplitRows]:
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
    side = Rows(rows, others, "energy")
    return spec, SplitRows(side, side, folds)


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The step without Prefect's server."""
    lines: list[str] = []

    class Log:
        def info(self, line: str) -> None:
            lines.append(line)

        def log(self, _: int, line: str, *values: Any) -> None:
            lines.append(line % values)

    monkeypatch.setattr("flows.training.steps.get_run_logger", Log)
    return lines


def test_the_step_puts_a_better_point_in_the_place_of_the_declared_one(
    logged: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GREENROOM_SEARCH_TRIALS", "20")
    spec, data = sides(np.random.default_rng(0))
    (tree,) = spec.candidates
    first = candidates.fit(spec, tree, data.train, data.folds)
    (better,), tried = steps.search_further.fn(spec, [first], data)
    assert better.cv_mean > first.cv_mean
    assert better.candidate.params["max_depth"] > 1
    assert better.pipeline[-1].max_depth == better.candidate.params["max_depth"]
    np.testing.assert_allclose(better.pipeline.predict(data.train.features), data.train.target, atol=0.13)
    assert tried[0].state == "declared"
    assert any("tree: r2" in line for line in logged)
    assert any(" of 20 trials; " in line for line in logged)


def test_with_a_budget_of_nothing_the_step_changes_nothing(
    logged: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GREENROOM_SEARCH_TRIALS", "0")
    spec, data = sides(np.random.default_rng(0))
    fitted = [candidates.fit(spec, spec.candidates[0], data.train, data.folds)]
    after, tried = steps.search_further.fn(spec, fitted, data)
    assert after is fitted
    assert [trial.state for trial in tried] == ["declared"]
    assert logged == []


def test_a_point_that_scikit_learn_refuses_is_told_with_its_space(
    logged: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GREENROOM_SEARCH_TRIALS", "20")
    spec, data = sides(np.random.default_rng(0))
    wrong = spec.candidates[0].model_copy(update={"search": {"max_depth": Choice(values=(1, -3, -4))}})
    spec = spec.model_copy(update={"candidates": (wrong,)})
    fitted = [candidates.fit(spec, wrong, data.train, data.folds)]
    with pytest.raises(TrainingError, match=r"tree cannot be fitted with .*its `search` allows.*narrower"):
        steps.search_further.fn(spec, fitted, data)


def test_negative_budget_is_refused(logged: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GREENROOM_SEARCH_TRIALS", "-1")
    spec, data = sides(np.random.default_rng(0))
    with pytest.raises(ValidationError, match="search_trials"):
        steps.search_further.fn(spec, [], data)


def test_progress_is_a_line_for_each_quarter_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    logged: list[str] = []
    with progress.budget("energy search", 20, logged.append) as advance:
        for trial in range(21):
            advance(trial, f"{trial} done")
    assert logged == [f"energy search: {at} of 20 trials; {at} done" for at in (5, 10, 15, 20)]
    assert capsys.readouterr().out.count("energy search") == 4


def test_progress_is_a_bar_on_a_terminal_and_lines_in_the_log(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "Console", lambda: Console(force_terminal=True, force_interactive=True))
    logged: list[str] = []
    with progress.budget("energy search", 20, logged.append) as advance:
        advance(10, "best r2 0.750")
        advance(20, "best r2 0.760")
    assert logged == [
        "energy search: 10 of 20 trials; best r2 0.750",
        "energy search: 20 of 20 trials; best r2 0.760",
    ]
    assert "━" in capsys.readouterr().out
