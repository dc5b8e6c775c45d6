"""The DeepChecks process: `PYTHON -s checks/worker JOB_DIR`, or `--serve` for many jobs.

Reads `job.json`, `{train,test}.parquet` (features, then the target, if there is one) and, with a target and a
model, `{train,test}_predictions.parquet` (`prediction`, one column of probabilities per class) in JOB_DIR.
Writes `outcomes.json` after every suite, so that what ran before a crash is known, and `SUITE.html`. It
judges nothing: the gate does.

With `--serve` it reads the folder of one job after the other from standard input, runs each in a child that
it forks, and writes the child's exit code to standard output: DeepChecks is imported once.

Exit codes: 0 all suites were tried, 3 this environment cannot run DeepChecks, anything else a crash.
"""

import gc
import json
import logging
import os
import sys
import tempfile
import traceback
import warnings
from pathlib import Path

# jsonschema uses this package if it is there, and it builds a grammar for 2.7 s at import; nothing here
# checks the format of an address.
sys.modules["rfc3987_syntax"] = None
# What is imported stays: the collector need not walk through it so often.
gc.set_threshold(100_000)
warnings.filterwarnings("ignore")

CANNOT_RUN = 3

try:
    import deepchecks
    import pandas as pd
    from build import BadDeclarationError, build
    from deepchecks.tabular import Dataset, Suite
    from outcomes import read_results, refused_declaration
    from report import write_report
except Exception:  # noqa: BLE001 - an environment that is half there fails in many ways
    traceback.print_exc()
    sys.exit(CANNOT_RUN)


def main(folder: Path) -> None:
    """Run the job in `folder`."""
    deepchecks.set_verbosity(logging.ERROR)  # no progress bars in the gate's log
    job = json.loads((folder / "job.json").read_text())
    inputs = _read_inputs(folder, job)
    outcomes: list[dict] = []
    for suite in dict.fromkeys(check["suite"] for check in job["checks"]):
        declared = [check for check in job["checks"] if check["suite"] == suite]
        outcomes += _run_suite(suite, declared, inputs, folder)
        _write_outcomes(folder, outcomes)


def _run_suite(suite: str, declared: list[dict], inputs: dict, folder: Path) -> list[dict]:
    """Run the checks of one suite; each gets an outcome, also one that raises."""
    built, outcomes = {}, []
    for declaration in declared:
        try:
            built[declaration["check"]] = build(declaration)
        except BadDeclarationError as error:
            outcomes.append(refused_declaration(declaration["check"], str(error)))
    if not built:
        return outcomes
    # A check of one table looks at both: broken training rows make a bad model, broken held-out rows a
    # false score. The score on rows that the model was trained on does not matter, though.
    only = "Test" if suite == "model_evaluation" else None
    try:
        result = Suite(suite, *built.values()).run(**inputs, run_single_dataset=only)
    except Exception as error:  # noqa: BLE001 - DeepChecks refused the data as a whole: no check ran
        reason = f"the suite did not start: {type(error).__name__}: {error}"
        return outcomes + [refused_declaration(name, reason) for name in built]
    write_report(result, folder / f"{suite}.html")
    return outcomes + read_results(built, result.results)


def _read_inputs(folder: Path, job: dict) -> dict:
    """Return the arguments of `Suite.run` that describe data and predictions."""
    classes = job["classes"] or None
    inputs: dict = {"model_classes": classes}
    start = 0
    for side in ("train", "test"):
        frame = pd.read_parquet(folder / f"{side}.parquet")
        labelled = job["target"] is not None
        # What only names a row would make each another one.
        frame = frame[[*job["features"], *([job["target"]] if labelled else [])]]
        # DeepChecks looks predictions up by index, so no row may share one with the other side.
        frame.index = range(start, start + len(frame))
        start += len(frame)
        inputs[f"{side}_dataset"] = Dataset(
            frame,
            label=job["target"],
            features=job["features"],
            cat_features=job["categorical"],
            label_type=job["label_type"],
            dataset_name={"train": "Train", "test": "Test"}[side],
        )
        predicted = folder / f"{side}_predictions.parquet"
        if (
            not predicted.exists()
        ):  # without a target, or only the rows are asked about: there is no model yet
            continue
        predictions = pd.read_parquet(predicted)
        inputs[f"y_pred_{side}"] = predictions.pop("prediction").to_numpy()
        if classes and len(predictions.columns):  # of a clustering there are none
            inputs[f"y_proba_{side}"] = predictions.to_numpy()
    return inputs


def _write_outcomes(folder: Path, outcomes: list[dict]) -> None:
    content = {"deepchecks": deepchecks.__version__, "outcomes": outcomes}
    part = folder / "outcomes.part"
    part.write_text(json.dumps(content, indent=1, allow_nan=False))
    part.replace(folder / "outcomes.json")


def serve() -> None:
    """Run the jobs whose folders standard input names, one at a time, until it ends."""
    gc.collect()
    gc.freeze()  # a collection in a child would copy every page
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            os._exit(_run_in_child(Path(line.rstrip("\n"))))
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


def _run_in_child(folder: Path) -> int:
    """Run a job with the folder for everything that it writes; return its exit code."""
    with (folder / "stderr.txt").open("ab", buffering=0) as log, Path(os.devnull).open("r+b") as nothing:
        os.dup2(nothing.fileno(), 0)
        os.dup2(nothing.fileno(), 1)
        os.dup2(log.fileno(), 2)
    os.environ.update(HOME=str(folder), TMPDIR=str(folder))
    tempfile.tempdir = None
    os.chdir(folder)
    try:
        main(folder)
    except BaseException:  # noqa: BLE001 - as an interpreter does at its end
        traceback.print_exc()
        sys.stderr.flush()
        return 1
    return 0


if __name__ == "__main__":
    if sys.argv[1] == "--serve":
        serve()
    else:
        main(Path(sys.argv[1]))
