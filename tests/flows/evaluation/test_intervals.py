"""Intervals, held against what statistics knows."""

import math
from typing import Any

import numpy as np
import pytest

from flows.evaluation import intervals


def means(values: np.ndarray[Any, Any], groups: Any, seed: int = 0) -> intervals.Interval:
    drawn = intervals.bootstrap_samples(len(values), groups, seed=seed)
    return intervals.interval(np.array([values.mean(), *(values[at].mean() for at in drawn)]))


def width(interval: intervals.Interval) -> float:
    assert interval.low is not None
    assert interval.high is not None
    return interval.high - interval.low


def test_the_interval_of_a_mean_is_the_one_of_the_normal_distribution() -> None:
    values = np.random.default_rng(0).normal(5, 2, 900)
    interval = means(values, None)
    assert interval.low is not None
    assert interval.low < 5 < interval.high  # type: ignore[operator]
    assert width(interval) == pytest.approx(2 * 1.96 * values.std() / 30, rel=0.15)


def test_rows_that_come_in_clumps_have_the_interval_of_their_clumps() -> None:
    """Thirty rows of each of thirty groups that are nearly one: as if there were thirty rows."""
    random = np.random.default_rng(1)
    of_group = random.normal(0, 1, 30)
    groups = np.repeat(np.arange(30), 30).astype(str)
    values = np.repeat(of_group, 30) + random.normal(0, 0.1, 900)
    naive, honest = means(values, None), means(values, groups)
    assert width(honest) > 4 * width(naive)
    assert width(honest) == pytest.approx(2 * 1.96 * of_group.std() / math.sqrt(30), rel=0.25)


def test_groups_that_say_nothing_make_it_no_wider() -> None:
    values = np.random.default_rng(2).normal(0, 1, 900)
    groups = np.arange(900) % 300
    assert width(means(values, groups)) == pytest.approx(width(means(values, None)), rel=0.25)


def test_intervals_of_groups_hold_the_truth_about_as_often_as_they_say() -> None:
    held = 0
    for seed in range(60):
        random = np.random.default_rng(seed)
        values = np.repeat(random.normal(3, 1, 60), 5) + random.normal(0, 0.3, 300)
        interval = means(values, np.repeat(np.arange(60), 5), seed)
        held += interval.low <= 3 <= interval.high  # type: ignore[operator]
    assert held >= 52


def test_every_draw_holds_whole_groups() -> None:
    groups = np.array(["a", "b", "b", "c", "c", "c"])
    for at in intervals.bootstrap_samples(6, groups, count=50):
        _, counts = np.unique(groups[at], return_counts=True)
        times = dict(zip(*np.unique(at, return_counts=True), strict=True))
        assert times.get(1, 0) == times.get(2, 0)
        assert times.get(3, 0) == times.get(4, 0) == times.get(5, 0)
        assert counts.sum() == len(at)


def test_draws_without_a_score_are_left_out_and_many_of_them_leave_no_interval() -> None:
    good = np.linspace(0, 1, 400)
    assert width(intervals.interval(np.r_[0.5, np.where(np.arange(400) < 10, np.nan, good)])) > 0.9
    lost = intervals.interval(np.r_[0.5, np.where(np.arange(400) < 100, np.nan, good)])
    assert (lost.value, lost.low, lost.high) == (0.5, None, None)
    assert str(lost) == "0.500"


def test_a_loss_is_reported_as_a_loss() -> None:
    negated = intervals.Interval(-0.3, -0.5, -0.2).negated()
    assert (negated.value, negated.low, negated.high) == (0.3, 0.2, 0.5)
