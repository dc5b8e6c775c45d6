"""What a training leaves in MLflow: one parent run, one child run per candidate, the ONNX model, evidence."""

from typing import Any

import mlflow
import numpy as np
import onnx
import pandas as pd
from mlflow.data.code_dataset_source import CodeDatasetSource
from mlflow.data.pandas_dataset import from_pandas
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema, TensorSpec
from sklearn.pipeline import Pipeline

from catalog.spec import ModelSpec
from catalog.table_declaration import DECLARATION_FILE
from checks.data.fingerprints import git_commit
from checks.data.uploads import dataset_uri
from checks.frames import checked_frame, frame_digest
from checks.markdown import checks_table
from flows.evaluation.model_card import Facts
from flows.modeling.candidates import FittedCandidate
from flows.modeling.onnx_estimator import OnnxEstimator
from flows.modeling.trained_model import ScoredCandidate, TrainedModel
from flows.tasks.answers import answer_form
from registry.evidence.verdict import Verdict
from registry.model_format.onnx_model import OnnxModel
from registry.names import DATASET, GATE, METRIC, MODEL, SCORE, check_tag
from registry.storage.datasets import is_dataset_id

# The source of a dataset that is not a URL: the parameter `dataset` names the package's file.
_CODE = CodeDatasetSource(tags={})
# A tag of runs and versions to filter by, beside those of registry.names.
COMMIT = "greenroom.commit"
# The parameter with the number of trials of the search, without the declared candidates.
SEARCH_TRIALS = "search_trials"
# Named, because MLflow would otherwise load each model once more in a new process to find out.
_SERVING_REQUIREMENTS = ["onnxruntime", "numpy"]


def log_candidate(spec: ModelSpec, candidate: ScoredCandidate) -> str:
    """Log one candidate as a child of the active run; return the child's run id."""
    fitted = candidate.fitted
    declared = fitted.candidate
    # Created with its tags, so that a kill leaves no run without them.
    tags = {MODEL: spec.name, "greenroom.role": "candidate"}
    with mlflow.start_run(run_name=declared.name, nested=True, tags=tags) as run:
        mlflow.set_tags(_shared_tags())
        mlflow.log_params({"estimator": declared.estimator, **declared.params})
        mlflow.log_metrics(
            {
                **_folds(spec, fitted),
                "fit_seconds": fitted.seconds,
                **_prefixed("train", candidate.train),
                **_prefixed("test", candidate.test),
            }
        )
    return str(run.info.run_id)


def log_run(model: TrainedModel) -> Any:
    """Log parameters, datasets and every candidate to the active run.

    The datasets have the digests that the gate's verdict names. The training rows' digest and the commit are
    tags, too, to filter runs by. Returns the held-out dataset, so that metrics can be linked to it.
    """
    spec, train, test, logged = model.spec, model.data.train.frame, model.data.test.frame, None
    if commit := git_commit():
        mlflow.set_tags({"mlflow.source.git.commit": commit, COMMIT: commit})
    if model.declaration:  # the gate reads it there
        mlflow.log_text(model.declaration, f"gate/{DECLARATION_FILE}")
    for context, frame in (("training", train), ("held-out", test)):
        digest = _digest(spec, frame)
        if context == "training":
            mlflow.set_tag(DATASET, digest)
        logged = from_pandas(
            frame,
            source=_source(spec.dataset.source),
            targets=spec.label,
            name=f"{spec.dataset.name}-{context}",
            # MLflow takes at most 36 characters.
            digest=digest.removeprefix("sha256:")[:36],
        )
        mlflow.log_input(logged, context=context)
    mlflow.log_params(
        {
            "task": spec.task,
            "target": spec.label or "none",
            "seed": spec.split.seed,
            "dataset": spec.dataset.source,
            **{f"rows_{key}": value for key, value in model.cleaning.to_dict().items()},
            "rows_train": len(train),
            "rows_test": len(test),
            SEARCH_TRIALS: sum(trial.state != "declared" for trial in model.trials),
        }
    )
    for candidate in model.scored:
        log_candidate(spec, candidate)
    return logged


def log_winner(model: TrainedModel, metrics: dict[str, float], held_out: Any) -> str:
    """Log the winner to the active run: as ONNX with signature and example, and as scikit-learn.

    `metrics` are logged under their names, with those of the folds. Returns the id of the ONNX LoggedModel,
    to which they are linked.
    """
    spec, winner = model.spec, model.winner
    example = model.data.test.features.head(3)
    info = mlflow.onnx.log_model(
        onnx.load_model_from_string(model.content),
        name="model",
        signature=signature(model.content),
        input_example=example.to_numpy(dtype=np.float32),
        pip_requirements=_SERVING_REQUIREMENTS,
        metadata={"features": list(spec.features), "target": spec.label, "task": spec.task},
        onnx_execution_providers=["CPUExecutionProvider"],
        # One file, whose digest is the model's.
        save_as_external_data=False,
    )
    mlflow.log_params(_parameters(winner))
    labels = model.agreement.labels
    linked = {
        **metrics,
        **_folds(spec, winner),
        **_calibration(winner),
        "onnx_max_difference": model.agreement.max_difference,
        **({} if labels is None else {"onnx_label_agreement": labels}),
    }
    mlflow.log_metrics(linked, model_id=info.model_id, dataset=held_out)
    if not isinstance(winner.pipeline[-1], OnnxEstimator):  # which has no other form
        log_sklearn(winner.pipeline, example)
    return str(info.model_id)


