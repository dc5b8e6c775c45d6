"""Run as a program: trains models of the catalogue without a server and prints the SHA-256 of their files."""

import json
import sys
from hashlib import sha256
from typing import Any

import pandas as pd

from catalog.loader import get_model
from catalog.spec import Candidate, ModelSpec
from flows.data import cleaning, sources, splits, validation
from flows.modeling import candidates, onnx_export, search, similarity


def train(spec: ModelSpec, trials: int) -> bytes:
    """Return the ONNX file of the best of a model's candidates after so many trials."""
    table = sources.read_table(spec.dataset)
    rows, _ = cleaning.clean(validation.validate(table, spec.dataset)[0], spec, read=len(table))
    matrix, (at, _) = cleaning.features(rows, spec), splits.split(rows, spec)
    folds = splits.folds(rows.iloc[at], spec)
    features = matrix.iloc[at].reset_index(drop=True)
    others = rows.iloc[at].reset_index(drop=True)
    target = None if spec.label is None else others[spec.label]

    def score(candidate: Candidate, number: int) -> candidates.Scored:
        return candidates.score_fold(spec, candidate, features, target, folds[number])

    fitted = [candidates.fit(spec, candidate, features, target, folds) for candidate in spec.candidates]
    declared = [search.Tried(one.candidate, one.folds, "declared", 1.0) for one in fitted]
    top = search.best(declared + search.search(declared, score, trials=trials, seed=spec.split.seed))
    winner = candidates.calibrate(
        spec, candidates.fit_whole(spec, top.candidate, features, target, top.folds), features, target
    )
    if spec.task != "similarity":
        return onnx_export.export(spec, winner.pipeline, features)
    things: Any = pd.concat([features, others.drop(columns=list(spec.features))], axis=1)
    return onnx_export.export(spec, similarity.complete(winner.pipeline, features), things=things)


def main() -> None:
    """Train each model that is named by `NAME:CANDIDATE`, with two trials; print their digests as JSON."""
    digests = {}
    for wanted in sys.argv[1:]:
        name, _, kept = wanted.partition(":")
        spec = get_model(name)
        only = tuple(one for one in spec.candidates if kept in ("", one.name))
        content = train(spec.model_copy(update={"candidates": only}), trials=2)
        digests[wanted] = sha256(content).hexdigest()
    sys.stdout.write(json.dumps(digests))


if __name__ == "__main__":
    main()
