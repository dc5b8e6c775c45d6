"""Run as a program: trains models of the catalogue without a server and prints the SHA-256 of their files."""

import json
import sys
from hashlib import sha256

from catalog.loader import get_model
from catalog.spec import ModelSpec
from checks.data import cleaning, sources, splits, validation
from flows.modeling import candidates, onnx_export, search
from flows.tasks.similarity import with_index


def train(spec: ModelSpec, trials: int) -> bytes:
    """Return the ONNX file of the best of a model's candidates after so many trials."""
    table = sources.read_table(spec.dataset)
    rows, _ = cleaning.clean(validation.validate(table, spec.dataset)[0], spec, read=len(table))
    data = splits.split_rows(rows, spec)
    train, folds = data.train, data.folds
    fitted = [candidates.fit(spec, candidate, train, folds) for candidate in spec.candidates]
    _, searched = search.refine(spec, fitted, train, folds, trials=trials)
    top = search.best_trial(searched)
    whole = candidates.fit_whole(spec, top.candidate, train, top.folds)
    winner = candidates.calibrate(spec, whole, train)
    if spec.task == "similarity":
        pipeline = with_index(winner.pipeline, train.features)
        return onnx_export.export(spec, pipeline, things=train.frame)
    return onnx_export.export(spec, winner.pipeline, train.features)


def main() -> None:
    """Train each model that is named by `NAME:CANDIDATE`, with one trial; print their digests as JSON."""
    digests = {}
    for wanted in sys.argv[1:]:
        name, _, kept = wanted.partition(":")
        spec = get_model(name)
        only = tuple(candidate for candidate in spec.candidates if kept in ("", candidate.name))
        content = train(spec.model_copy(update={"candidates": only}), trials=1)
        digests[wanted] = sha256(content).hexdigest()
    sys.stdout.write(json.dumps(digests))


if __name__ == "__main__":
    main()
