"""`make bench-quality`: each model with a target beside a naive baseline and a default RandomForest.

The flow's own functions read, clean, split by group, choose by cross-validation and measure, on several
splits. Prints the tables of docs/models.md. No server is needed.
"""

import argparse
import sys
import time

import numpy as np
import pandas as pd

from catalog.loader import load_catalog
from catalog.spec import Candidate, ModelSpec, Split
from flows.data import cleaning, sources, splits, validation
from flows.evaluation import scores
from flows.evaluation.intervals import Interval
from flows.evaluation.scores import Measured
from flows.modeling import candidates, onnx_export, search
from registry.model_format.onnx_model import OnnxModel

SEEDS = (7, 11, 23, 42, 101)


def main() -> None:
    """Measure and print Markdown."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS), help="seeds of the splits")
    parser.add_argument("--search", type=int, default=0, help="trials of search per model and split")
    parser.add_argument("--models", nargs="*", help="only these")
    asked = parser.parse_args()
    for spec in load_catalog().values():
        if spec.supervised and (not asked.models or spec.name in asked.models):
            _print(spec, asked.seeds, asked.search)


def _print(spec: ModelSpec, seeds: list[int], trials: int) -> None:
    out = sys.stdout
    found = []
    out.write(f"\n`{spec.name}`, {spec.metric.removeprefix('neg_')}:\n\n")
    out.write(
        "| split | winner (trials) | cv | naive | default forest | Greenroom | difference | file, MB |\n"
    )
    out.write("|---:|---|---:|---:|---:|---|---|---:|\n")
    for seed in seeds:
        winner, measured, size, tried = _train(spec.model_copy(update={"split": _with(spec, seed)}), trials)
        found.append(measured)
        cells = (
            str(seed),
            f"{winner.candidate.name} ({tried})",
            f"{winner.cv_mean:.3f}",
            f"{measured.baseline.value:.3f}",
            *map(_text, (measured.forest, measured.headline, measured.over_forest)),
            f"{size:.1f}",
        )
        out.write(f"| {' | '.join(cells)} |\n")
        out.flush()
    differences = [one.over_forest.value for one in found if one.over_forest is not None]
    better = f"{sum(d > 0 for d in differences)} of {len(differences)} splits"
    out.write(f"\nBetter than the default forest on {better}, by {np.mean(differences):+.3f} on average.\n")


def _train(spec: ModelSpec, trials: int) -> tuple[candidates.Fitted, Measured, float, int]:
    table = sources.read_table(spec.dataset)
    rows, _ = cleaning.clean(validation.validate(table, spec.dataset)[0], spec, read=len(table))
    matrix = cleaning.features(rows, spec)
    train, test = splits.split(rows, spec)
    folds = splits.folds(rows.iloc[train], spec)
    target = rows[str(spec.target)].astype("float64" if spec.task == "regression" else "str")
    groups = splits.main_groups(rows, spec.dataset)

    def side(at: splits.Positions) -> tuple[pd.DataFrame, "pd.Series[float] | pd.Series[str]"]:
        return matrix.iloc[at].reset_index(drop=True), target.iloc[at].reset_index(drop=True)

    own, held_out = side(train), side(test)
    fitted, declared = [], []
    for candidate in spec.candidates:
        began = time.monotonic()
        one = candidates.fit(spec, candidate, *own, folds)
        fitted.append(one)
        declared.append(search.Tried(candidate, one.folds, "declared", time.monotonic() - began))

    def score(candidate: Candidate, number: int) -> candidates.Scored:
        return candidates.score_fold(spec, candidate, *own, folds[number])

    tried = search.search(declared, score, trials=trials, seed=spec.split.seed)
    best = search.best([*declared, *tried])
    winner = candidates.best(fitted)
    if best.state != "declared":
        winner = candidates.fit_whole(spec, best.candidate, *own, best.folds)
        sys.stderr.write(f"{spec.name} {spec.split.seed}: {winner.candidate.params}\n")
    winner = candidates.calibrate(spec, winner, *own)
    content = onnx_export.export(spec, winner.pipeline, own[0])
    onnx_export.agreement(winner.pipeline, OnnxModel(content), held_out[0])
    measured = scores.measure(spec, winner.pipeline, own, held_out, None if groups is None else groups[test])
    return winner, measured, len(content) / 1e6, len(tried)


def _with(spec: ModelSpec, seed: int) -> Split:
    return spec.split.model_copy(update={"seed": seed})


def _text(found: Interval | None) -> str:
    return "-" if found is None else str(found)


if __name__ == "__main__":
    main()
