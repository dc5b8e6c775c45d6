"""The gate's questions about rows alone: can be asked before anything is trained."""

import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from catalog.spec import GatePolicy, ModelSpec
from checks.builtin.run import is_own
from checks.errors import GateInputError
from checks.frames import checked_frame, to_parquet
from checks.gate import judge
from checks.settings import ChecksSettings
from checks.worker_process import run_worker
from registry.evidence.verdict import CheckOutcome

SUITES = ("data_integrity", "train_test_validation")


def check_rows(
    spec: ModelSpec, *, train: pd.DataFrame, test: pd.DataFrame, report_dir: Path
) -> tuple[CheckOutcome, ...]:
    """Return one outcome for each check of the model's policy that needs no predictions.

    Rows are those of `checks.gate.run_gate`. `report_dir`, made if need be, then holds one HTML report per
    suite that ran. Raises `GateUnavailableError` when the checks cannot be run at all, and `GateInputError`
    when the rows do not fit the declaration or the policy asks nothing about rows.
    """
    checks = tuple(check for check in spec.gate.checks if check.suite in SUITES and not is_own(check))
    if not any(check.required for check in checks):
        raise GateInputError(f"The gate policy of {spec.name!r} requires no check of the rows alone.")
    frames = {
        "train": checked_frame(spec, train, "training"),
        "test": checked_frame(spec, test, "held-out"),
    }
    labels = set(frames["train"][spec.target]) if spec.task == "classification" else set()
    content = {
        "task": spec.task,
        "features": spec.features,
        "target": spec.target,
        "categorical": spec.one_hot,
        "classes": sorted(labels),
        "checks": [check.model_dump(mode="json") for check in checks],
    }
    report_dir.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="greenroom-rows-") as temporary:
        job = Path(temporary)
        for side, frame in frames.items():
            (job / f"{side}.parquet").write_bytes(to_parquet(frame))
        (job / "job.json").write_text(json.dumps(content), "utf-8")
        run = run_worker(job, ChecksSettings())
        for suite in SUITES:
            report = report_dir / f"{suite}.html"
            report.unlink(missing_ok=True)  # an older run's report must not pass for this one's
            if (job / report.name).exists():
                shutil.copyfile(job / report.name, report)
    return judge(GatePolicy(checks=checks), run)
