"""The gate's report on a change: what it says, and that it fails when it should."""

import re
import shutil
import subprocess
from pathlib import Path
from uuid import uuid4

import numpy as np
import pandas as pd
import pytest

from infra.ci.model_gate import Result, exit_code, render
from registry.client.registry import Version
from registry.client.version_diff import DiffLine
from registry.names import Stage
from tests.conftest import ROOT, Stack
from tests.flows.support.tumour_rows import tumours
from tests.warm_commands import warm_python

DECLARATION = ROOT / "tests" / "flows" / "support" / "tumours.py"


def version(number: int, score: float, stage: Stage = Stage.NONE) -> Version:
    tags = {"greenroom.metric": "r2", "greenroom.score": str(score)}
    return Version("energy", number, stage, "run", "source", tags)


def test_report_has_both_scores_and_what_changed() -> None:
    passed = Result(
        "energy",
        version(3, 0.75, Stage.PRODUCTION),
        version=version(4, 0.7612),
        changed=[DiffLine("parameters", "trees", "100", "2|00\n<b>")],
    )
    text = render([passed])
    assert "✅ The gate lets pass: energy" in text
    assert "| energy | passed | r2 0.7612 | version 3: 0.7500 | +0.0112 |" in text
    # What a pull request put into a parameter is no markup.
    assert "| parameters | trees | 100 | 2\\|00 &lt;b> |" in text
    assert exit_code([passed]) == 0


def test_refused_one_fails_the_whole_and_is_open_to_read() -> None:
    good = Result("genre", None, version=version(1, 0.6))
    bad = Result("energy", version(3, 0.75), version=version(4, 0.1), reason="SimpleModelComparison failed")
    text = render([good, bad])
    assert "❌ The gate does not let pass: energy" in text
    assert "| energy | **refused** | r2 0.1000 | version 3: 0.7500 | -0.6500 |" in text
    assert "| genre | passed | r2 0.6000 | nothing |  |" in text
    assert "<details open><summary>energy: refused" in text
    assert "<details><summary>genre: passed" in text
    assert exit_code([good, bad]) == 1


def test_one_that_could_not_be_trained_is_no_pass() -> None:
    lost = Result("energy", None, reason="It could not be trained: DataError")
    assert exit_code([lost]) == 2
    assert "not trained" in render([lost])


@pytest.mark.slow
def test_change_is_trained_gated_and_refused_when_it_is_bad(stack: Stack, tmp_path: Path) -> None:
    name = f"gated-{uuid4().hex[:8]}"
    declared, table = tmp_path / "declared.py", tmp_path / "tumours.parquet"
    shutil.copy(DECLARATION, declared)
    declared.write_text(declared.read_text().replace('name="tumour"', f'name="{name}"'))
    rows = tumours()
    rows.to_parquet(table)

    def gate(*options: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [
                *(str(warm_python()), "-m", "infra.ci.model_gate", "--report", str(tmp_path / "r.md")),
                *(*options, name),
            ],
            cwd=ROOT,
            env={
                **stack.environment,
                "GREENROOM_TRACKING_URI": stack.tracking_url,
                "GREENROOM_CATALOG_PATH": str(declared),
                "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md"),
            },
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def stages() -> str:
        return stack.greenroom("history", name, "--json").stdout

    # As model-training does it: into Production, where there was nothing.
    done = gate("--promote")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Production" in stages()
    before = stages()

    # Labels that mean nothing: what could be learned is gone.
    shuffled = rows.assign(diagnosis=np.random.default_rng(7).permutation(rows["diagnosis"]))
    pd.DataFrame(shuffled).to_parquet(table)
    done = gate()
    assert done.returncode == 1, done.stdout + done.stderr
    report = (tmp_path / "r.md").read_text()
    assert f"❌ The gate does not let pass: {name}" in report
    assert re.search(
        rf"\| {name} \| \*\*refused\*\* \| balanced_accuracy 0\.\d+ \| version 1: 0\.\d+ \| -0\.", report
    )
    assert "SimpleModelComparison | required | failed" in report
    assert "What changed against version 1 in Production" in report
    assert report in (tmp_path / "summary.md").read_text()
    assert stages() == before

    table.unlink()
    done = gate()
    assert done.returncode == 2, done.stdout + done.stderr
    assert "not trained" in (tmp_path / "r.md").read_text()
    assert "there is no file" in (tmp_path / "r.md").read_text()
