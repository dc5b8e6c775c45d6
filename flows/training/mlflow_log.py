"""What a training leaves in MLflow: one parent run, one child run per candidate, the ONNX model, evidence."""

from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import onnx
import pandas as pd
from mlflow.data.code_dataset_source import CodeDatasetSource
from mlflow.data.pandas_dataset import from_pandas
from mlflow.entities import Run
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema, TensorSpec
from sklearn.pipeline import Pipeline

from catalog.spec import ModelSpec
from checks.frames import checked_frame, frame_digest
from checks.markdown import checks_table
from flows.data.cleaning import Cleaning
from flows.data.uploads import source_url
from flows.modeling.candidates import Fitted
from flows.modeling.onnx_estimator import OnnxEstimator
from flows.modeling.onnx_export import Agreement
from registry.evidence.verdict import Verdict
from registry.model_format.onnx_model import OnnxModel
from registry.names import GATE, METRIC, MODEL, SCORE, check_tag
from registry.storage.datasets import is_dataset_id

# The source of a dataset that is not a URL: the parameter `dataset` names the package's file.
_CODE = CodeDatasetSource(tags={})
# Tags of runs and versions that a comparison is filtered by, beside those of registry.names.
DATASET = "greenroom.dataset"
COMMIT = "greenroom.commit"
# Named, because MLflow would otherwise load each model once more in a new process to find out.
_SERVING_REQUIREMENTS = ["onnxruntime", "numpy"]


def log_candidate(
    spec: ModelSpec, one: Fitted, train: dict[str, float], held_out: dict[str, float], seconds: float
) -> str:
    """Log one candidate as a child of the active run; return the child's run id."""
    # Created with them, so that no kill leaves a run that nobody can tell what it was.
    tags = {MODEL: spec.name, "greenroom.role": "candidate"}
    with mlflow.start_run(run_name=one.candidate.name, nested=True, tags=tags) as run:
        mlflow.set_tags(_shared_tags())
        mlflow.log_params({"estimator": one.candidate.estimator, **one.candidate.params})
        mlflow.log_metrics(
            {
                **_folds(spec, one),
                "fit_seconds": seconds,
                **_prefixed("train", train),
                **_prefixed("test", held_out),
            }
        )
    return str(run.info.run_id)


def log_data(spec: ModelSpec, cleaning: Cleaning, train: pd.DataFrame, test: pd.DataFrame) -> Any:
    """Log the datasets, with the digests that the gate's verdict names, to the active run.

    The training rows' digest is a tag, too, to filter runs by, and the commit.
    Returns the held-out dataset, so that metrics can be linked to it.
    """
    logged = None
    for context, frame in (("training", train), ("held-out", test)):
        found = frame_digest(checked_frame(spec, frame, context))
        if context == "training":
            mlflow.set_tag(DATASET, found)
        logged = from_pandas(
            frame,
            source=_source(spec.dataset.source),
            targets=spec.label,
            name=f"{spec.dataset.name}-{context}",
            # MLflow takes at most 36 characters.
            digest=found.removeprefix("sha256:")[:36],
        )
        mlflow.log_input(logged, context=context)
    mlflow.log_params(
        {
            "dataset": spec.dataset.source,
            **{f"rows_{key}": value for key, value in cleaning.to_dict().items()},
            "rows_train": len(train),
            "rows_test": len(test),
        }
    )
    return logged


def log_winner(
    spec: ModelSpec,
    winner: Fitted,
    *,
    onnx_bytes: bytes,
    example: pd.DataFrame,
    metrics: dict[str, float],
    agreement: Agreement,
    held_out: Any,
) -> str:
    """Log the winner to the active run: as ONNX with signature and example, and as scikit-learn.

    `metrics` are logged under their names, with those of the folds. Returns the id of the ONNX LoggedModel,
    to which they are linked.
    """
    matrix = example.to_numpy(dtype=np.float32)
    info = mlflow.onnx.log_model(
        onnx.load_model_from_string(onnx_bytes),
        name="model",
        signature=_signature(spec, onnx_bytes),
        input_example=matrix,
        pip_requirements=_SERVING_REQUIREMENTS,
        metadata={"features": list(spec.features), "target": spec.label, "task": spec.task},
        onnx_execution_providers=["CPUExecutionProvider"],
        # One file, whose digest is the model's.
        save_as_external_data=False,
    )
    mlflow.log_params({"winner": winner.candidate.name, "winner_estimator": winner.candidate.estimator})
    linked = {
        **metrics,
        **_folds(spec, winner),
        **_calibration(winner),
        "onnx_max_difference": agreement.max_difference,
        **({"onnx_label_agreement": agreement.labels} if agreement.labels is not None else {}),
    }
    mlflow.log_metrics(linked, model_id=info.model_id, dataset=held_out)
    if not isinstance(winner.pipeline[-1], OnnxEstimator):  # which has no other form
        log_sklearn(winner.pipeline, example)
    return str(info.model_id)


