"""The gate: may these bytes leave the green room?

It looks at what will be served: the predictions are those of the ONNX file. It fails closed: a required
check that did not run and pass refuses the model, whatever the reason.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

from catalog.spec import GatePolicy, ModelSpec
from checks.builtin.context import Look
from checks.builtin.run import is_own, look
from checks.comparison import Rival, compare
from checks.errors import GateInputError
from checks.frames import checked_frame, frame_digest, to_parquet
from checks.settings import ChecksSettings
from checks.worker_process import OUTCOMES_FILE, WorkerRun, run_worker
from registry.evidence.verdict import CheckOutcome, Verdict, policy_digest
from registry.model_format.onnx_model import OnnxModel

VERDICT_FILE = "verdict.json"
CHECKS_FILE = "checks.json"
ROWS_FILES = {"train": "train.parquet", "test": "test.parquet"}
REPORT_FILES = ("data_integrity.html", "train_test_validation.html", "model_evaluation.html")


def run_gate(
    spec: ModelSpec,
    *,
    train: pd.DataFrame,
    test: pd.DataFrame,
    model: OnnxModel,
    report_dir: Path,
    git_commit: str | None = None,
    rival: Rival | None = None,
) -> Verdict:
    """Check `model` against the policy of `spec`, and against the version in Production; return the verdict.

    `train` and `test` are the rows it was trained on and the held-out ones, with the columns of
    `spec.columns` (features as float64, booleans as 0 and 1). `report_dir`, made if need be, then
    holds `verdict.json`, `checks.json` (the outcomes as the worker wrote them), one HTML report per suite
    that ran, and `train.parquet` and `test.parquet`, so that the gate can be run again. `rival` is the
    version in Production, None where there is none.

    A refusal is a verdict whose `passed` is False. Raises `GateUnavailableError` when the checks cannot be
    run at all, and `GateInputError` when rows or model do not fit the declaration.
    """
    _require_fit(spec, model)
    frames = {
        "train": checked_frame(spec, train, "training"),
        "test": checked_frame(spec, test, "held-out"),
    }
    report_dir.mkdir(parents=True, exist_ok=True)
    for name in (VERDICT_FILE, CHECKS_FILE, *REPORT_FILES):
        (report_dir / name).unlink(missing_ok=True)  # an older run's report must not pass for this one's
    with TemporaryDirectory(prefix="greenroom-gate-") as temporary:
        job = Path(temporary)
        _write_job(spec, model, frames, job)
        others = any(not is_own(check) for check in spec.gate.checks)
        run = run_worker(job, ChecksSettings()) if others else WorkerRun()
        _collect(job, run, report_dir)
    at = Look(spec, frames["train"], frames["test"], model)
    found = {check.check: look(check, at) for check in spec.gate.checks if is_own(check)}
    outcomes = judge(spec.gate, replace(run, outcomes={**run.outcomes, **found}))
    if rival:
        outcomes += (compare(spec, frames["test"], model, rival, train=frames["train"]),)
    verdict = Verdict(
        model=spec.name,
        task=spec.task,
        model_digest=model.digest,
        policy_digest=policy_digest(spec.gate),
        dataset_digests={side: frame_digest(frame) for side, frame in frames.items()},
        git_commit=git_commit,
        incumbent=rival.incumbent if rival else None,
        outcomes=outcomes,
    )
    (report_dir / VERDICT_FILE).write_text(verdict.model_dump_json(indent=1), "utf-8")
    return verdict


def judge(policy: GatePolicy, run: WorkerRun) -> tuple[CheckOutcome, ...]:
    """Return one outcome for every check of the policy; what the worker did not report is `missing`.

    Which checks there are and which are required is read from the policy alone.
    """
    judged = []
    for check in policy.checks:
        raw = run.outcomes.get(check.check)
        judged.append(
            CheckOutcome(
                check=check.check,
                suite=check.suite,
                required=check.required,
                status=raw.status if raw else "missing",
                reason=raw.reason if raw else run.failure or "the checks process gave no outcome for it",
                value=raw.value if raw else None,
            )
        )
    return tuple(judged)


def _require_fit(spec: ModelSpec, model: OnnxModel) -> None:
    said = model.description
    if said.task != spec.task:
        raise GateInputError(f"{spec.name!r} is a {spec.task}, but the ONNX file is a {said.task}.")
    if said.items and said.items.id_name != spec.dataset.id:
        raise GateInputError(
            f"The ONNX file finds things by {said.items.id_name}, but {spec.name!r} declares "
            f"{spec.dataset.id}. Train the model again if its declaration has changed."
        )
    if said.features != spec.features:
        raise GateInputError(
            f"The ONNX file reads {', '.join(said.features)}, but {spec.name!r} declares "
            f"{', '.join(spec.features)}. Train the model again if its declaration has changed."
        )


def _write_job(spec: ModelSpec, model: OnnxModel, frames: dict[str, pd.DataFrame], job: Path) -> None:
    classes = model.description.classes if spec.supervised else ()
    order = sorted(range(len(classes)), key=classes.__getitem__)  # DeepChecks wants the classes sorted
    for side, frame in frames.items():
        (job / f"{side}.parquet").write_bytes(to_parquet(frame))
        if not spec.supervised:
            continue  # what there is to say of these is Greenroom's own checks' to say
        labels, probabilities = model.predict(frame[list(spec.features)].to_numpy(np.float32))
        if probabilities is None:
            predictions = pd.DataFrame({"prediction": labels.astype(np.float64)})
        else:
            predictions = pd.DataFrame(probabilities[:, order], columns=[str(i) for i in order])
            predictions.insert(0, "prediction", labels.astype(str))
        (job / f"{side}_predictions.parquet").write_bytes(to_parquet(predictions))
    content = {
        "task": spec.task,
        "features": spec.features,
        "target": spec.target,
        "categorical": spec.one_hot,
        "classes": [classes[i] for i in order],
        "checks": [check.model_dump(mode="json") for check in spec.gate.checks if not is_own(check)],
    }
    (job / "job.json").write_text(json.dumps(content), "utf-8")


def _collect(job: Path, run: WorkerRun, report_dir: Path) -> None:
    """Keep what the worker left, before its folder goes."""
    for side, name in ROWS_FILES.items():
        shutil.copyfile(job / f"{side}.parquet", report_dir / name)
    for name in REPORT_FILES:
        if (job / name).exists():
            shutil.copyfile(job / name, report_dir / name)
    if (job / OUTCOMES_FILE).exists():
        shutil.copyfile(job / OUTCOMES_FILE, report_dir / CHECKS_FILE)
    else:
        (report_dir / CHECKS_FILE).write_text(json.dumps({"outcomes": [], "failure": run.failure}), "utf-8")
