"""A further task: registered in the catalogue and in the gate, with no edit anywhere else."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.tree import DecisionTreeRegressor

from catalog import tasks as catalog_tasks
from catalog.spec import Check, GatePolicy, ModelSpec
from catalog.tasks import TaskSpec
from checks.builtin import tasks
from checks.builtin.context import CheckContext, Floats, Measurement
from checks.builtin.tasks import TaskChecks
from checks.comparison import IncumbentModel
from checks.gate import run_gate
from checks.precomputed import score_rows
from registry.evidence.verdict import Incumbent, Verdict
from registry.model_format.onnx_model import OnnxModel
from tests.checks.support.sample_models import Rows, trained


def ordered(context: CheckContext, model: OnnxModel | None = None) -> Floats:
    """Return, for each held-out row, the share of the others that it is on the right side of, 0..1."""
    scores = score_rows(context.spec, model or context.model, context.test).labels
    truth = context.test[context.spec.target].to_numpy()
    right: Floats = (np.sign(scores[:, None] - scores) == np.sign(truth[:, None] - truth)).mean(axis=1)
    return right


def _pairs(context: CheckContext) -> Measurement:
    value = float(ordered(context).mean())
    return Measurement(value, f"{value:.1%} of the pairs are in order")


@pytest.fixture
def ranking(energy: ModelSpec) -> Iterator[ModelSpec]:
    """Return tracks in the order of their energy, judged by pairs that are in order."""
    catalog_tasks.register(TaskSpec("ranking", answers="numbers", supervised=True, metric="ordered_pairs"))
    tasks.register("ranking", TaskChecks({"PairOrder": _pairs}, ordered))
    check = Check(
        check="PairOrder",
        suite="model_evaluation",
        condition="at_least",
        condition_params={"threshold": 0.7},
        why="What should come first comes first.",
    )
    declared = {name: getattr(energy, name) for name in ModelSpec.model_fields}
    yield ModelSpec(
        **{**declared, "task": "ranking", "metric": "ordered_pairs", "gate": GatePolicy(checks=(check,))}
    )
    del catalog_tasks._TASKS["ranking"], tasks._TASKS["ranking"]


def judged(
    spec: ModelSpec, rows: Rows, model: OnnxModel, folder: Path, incumbent: OnnxModel | None = None
) -> Verdict:
    identity = Incumbent(version=3, digest="sha256:3")
    return run_gate(
        spec,
        train=rows[0],
        test=rows[1],
        model=model,
        report_dir=folder,
        incumbent=IncumbentModel(identity, lambda: incumbent) if incumbent else None,  # type: ignore[arg-type, return-value]
    )


def test_the_gate_measures_and_compares_a_fifth_task(
    ranking: ModelSpec, energy_rows: Rows, tmp_path: Path
) -> None:
    rows: Rows = (energy_rows[0], energy_rows[1].head(300))
    good = trained(ranking, DecisionTreeRegressor(max_depth=6, random_state=7), rows[0])
    shuffled = rows[0].assign(energy=rows[0]["energy"].sample(frac=1, random_state=7).to_numpy())
    bad = trained(ranking, DecisionTreeRegressor(max_depth=6, random_state=7), shuffled)
    verdict = judged(ranking, rows, good, tmp_path, incumbent=bad)
    assert verdict.passed
    assert [(o.check, o.status) for o in verdict.outcomes] == [
        ("PairOrder", "passed"),
        ("IncumbentComparison", "passed"),
    ]
    assert "ordered_pairs" in verdict.outcomes[1].reason
    assert verdict.task == "ranking"
    assert pd.read_parquet(tmp_path / "train.parquet")["energy"].dtype == np.float64
    refused = judged(ranking, rows, bad, tmp_path, incumbent=good)
    assert [outcome.status for outcome in refused.outcomes] == ["failed", "failed"]


def test_the_checks_of_a_task_are_registered_once(ranking: ModelSpec) -> None:
    with pytest.raises(ValueError, match="the task 'ranking' has checks already"):
        tasks.register("ranking", TaskChecks({}, ordered))