def log_sklearn(pipeline: Pipeline, example: pd.DataFrame) -> None:
    """Keep the pipeline as it was fitted, for the data scientist. It is never loaded to serve."""
    # A search has no predict, so that MLflow's generic form of it is not to be had.
    answers = pipeline.predict(example) if hasattr(pipeline, "predict") else None
    mlflow.sklearn.log_model(
        pipeline,
        name="sklearn-model",
        serialization_format="cloudpickle",
        signature=mlflow.models.infer_signature(example, answers),
        pip_requirements=["scikit-learn", "pandas"],
    )


def log_verdict(verdict: Verdict, report_dir: Path) -> None:
    """Log the verdict, its reports and each check's result to the active run, to compare and filter by."""
    mlflow.log_artifacts(str(report_dir), "gate")
    values = {f"check.{o.check}": o.value for o in verdict.outcomes if o.value is not None}
    passed = sum(o.status == "passed" for o in verdict.outcomes)
    counts = {"checks_passed": passed, "checks_failed": len(verdict.outcomes) - passed}
    mlflow.log_metrics({**values, **counts, "checks_refusing": len(verdict.refusals)})
    mlflow.set_tags({check_tag(o.check): o.status for o in verdict.outcomes})
    mlflow.set_tag(GATE, "passed" if verdict.passed else "refused")
    mlflow.set_tag("mlflow.note.content", note(verdict))


def version_tags(spec: ModelSpec, verdict: Verdict, score: float) -> dict[str, str]:
    """Return the tags of a new version: what `greenroom status` and the UI show of it.

    What the gate said is not among them: the server writes that from the signed evidence.
    """
    return {
        METRIC: spec.metric,
        SCORE: f"{score:.6g}",
        DATASET: verdict.dataset_digests["train"],
        **({COMMIT: verdict.git_commit} if verdict.git_commit else {}),
    }


def register(
    spec: ModelSpec, run: Run, model_id: str, tags: dict[str, str], description: str | None = None
) -> int:
    """Register a logged model as a new version, in one request, and return its number.

    `description` is Markdown that the version's page shows.
    Run again for the same logged model (a flow that was cut short), it returns the version there is.
    """
    client = mlflow.MlflowClient()
    source = f"models:/{model_id}"
    for version in client.search_model_versions(f"name = '{spec.name}'"):
        if version.source == source:
            return int(version.version)
    if not client.search_registered_models(f"name = '{spec.name}'"):
        client.create_registered_model(spec.name, description=spec.description)
    made = client.create_model_version(
        spec.name, source, run_id=run.info.run_id, tags=tags, model_id=model_id, description=description
    )
    return int(made.version)


def _source(source: str) -> str | CodeDatasetSource:
    if is_dataset_id(source):
        return source_url(source)
    return source if "://" in source else _CODE


def _signature(spec: ModelSpec, onnx_bytes: bytes) -> ModelSignature:
    """The signature of the ONNX graph: one matrix in; what a task answers (registry/model_format) out."""
    model = OnnxModel(onnx_bytes)
    inputs = Schema([TensorSpec(np.dtype("float32"), (-1, len(spec.features)))])
    outputs: list[ColSpec | TensorSpec]
    if spec.task == "classification":
        classes = len(model.description.classes)
        outputs = [
            TensorSpec(np.dtype("str"), (-1,), model.outputs[0]),
            TensorSpec(np.dtype("float32"), (-1, classes), model.outputs[1]),
        ]
    elif spec.task == "similarity":
        outputs = [
            TensorSpec(np.dtype(kind), (-1, -1), name)
            for kind, name in zip(("int64", "float32"), model.outputs, strict=True)
        ]
    elif spec.task == "clustering":
        outputs = [TensorSpec(np.dtype("int64"), (-1,), model.outputs[0])]
    else:
        outputs = [TensorSpec(np.dtype("float32"), (-1, 1), model.outputs[0])]
    return ModelSignature(inputs=inputs, outputs=Schema(outputs))


def note(verdict: Verdict) -> str:
    """Markdown that MLflow shows on the run's page."""
    title = "The gate let this model pass." if verdict.passed else "**The gate refused this model.**"
    return f"{title} Reports are among the artifacts, under `gate/`.\n\n{checks_table(verdict)}\n"


def _shared_tags() -> dict[str, str]:
    """What a child run has of its parent, to be found by the same filter."""
    run = mlflow.active_run()
    parent = run.data.tags.get("mlflow.parentRunId") if run else None
    tags = mlflow.get_run(parent).data.tags if parent else {}
    return {key: tags[key] for key in (DATASET, COMMIT) if key in tags}


def _folds(spec: ModelSpec, one: Fitted) -> dict[str, float]:
    """The scores of training folds, with scikit-learn's sign: higher is better, also of a loss."""
    return {f"cv_{spec.metric}": one.cv_mean, f"cv_{spec.metric}_std": one.cv_std}


def _calibration(winner: Fitted) -> dict[str, float]:
    """What training folds say of a classifier's probabilities before and after calibration."""
    if (found := winner.calibration) is None:
        return {}
    after = found.before if found.temperature is None else found.after
    return {
        **{f"cv_uncalibrated_{name}": value for name, value in found.before.items()},
        **{f"cv_calibrated_{name}": value for name, value in after.items()},
        "temperature": found.temperature or 1.0,
    }


def _prefixed(prefix: str, metrics: dict[str, float]) -> dict[str, float]:
    return {f"{prefix}_{name}": value for name, value in metrics.items()}
