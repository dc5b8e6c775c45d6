"""The gate: may these bytes leave the green room?

It looks at what will be served: the predictions are those of the ONNX file. It fails closed: a required
check that did not run and pass refuses the model, for any reason.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pandas as pd

from catalog.spec import Check, GatePolicy, ModelSpec
from catalog.tasks import task_spec
from checks.builtin.context import CheckContext
from checks.builtin.run import is_builtin, run_check
from checks.comparison import IncumbentModel, compare
from checks.errors import GateInputError
from checks.frames import checked_frame, frame_digest
from checks.job import OUTCOMES_FILE, CheckJob, WorkerRun
from checks.precomputed import score_rows
from registry.evidence.verdict import CheckOutcome, DataOrigin, Verdict, policy_digest
from registry.model_format.onnx_model import OnnxModel

VERDICT_FILE = "verdict.json"
CHECKS_FILE = "checks.json"
ROWS_FILES = {"train": "train.parquet", "test": "test.parquet"}
# The suites whose checks need no predictions.
_ROW_SUITES = ("data_integrity", "train_test_validation")
_REPORT_FILES = tuple(f"{suite}.html" for suite in (*_ROW_SUITES, "model_evaluation"))
_KEPT = {
    **{f"{side}.parquet": name for side, name in ROWS_FILES.items()},
    **{name: name for name in _REPORT_FILES},
    OUTCOMES_FILE: CHECKS_FILE,
}


def run_gate(
    spec: ModelSpec,
    *,
    train: pd.DataFrame,
    test: pd.DataFrame,
    model: OnnxModel,
    report_dir: Path,
    git_commit: str | None = None,
    incumbent: IncumbentModel | None = None,
    data: DataOrigin | None = None,
) -> Verdict:
    """Check `model` against the policy of `spec`, and against the version in Production; return the verdict.

    `train` and `test` are the rows it was trained on and the held-out ones, with the columns of
    `spec.columns` (features as float64, booleans as 0 and 1). `report_dir`, made if need be, then
    holds `verdict.json`, `checks.json` (the outcomes as the worker wrote them), one HTML report per suite
    that ran, and `train.parquet` and `test.parquet`, for people and for monitoring. `incumbent` is the
    version in Production, None where there is none; `data` says where the rows come from.

    A refusal is a verdict whose `passed` is False. Raises `GateUnavailableError` when the checks cannot be
    run at all, and `GateInputError` when rows or model do not fit the declaration.
    """
    _require_fit(spec, model)
    frames = _checked_frames(spec, train, test)
    (report_dir / VERDICT_FILE).unlink(missing_ok=True)  # an older run's must not pass for this one's
    run = _deepchecks_job(spec, model, frames).run(report_dir, _KEPT)
    if not (report_dir / CHECKS_FILE).exists():
        (report_dir / CHECKS_FILE).write_text(json.dumps({"outcomes": [], "failure": run.failure}), "utf-8")
    context = CheckContext(spec, frames["train"], frames["test"], model)
    builtin = {check.check: run_check(check, context) for check in spec.gate.checks if is_builtin(check)}
    outcomes = judge(spec.gate, replace(run, outcomes={**run.outcomes, **builtin}))
    if incumbent:
        outcomes += (compare(context, incumbent),)
    verdict = Verdict(
        model=spec.name,
        task=spec.task,
        model_digest=model.digest,
        policy_digest=policy_digest(spec.gate),
        dataset_digests={side: frame_digest(frame) for side, frame in frames.items()},
        data=data,
        git_commit=git_commit,
        incumbent=incumbent.identity if incumbent else None,
        outcomes=outcomes,
    )
    (report_dir / VERDICT_FILE).write_text(verdict.model_dump_json(indent=1), "utf-8")
    return verdict


def check_rows(
    spec: ModelSpec, *, train: pd.DataFrame, test: pd.DataFrame, report_dir: Path
) -> tuple[CheckOutcome, ...]:
    """Return one outcome for each check of the model's policy that needs no predictions.

    Rows are those of `run_gate`. `report_dir`, made if need be, then holds one HTML report per suite that
    ran. Raises `GateUnavailableError` when the checks cannot be run at all, and `GateInputError` when the
    rows do not fit the declaration or the policy asks nothing about rows.
    """
    checks = tuple(
        check for check in spec.gate.checks if check.suite in _ROW_SUITES and not is_builtin(check)
    )
    if not any(check.required for check in checks):
        raise GateInputError(f"The gate policy of {spec.name!r} requires no check of the rows alone.")
    frames = _checked_frames(spec, train, test)
    has_classes = spec.supervised and not task_spec(spec.task).numeric_target
    job = CheckJob(
        checks=checks,
        rows=frames,
        features=spec.features,
        categorical=spec.one_hot,
        target=spec.target,
        classes=sorted(set(frames["train"][spec.target])) if has_classes else (),
    )
    run = job.run(report_dir, {f"{suite}.html": f"{suite}.html" for suite in _ROW_SUITES})
    return judge(GatePolicy(checks=checks), run)


def judge(policy: GatePolicy, run: WorkerRun) -> tuple[CheckOutcome, ...]:
    """Return one outcome for every check of the policy; what the worker did not report is `missing`.

    Which checks there are and which are required is read from the policy alone.
    """
    return tuple(_outcome(check, run) for check in policy.checks)


def _outcome(check: Check, run: WorkerRun) -> CheckOutcome:
    raw = run.outcomes.get(check.check)
    return CheckOutcome(
        check=check.check,
        suite=check.suite,
        required=check.required,
        status=raw.status if raw else "missing",
        reason=raw.reason if raw else run.failure or "the checks process gave no outcome for it",
        value=raw.value if raw else None,
    )


def _require_fit(spec: ModelSpec, model: OnnxModel) -> None:
    description = model.description
    if description.task != spec.task:
        raise GateInputError(f"{spec.name!r} is a {spec.task}, but the ONNX file is a {description.task}.")
    if description.items and description.items.id_name != spec.dataset.id:
        raise GateInputError(
            f"The ONNX file finds things by {description.items.id_name}, but {spec.name!r} declares "
            f"{spec.dataset.id}. Train the model again if its declaration has changed."
        )
    if description.features != spec.features:
        raise GateInputError(
            f"The ONNX file reads {', '.join(description.features)}, but {spec.name!r} declares "
            f"{', '.join(spec.features)}. Train the model again if its declaration has changed."
        )


def _checked_frames(spec: ModelSpec, train: pd.DataFrame, test: pd.DataFrame) -> dict[str, pd.DataFrame]:
    return {
        "train": checked_frame(spec, train, "training"),
        "test": checked_frame(spec, test, "held-out"),
    }


def _deepchecks_job(spec: ModelSpec, model: OnnxModel, frames: Mapping[str, pd.DataFrame]) -> CheckJob:
    """Return the job of DeepChecks' checks. Without a target they read no predictions."""
    classes = sorted(model.description.classes) if spec.supervised else []
    scored = {side: score_rows(spec, model, frame) for side, frame in frames.items() if spec.supervised}
    return CheckJob(
        checks=[check for check in spec.gate.checks if not is_builtin(check)],
        rows=frames,
        features=spec.features,
        categorical=spec.one_hot,
        target=spec.target,
        classes=classes,
        predictions={side: answers.predictions(classes) for side, answers in scored.items()},
    )
