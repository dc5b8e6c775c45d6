"""`make bench-drift`: monitoring's false alarms, and the shifts that it detects.

Windows are drawn from held-out rows, whose artists the training never saw, over several splits; the
reference is that split's training rows, as in production. Prints the tables of docs/benchmarks.md.

DeepChecks takes seconds for a window, so its two statistics are computed here for most: Kolmogorov-Smirnov's
for numbers, and Cramér's V with Bergsma's bias correction for codes and classes (Journal of the Korean
Statistical Society 42, 2013), on counts scaled to the smaller side, categories below 1 % of the reference
combined. On some windows DeepChecks runs too, and the bench stops if its numbers differ.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.metrics import get_scorer

from catalog.loader import get_model
from catalog.spec import ModelSpec
from checks.data import cleaning, sources, splits, validation
from checks.drift import Limits, find_drift, measure_performance
from checks.precomputed import ScoredRows, score_rows
from flows.evaluation.intervals import bootstrap_samples
from flows.modeling import candidates, onnx_export
from flows.monitoring.settings import MonitorSettings
from flows.tasks.registry import task_of
from flows.tasks.similarity import with_index
from registry.model_format.onnx_model import OnnxModel

MODELS = ("genre", "energy", "popularity", "clusters", "similar")
# A candidate that trains fast and answers like the others: drift depends on rows, not on scores.
CANDIDATE = {"genre": "random-forest", "energy": "random-forest", "popularity": "random-forest"}
SIZES = (100, 200, 500, 1_000, 2_000)
OTHER = 0.01
Floats = npt.NDArray[np.float64]


class Side:
    """A split: the answers to its training rows, its held-out rows, and their artists."""

    def __init__(self, spec: ModelSpec, seed: int) -> None:
        spec = spec.model_copy(update={"split": spec.split.model_copy(update={"seed": seed})})
        valid, _ = validation.validate(sources.read_table(spec.dataset), spec.dataset)
        rows, _ = cleaning.clean(valid, spec, read=len(valid))
        matrix = cleaning.features(rows, spec)
        train, test = splits.split(rows, spec)
        things = matrix.join(rows[[name for name in spec.columns if name not in spec.features]])
        self.spec = spec
        self.model = OnnxModel(_trained(spec, things.iloc[train]), threads=2)
        self.train = score_rows(spec, self.model, matrix.iloc[train])
        self.rows = matrix.iloc[test].reset_index(drop=True)
        self.truth = things[spec.target].iloc[test].to_numpy() if spec.target else None
        self.genres = rows["track_genre"].iloc[test].to_numpy()
        self.artists = rows["artists"].iloc[test].str.split(";").str[0].to_numpy()


def _trained(spec: ModelSpec, rows: pd.DataFrame) -> bytes:
    """Return the model that monitoring would use; a similarity's index holds its training rows."""
    name = CANDIDATE.get(spec.name, spec.candidates[0].name)
    pipeline = candidates.build(spec, next(c for c in spec.candidates if c.name == name))
    features = rows[list(spec.features)]
    pipeline = task_of(spec).fit(pipeline, features, rows[spec.label] if spec.label else None)
    if spec.task == "similarity":
        return onnx_export.export(spec, with_index(pipeline, features), things=rows)
    return onnx_export.export(spec, pipeline, features)


class Scores:
    """The drift scores of windows of some rows against a reference; shared values are computed once."""

    def __init__(self, side: Side, rows: ScoredRows) -> None:
        spec = side.spec
        self.of: dict[str, Callable[[npt.NDArray[np.intp]], float]] = {}
        for name in spec.features:
            kind = _codes if name in spec.one_hot else _numbers
            self.of[name] = kind(side.train.features[name].to_numpy(), rows.features[name].to_numpy())
        kind = _codes if side.train.classes else _numbers
        self.predictions = kind(side.train.labels, rows.labels)

    def __call__(self, places: npt.NDArray[np.intp]) -> tuple[float, float]:
        """Return the largest score of a feature, and that of the predictions."""
        return max(score(places) for score in self.of.values()), self.predictions(places)


