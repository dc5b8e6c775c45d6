"""Trains again what a version's evidence names, and compares the file to the byte. Nothing is logged."""

from dataclasses import dataclass
from typing import Any

from catalog.loader import get_model
from catalog.spec import ModelSpec
from checks.data.fingerprints import git_commit
from checks.data.rows import load_rows
from checks.data.splits import SplitRows
from checks.data.uploads import trained_on
from checks.frames import checked_frame, frame_digest
from flows.errors import TrainingError
from flows.modeling import candidates, onnx_export, search
from flows.tasks.registry import task_of
from flows.training.mlflow_log import SEARCH_TRIALS
from registry.client.registry import Registry, Version, digest_of
from registry.digests import digest
from registry.evidence.attestation import Evidence
from registry.model_format.mlflow_folder import MODEL_FILE
from registry.settings import KeySettings
from registry.storage.datasets import is_dataset_id

# Far more than a search of a model has; hours of work.
_MOST_TRIALS = 1_000


@dataclass(frozen=True)
class Reproduction:
    """The digest of the file that a training came to again, beside the one that was signed: `sha256:HEX`.

    `notes` name what is not as it was: they explain a difference.
    """

    signed: str
    trained: str
    notes: tuple[str, ...]

    @property
    def same(self) -> bool:
        """Whether both files are the same to the byte."""
        return self.signed == self.trained


def reproduce(registry: Registry, version: Version) -> Reproduction:
    """Train a version's model again, on the rows that its evidence names.

    Raises `UnknownModelError` for a model that no catalogue declares, `EvidenceError` without genuine
    evidence, `DataError` for a table that cannot be used, and `TrainingError` for rows that are not those of
    the evidence, or for what nobody can train again because it was fitted elsewhere.
    """
    evidence = registry.evidence(version, KeySettings())
    signed = digest_of(evidence.files, MODEL_FILE)
    run = registry.run(version)["data"]
    parameters = {item["key"]: item["value"] for item in run.get("params", [])}
    if signed is None or not evidence.dataset_digests or "winner" not in parameters:
        raise TrainingError(
            f"{version} was not trained by `greenroom train`, so there is nothing to do again."
        )
    spec, dataset = get_model(version.model), parameters.get("dataset", "")
    if is_dataset_id(dataset):
        spec = trained_on(spec, dataset)
    rows = load_rows(spec)
    held = frame_digest(checked_frame(spec, rows.train.frame, "training"))
    if held != evidence.dataset_digests.get("train"):
        raise TrainingError(
            f"The training rows of {version} were {evidence.dataset_digests['train'][:19]}…, and "
            f"{spec.dataset.source} gives {held[:19]}… now: the table or its declaration changed, so nobody "
            "can tell whether the training is the same."
        )
    trials = _trials(parameters.get(SEARCH_TRIALS, str(spec.search_trials)), version)
    return Reproduction(signed, digest(train_file(spec, rows, trials)), _notes(evidence, parameters))


def train_file(spec: ModelSpec, rows: SplitRows, trials: int) -> bytes:
    """Return the ONNX file that a training comes to: the steps of the flow that decide it, and no others.

    The same declaration, rows, number of trials, code and libraries give the same bytes on every machine,
    however many cores it has and however busy it is. Raises `TrainingError` and `ExportError`.
    """
    fitted = [candidates.fit(spec, candidate, rows.train, rows.folds) for candidate in spec.candidates]
    fitted, _ = search.refine(spec, fitted, rows.train, rows.folds, trials=trials)
    winner = candidates.calibrate(spec, candidates.best(fitted), rows.train)
    pipeline, things = task_of(spec).served(winner.pipeline, rows.train, rows.test)
    return onnx_export.export(spec, pipeline, rows.train.features, things)


def _trials(text: str, version: Version) -> int:
    """Return the number of trials that a run names: whoever made the run could write anything there."""
    if not text.isascii() or not text.isdigit() or int(text[:6]) > _MOST_TRIALS:
        raise TrainingError(
            f"The run of {version} says that its search had {text[:20]!r} trials, which is no number of at "
            f"most {_MOST_TRIALS:,}, so nobody can tell whether the training is the same."
        )
    return int(text)


def _notes(evidence: Evidence, parameters: dict[str, Any]) -> tuple[str, ...]:
    notes = []
    signed, here = evidence.configuration.get("code", {}).get("gitCommit"), git_commit()
    if signed != here:
        notes.append(f"the gate judged it at commit {signed or 'unknown'}, this is {here or 'unknown'}")
    if SEARCH_TRIALS not in parameters:
        notes.append("its run does not say how many trials the search had; the declaration's number is taken")
    return tuple(notes)
