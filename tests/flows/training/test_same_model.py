"""A training comes to the same bytes whatever the machine does, and genre keeps away from its thresholds."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score

from catalog.loader import get_model
from catalog.spec import FloatRange, IntRange
from checks.data import cleaning, sources, splits, validation
from checks.data.splits import Rows
from flows.modeling import candidates

pytestmark = pytest.mark.slow

# A calibrated forest, whose threads share a sum; a model that BLAS computes; k-means; an index.
MODELS = ("genre:random-forest", "energy:ridge", "clusters", "similar")
ROOT = Path(__file__).resolve().parents[3]


def trained(cores: set[int], **environment: str) -> dict[str, str]:
    """The digests of the models' files, from a process that may use so many cores."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.flows.support.model_bytes", *MODELS],
        env={**os.environ, **environment},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        check=True,
        preexec_fn=lambda: os.sched_setaffinity(0, cores) if hasattr(os, "sched_setaffinity") else None,
    )
    digests: dict[str, str] = json.loads(done.stdout)
    return digests


def test_neither_cores_nor_threads_nor_hashes_change_a_model() -> None:
    cores = set(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else {0}
    many = {"OMP_NUM_THREADS": "4", "OPENBLAS_NUM_THREADS": "4", "PYTHONHASHSEED": "1"}
    alone = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONHASHSEED": "2"}
    assert trained(cores, **many) == trained({min(cores)}, **alone)


def test_a_forests_threads_do_not_change_what_it_says_of_a_fold() -> None:
    spec = get_model("genre")
    table = sources.read_table(spec.dataset)
    rows, _ = cleaning.clean(validation.validate(table, spec.dataset)[0], spec, read=len(table))
    # Enough of them that eight threads come to an end in another order each time.
    rows = pd.concat([rows] * 4, ignore_index=True)
    (forest,) = [candidate for candidate in spec.candidates if candidate.name == "random-forest"]
    forest = forest.model_copy(update={"params": {**forest.params, "n_estimators": 50, "n_jobs": 8}})
    whole = Rows(cleaning.features(rows, spec), rows, "track_genre")
    fold = (np.arange(2000), np.arange(2000, len(rows)))
    answers = set()
    for _ in range(4):
        scored = candidates.score_fold(spec, forest, whole, fold)
        assert scored.predictions is not None
        answers.add(scored.predictions.probabilities.tobytes())
    assert len(answers) == 1


def test_what_genre_searches_keeps_five_points_from_the_gate() -> None:
    spec = get_model("genre")
    (allowed,) = [
        check.condition_params["threshold"]
        for check in spec.gate.checks
        if check.check == "TrainTestPerformance"
    ]
    table = sources.read_table(spec.dataset)
    rows, _ = cleaning.clean(validation.validate(table, spec.dataset)[0], spec, read=len(table))
    data = splits.split_rows(rows, spec)
    (boosting,) = [candidate for candidate in spec.candidates if candidate.name == "gradient-boosting"]
    closest = {
        name: space.high
        for name, space in boosting.search.items()
        if isinstance(space, IntRange | FloatRange)
    }
    assert len(closest) == 4
    candidate = boosting.model_copy(update={"params": {**boosting.params, **closest}})
    pipeline = candidates.fit_whole(spec, candidate, data.train, (candidates.FoldScore(0.5),)).pipeline
    known, held_out = (
        f1_score(side.target, pipeline.predict(side.features), average="macro")
        for side in (data.train, data.test)
    )
    assert (known - held_out) / known <= allowed - 0.05