def _numbers(reference: Any, rows: Any) -> Callable[[npt.NDArray[np.intp]], float]:
    grid, where = np.unique(np.concatenate([reference, rows]), return_inverse=True)
    size = len(grid)
    known = np.cumsum(np.bincount(where[: len(reference)], minlength=size)) / len(reference)
    mine = where[len(reference) :]

    def score(places: npt.NDArray[np.intp]) -> float:
        found = np.cumsum(np.bincount(mine[places], minlength=size)) / len(places)
        return float(np.abs(found - known).max())

    return score


def _codes(reference: Any, rows: Any) -> Callable[[npt.NDArray[np.intp]], float]:
    grid, where = np.unique(np.concatenate([reference, rows]), return_inverse=True)
    known = np.bincount(where[: len(reference)], minlength=len(grid)).astype(float)
    mine = where[len(reference) :]
    rare = known < OTHER * len(reference)

    def score(places: npt.NDArray[np.intp]) -> float:
        found = np.bincount(mine[places], minlength=len(grid)).astype(float)
        one, two = np.append(known[~rare], known[rare].sum()), np.append(found[~rare], found[rare].sum())
        if one[-1] <= OTHER * known.sum() and two[-1] <= OTHER * found.sum():
            one, two = one[:-1], two[:-1]
        total = min(one.sum(), two.sum())
        table = np.round(np.array([one * (total / one.sum()), two * (total / two.sum())]))
        return cramers_v(table[:, table.any(axis=0)])

    return score


def cramers_v(table: Floats) -> float:
    """Return the bias-corrected Cramér's V of a table of two rows of counts, 0..1."""
    if table.shape[1] < 2:
        return 0.0
    n = table.sum()
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0, keepdims=True) / n
    apart = np.abs(table - expected)
    if table.shape[1] == 2:  # Yates' correction, as scipy applies it with one degree of freedom
        apart = np.maximum(0, apart - 0.5)
    phi2 = float((apart**2 / expected).sum() / n)
    r, k = table.shape
    phi2 = max(0.0, phi2 - (k - 1) * (r - 1) / (n - 1))
    return float(np.sqrt(phi2 / min(k - (k - 1) ** 2 / (n - 1) - 1, r - (r - 1) ** 2 / (n - 1) - 1)))


def plain(side: Side, size: int, random: np.random.Generator) -> npt.NDArray[np.intp]:
    """Draw rows one by one."""
    return random.integers(0, len(side.rows), size)


def by_artist(side: Side, size: int, random: np.random.Generator) -> npt.NDArray[np.intp]:
    """Draw artists with all their tracks until there are enough rows, as people listen."""
    names, where = np.unique(side.artists, return_inverse=True)
    order = np.argsort(where, kind="stable")
    starts = np.append(np.searchsorted(where[order], np.arange(len(names))), len(order))
    found: list[npt.NDArray[np.intp]] = []
    count = 0
    while count < size:
        one = int(random.integers(0, len(names)))
        found.append(order[starts[one] : starts[one + 1]])
        count += len(found[-1])
    return np.concatenate(found)[:size]


def mostly(genre: str, share: float) -> Callable[[Side, int, np.random.Generator], npt.NDArray[np.intp]]:
    """Draw rows so that `share` of them are of a genre."""

    def draw(side: Side, size: int, random: np.random.Generator) -> npt.NDArray[np.intp]:
        inside = side.genres == genre
        chance = np.where(inside, share / inside.sum(), (1 - share) / (~inside).sum())
        return random.choice(len(side.rows), size, p=chance / chance.sum())

    return draw


def louder(by: float) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """Shift the loudness of every row, dB, within the contract's range."""
    return lambda rows: rows.assign(loudness=(rows["loudness"] + by).clip(-60, 6))


SHIFTS: dict[str, tuple[Any, Any]] = {
    "a third metal (was a sixth)": (mostly("metal", 1 / 3), None),
    "half metal": (mostly("metal", 1 / 2), None),
    "four fifths metal": (mostly("metal", 4 / 5), None),
    "loudness +1 dB": (plain, louder(1)),
    "loudness +2 dB": (plain, louder(2)),
    "loudness +3 dB": (plain, louder(3)),
    "valence broken: always 0": (plain, lambda rows: rows.assign(valence=0.0)),
    "duration in seconds": (plain, lambda rows: rows.assign(duration_ms=rows["duration_ms"] / 1000)),
}