def _parameters(winner: FittedCandidate) -> dict[str, Any]:
    """Return the winner's parameters, all of them, for MLflow's comparison and `greenroom diff`.

    Those that nobody set have scikit-learn's defaults, which another release may change.
    """
    estimator = winner.pipeline[-1]
    values = {**estimator.get_params(deep=False), **winner.candidate.params}
    return {
        "winner": winner.candidate.name,
        "winner_estimator": winner.candidate.estimator,
        # MLflow keeps 6,000 characters.
        **{f"winner.{name}": str(value)[:6000] for name, value in sorted(values.items())},
    }


def log_sklearn(pipeline: Pipeline, example: pd.DataFrame) -> None:
    """Keep the pipeline as it was fitted, for the data scientist. It is never loaded to serve."""
    # A neighbour search has no `predict`, so MLflow has no generic form of it.
    predictions = pipeline.predict(example) if hasattr(pipeline, "predict") else None
    mlflow.sklearn.log_model(
        pipeline,
        name="sklearn-model",
        serialization_format="cloudpickle",
        signature=mlflow.models.infer_signature(example, predictions),
        pip_requirements=["scikit-learn", "pandas"],
    )


def log_verdict(verdict: Verdict) -> None:
    """Log each check's result to the active run, to compare and filter by; the gate stores its reports."""
    values = {f"check.{o.check}": o.value for o in verdict.outcomes if o.value is not None}
    passed = sum(o.status == "passed" for o in verdict.outcomes)
    counts = {"checks_passed": passed, "checks_failed": len(verdict.outcomes) - passed}
    mlflow.log_metrics({**values, **counts, "checks_refusing": len(verdict.refusals)})
    mlflow.set_tags({check_tag(o.check): o.status for o in verdict.outcomes})
    mlflow.set_tag(GATE, "passed" if verdict.passed else "refused")


def register(facts: Facts, model_id: str) -> int:
    """Register a logged model as a new version, in one request, and return its number.

    `greenroom status` and the UI show the tags; the gate's verdict is not among them: the server writes that
    from the signed evidence. Run again for the same logged model (a flow that was cut short), it returns the
    version there is.
    """
    client, spec, commit = mlflow.MlflowClient(), facts.spec, git_commit()
    tags = {
        **facts.model.tags,
        METRIC: spec.metric,
        SCORE: f"{facts.evaluation.headline.value:.6g}",
        DATASET: _digest(spec, facts.model.data.train.frame),
        **({COMMIT: commit} if commit else {}),
    }
    source = f"models:/{model_id}"
    for version in client.search_model_versions(f"name = '{spec.name}'"):
        if version.source == source:
            return int(version.version)
    if not client.search_registered_models(f"name = '{spec.name}'"):
        client.create_registered_model(spec.name, description=spec.description)
    created = client.create_model_version(
        spec.name, source, run_id=facts.run_id, tags=tags, model_id=model_id
    )
    return int(created.version)


def _digest(spec: ModelSpec, frame: pd.DataFrame) -> str:
    return frame_digest(checked_frame(spec, frame, "training"))


def _source(source: str) -> str | CodeDatasetSource:
    if is_dataset_id(source):
        return dataset_uri(source)
    return source if "://" in source else _CODE


def signature(content: bytes) -> ModelSignature:
    """Return the signature of an ONNX file: one matrix in; its task's answers out."""
    model = OnnxModel(content)
    inputs = Schema([TensorSpec(np.dtype("float32"), (-1, len(model.description.features)))])
    shapes = answer_form(model.description.task, model.description.classes).signature()
    outputs: list[ColSpec | TensorSpec] = [
        TensorSpec(np.dtype(kind), shape, name)
        for (kind, shape), name in zip(shapes, model.outputs, strict=True)
    ]
    return ModelSignature(inputs=inputs, outputs=Schema(outputs))


def note(verdict: Verdict) -> str:
    """Markdown that MLflow shows on the run's page."""
    title = "The gate let this model pass." if verdict.passed else "**The gate refused this model.**"
    return f"{title} Reports are among the artifacts, under `gate/`.\n\n{checks_table(verdict)}\n"


def _shared_tags() -> dict[str, str]:
    """Return the tags that a child run shares with its parent, so that one filter finds both."""
    run = mlflow.active_run()
    parent = run.data.tags.get("mlflow.parentRunId") if run else None
    tags = mlflow.get_run(parent).data.tags if parent else {}
    return {key: tags[key] for key in (DATASET, COMMIT) if key in tags}


def _folds(spec: ModelSpec, fitted: FittedCandidate) -> dict[str, float]:
    """The scores of training folds, with scikit-learn's sign: higher is better, also of a loss."""
    return {f"cv_{spec.metric}": fitted.cv_mean, f"cv_{spec.metric}_std": fitted.cv_std}


def _calibration(winner: FittedCandidate) -> dict[str, float]:
    """Return the quality of a classifier's probabilities on folds, before and after calibration."""
    if (calibration := winner.calibration) is None:
        return {}
    after = calibration.before if calibration.temperature is None else calibration.after
    return {
        **{f"cv_uncalibrated_{name}": value for name, value in calibration.before.items()},
        **{f"cv_calibrated_{name}": value for name, value in after.items()},
        "temperature": calibration.temperature or 1.0,
    }


def _prefixed(prefix: str, metrics: dict[str, float]) -> dict[str, float]:
    return {f"{prefix}_{name}": value for name, value in metrics.items()}
