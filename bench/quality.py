"""`make bench-quality`: each model with a target beside a naive baseline and a default RandomForest.

The flow's own functions read, clean, split by group, choose by cross-validation and measure, on several
splits. Prints the tables of docs/models.md. No server is needed.
"""

import argparse
import sys

import numpy as np

from catalog.loader import load_catalog
from catalog.spec import ModelSpec, Split
from checks.data import cleaning, sources, splits, validation
from flows.evaluation import scores
from flows.evaluation.intervals import Interval
from flows.evaluation.scores import Evaluation
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


def _train(spec: ModelSpec, trials: int) -> tuple[candidates.FittedCandidate, Evaluation, float, int]:
    table = sources.read_table(spec.dataset)
    rows, _ = cleaning.clean(validation.validate(table, spec.dataset)[0], spec, read=len(table))
    data = splits.split_rows(rows, spec)
    train, test = data.train, data.test
    fitted = [candidates.fit(spec, c, train, data.folds) for c in spec.candidates]
    _, searched = search.refine(spec, fitted, train, data.folds, trials=trials)
    best = search.best_trial(searched)
    winner = candidates.best(fitted)
    if best.state != "declared":
        winner = candidates.fit_whole(spec, best.candidate, train, best.folds)
        sys.stderr.write(f"{spec.name} {spec.split.seed}: {winner.candidate.params}\n")
    winner = candidates.calibrate(spec, winner, train)
    content = onnx_export.export(spec, winner.pipeline, train.features)
    onnx_export.agreement(winner.pipeline, OnnxModel(content), test.features)
    evaluation = scores.evaluate(spec, winner.pipeline, train, test)
    return winner, evaluation, len(content) / 1e6, len(searched) - len(fitted)


def _with(spec: ModelSpec, seed: int) -> Split:
    return spec.split.model_copy(update={"seed": seed})


def _text(found: Interval | None) -> str:
    return "-" if found is None else str(found)


if __name__ == "__main__":
    main()
