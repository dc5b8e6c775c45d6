"""What a model's file does to the process that runs it, it does not do to the gate."""

import os
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest

from catalog.loader import get_model
from catalog.spec import ModelSpec
from checks.data.splits import Rows, SplitRows
from checks.errors import GateInputError
from checks.service import trial
from tests.serving.support.slow_models import matrices
from tests.waiting import until


@pytest.fixture(scope="module")
def spec() -> ModelSpec:
    return get_model("energy")


@pytest.fixture(scope="module")
def rows(spec: ModelSpec) -> SplitRows:
    numbers = np.random.default_rng(1).random((50, len(spec.features)))
    frame = pd.DataFrame(numbers, columns=list(spec.features))
    side = Rows(frame, pd.DataFrame({spec.target: np.ones(50)}), spec.target)
    return SplitRows(side, side, [])


def test_a_model_that_runs_goes_on(spec: ModelSpec, rows: SplitRows) -> None:
    trial.require_runs(matrices(1, 2, spec.features), spec, rows)


def test_a_run_without_end_is_ended(
    spec: ModelSpec, rows: SplitRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "SECONDS", 4)
    with pytest.raises(GateInputError, match=r"did not predict the 100 rows of its table within 4 s"):
        trial.require_runs(matrices(500, 3000, spec.features), spec, rows)
    assert not [p for p in psutil.Process().children() if "checks.service.trial" in p.cmdline()]


def test_a_file_that_ends_its_process_is_refused(spec: ModelSpec, rows: SplitRows) -> None:
    def end_it() -> None:
        def started() -> list[psutil.Process]:
            return [p for p in psutil.Process().children() if "checks.service.trial" in p.cmdline()]

        os.kill(until(started)[0].pid, signal.SIGSEGV)

    killer = threading.Thread(target=end_it)
    killer.start()
    with pytest.raises(GateInputError, match=r"ended the process that tried it, by SIGSEGV"):
        trial.require_runs(matrices(500, 3000, spec.features), spec, rows)
    killer.join()


@pytest.mark.parametrize("content", [b"", b"nonsense"])
def test_what_is_no_model_is_refused(spec: ModelSpec, rows: SplitRows, content: bytes) -> None:
    with pytest.raises(GateInputError, match="'energy' does not run: the file is not a readable ONNX model"):
        trial.require_runs(content, spec, rows)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the system does not bound memory")
def test_memory_is_bounded(spec: ModelSpec, rows: SplitRows) -> None:
    with pytest.raises(GateInputError, match=r"'energy' (does not run|ended the process)"):
        trial.require_runs(matrices(1, 60_000, spec.features), spec, rows)


def test_nothing_of_the_gates_is_in_its_environment(
    spec: ModelSpec, rows: SplitRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    environments: list[dict[str, str]] = []
    run = subprocess.run

    def record(*arguments: Any, **options: Any) -> Any:
        environments.append(options["env"])
        return run(*arguments, **options)

    monkeypatch.setenv("GREENROOM_GATE_KEY", "/keys/gate.pem")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "geheim")
    monkeypatch.setattr(subprocess, "run", record)
    trial.require_runs(matrices(1, 2, spec.features), spec, rows)
    assert not [name for name in environments[0] if name.startswith(("GREENROOM_", "AWS_", "MLFLOW_"))]