HOURS = 24
# Shifts that begin in the middle of a window.
SUDDEN = ("half metal", "four fifths metal", "loudness +2 dB", "valence broken: always 0")


def main() -> None:
    """Measure and print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--windows", type=int, default=200, help="windows of each size and split")
    parser.add_argument("--splits", type=int, default=5, help="splits by artist")
    parser.add_argument(
        "--verify", type=int, default=2, help="windows of each model that DeepChecks judges too"
    )
    options = parser.parse_args()
    settings = MonitorSettings()
    limits = Limits(settings.FEATURE_DRIFT, settings.PREDICTION_DRIFT)
    random = np.random.default_rng(7)
    for name in MODELS:
        sides = [Side(get_model(name), seed) for seed in range(options.splits)]
        _verify(sides[0], options.verify, random)
        print_table(name, sides, options.windows, limits, random)
        print_delays(sides, max(5, options.windows // 10), limits, random)
    for name in MODELS:
        if get_model(name).supervised:
            sides = [Side(get_model(name), seed) for seed in range(options.splits)]
            print_performance(name, sides, max(5, options.windows // 4), random)


def _measure(
    sides: list[Side], how: tuple[Any, Any], size: int, windows: int, random: np.random.Generator
) -> Floats:
    """Return one row for each window: the largest score of a feature, and that of the predictions."""
    found = []
    draw, shift = how
    for side in sides:
        rows = side.rows if shift is None else shift(side.rows)
        scores = Scores(side, score_rows(side.spec, side.model, rows))
        found += [scores(draw(side, size, random)) for _ in range(windows)]
    return np.array(found)


def print_table(
    name: str, sides: list[Side], windows: int, limits: Limits, random: np.random.Generator
) -> None:
    """Print the false alarms of a model, and what it detects."""
    out = sys.stdout.write
    many = windows * len(sides)
    out(f"\n`{name}`, {many:,} windows each, thresholds {limits.feature:g} and {limits.prediction:g}:\n\n")
    out("| no drift, drawn | rows | feature, 99 % / 99.9 % | predictions, 99 % / 99.9 % | alarms |\n")
    out("|---|---:|---|---|---:|\n")
    for label, draw in (("row by row", plain), ("artist by artist", by_artist)):
        for size in SIZES:
            found = _measure(sides, (draw, None), size, windows, random)
            one, two = np.quantile(found, 0.99, axis=0), np.quantile(found, 0.999, axis=0)
            shown = " | ".join(f"{a:.3f} / {b:.3f}" for a, b in zip(one, two, strict=True))
            out(f"| {label} | {size:,} | {shown} | {_alarms(found, limits):.2%} |\n")
            sys.stdout.flush()
    out(f"\n| shift | {' | '.join(f'{size:,} rows' for size in SIZES)} |\n|---|{'---:|' * len(SIZES)}\n")
    for label, how in SHIFTS.items():
        rates = [_alarms(_measure(sides, how, size, max(20, windows // 4), random), limits) for size in SIZES]
        out(f"| {label} | {' | '.join(f'{rate:.0%}' for rate in rates)} |\n")
        sys.stdout.flush()


def print_delays(sides: list[Side], stories: int, limits: Limits, random: np.random.Generator) -> None:
    """Print the hours until a shift is detected that begins within a window; monitoring runs every hour."""
    out = sys.stdout.write
    out(f"\n| hours until it is seen, of {stories * len(sides)} | 2,000 rows a day | 10,000 rows a day |\n")
    out("|---|---:|---:|\n")
    for label in SUDDEN:
        cells = []
        for rows in (2_000, 10_000):
            hours = [_delay(side, label, rows, limits, random) for side in sides for _ in range(stories)]
            seen = np.array([hour for hour in hours if hour is not None])
            missed = f", {(len(hours) - len(seen)) / len(hours):.0%} never" if len(seen) < len(hours) else ""
            cells.append(f"{np.median(seen):.0f} ({seen.max()}){missed}" if len(seen) else "never")
        out(f"| {label} | {' | '.join(cells)} |\n")
        sys.stdout.flush()


def _delay(side: Side, label: str, rows: int, limits: Limits, random: np.random.Generator) -> int | None:
    """Return the hour after which there is an alarm: each hour takes 1/24 of the window."""
    draw, shift = SHIFTS[label]
    count = len(side.rows)
    shifted = side.rows if shift is None else shift(side.rows)
    both = pd.concat([side.rows, shifted], ignore_index=True)
    scores = Scores(side, score_rows(side.spec, side.model, both))
    before, after = plain(side, rows, random), draw(side, rows, random) + count
    for hour in range(1, HOURS + 1):
        new = rows * hour // HOURS
        found = np.array([scores(np.concatenate([before[new:], after[:new]]))])
        if _alarms(found, limits):
            return hour
    return None


def print_performance(name: str, sides: list[Side], windows: int, random: np.random.Generator) -> None:
    """Print how often the score on feedback raises an alarm without a change.

    Half of the held-out artists are the training's held-out rows, the others arrive with feedback.
    """
    out = sys.stdout.write
    out(f"\n| `{name}`: feedback of | false alarms of {windows * len(sides)} |\n|---|---:|\n")
    for size in (200, 500, 2_000):
        alarms = [alarm for side in sides for alarm in _performance_alarms(side, size, windows, random)]
        out(f"| {size:,} rows | {np.mean(alarms):.1%} |\n")
        sys.stdout.flush()


def _performance_alarms(side: Side, size: int, windows: int, random: np.random.Generator) -> Sequence[bool]:
    known = score_rows(side.spec, side.model, side.rows)
    artists = np.unique(side.artists)
    found = []
    for _ in range(windows):
        then = np.isin(side.artists, random.choice(artists, len(artists) // 2, replace=False))
        reference, others = np.flatnonzero(then), np.flatnonzero(~then)
        places = random.choice(others, size)
        truth = np.asarray(side.truth)
        held_out = (known.take(reference), truth[reference])
        again = bootstrap_samples(len(reference), side.artists[reference])
        width = _width(side.spec, held_out, again)
        performance = measure_performance(side.spec, (known.take(places), truth[places]), held_out, width)
        found.append(performance.worse)
    return found


def _width(spec: ModelSpec, side: tuple[ScoredRows, Any], again: Sequence[npt.NDArray[np.intp]]) -> float:
    """Return the width of the score's 95 % interval when artists are drawn, as a training logs it."""
    said, truth = side
    known = said.estimator()
    score = get_scorer(spec.metric)
    low, high = np.percentile([score(known, at, truth[at]) for at in again], (2.5, 97.5))
    return float(high - low)


def _alarms(found: Floats, limits: Limits) -> float:
    over = (found[:, 0] >= limits.feature) | (found[:, 1] >= limits.prediction)
    return float(over.mean())


def _verify(side: Side, count: int, random: np.random.Generator) -> None:
    """Run DeepChecks on some windows; stop if its numbers differ from those computed here."""
    for turn in range(count):
        rows = score_rows(side.spec, side.model, louder(2.0 * turn)(side.rows))
        places = plain(side, 500, random)
        scores = Scores(side, rows)
        with TemporaryDirectory(prefix="greenroom-bench-") as folder:
            found = find_drift(side.spec, side.train, rows.take(places), Limits(0.2, 0.2), Path(folder))
        for feature, score in found.features.items():
            if abs(score - scores.of[feature](places)) > 1e-6:
                sys.exit(f"DeepChecks says {feature} {score}, and here it is {scores.of[feature](places)}")
        said = found.value("PredictionDrift")
        if said is None or abs(said - scores.predictions(places)) > 1e-6:
            sys.exit(f"DeepChecks says predictions {said}, and here it is {scores.predictions(places)}")
        sys.stderr.write(f"{side.spec.name}: window {turn + 1} of {count} agrees with DeepChecks\n")


if __name__ == "__main__":
    main()
