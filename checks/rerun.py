"""The gate run again on a version: on what the tracking server holds, as evidence with a new signature."""

from pathlib import Path
from tempfile import TemporaryDirectory

from catalog.spec import ModelSpec
from checks.comparison import find_incumbent
from checks.errors import GateInputError
from checks.frames import from_parquet
from checks.gate import ROWS_FILES, VERDICT_FILE, run_gate
from registry.client.registry import Registry, Version
from registry.errors import NotFoundError
from registry.evidence import keys
from registry.evidence.verdict import Verdict
from registry.model_format.onnx_model import OnnxModel
from registry.settings import KeySettings


def rerun_gate(registry: Registry, version: Version, spec: ModelSpec) -> Verdict:
    """Run the gate on the stored model and rows, store its reports and verdict there, sign and return it.

    Raises `KeyFileError` without the gate's key, before any work; `NotFoundError` when what the gate looked
    at is not stored; `GateInputError` when the rows are not those of the verdict before; and what `run_gate`
    and the registry raise.
    """
    keys.signer("gate", KeySettings())  # before the work: without it there is no evidence to be had
    try:
        stored = {side: registry.artifact(version, f"gate/{name}") for side, name in ROWS_FILES.items()}
        model = OnnxModel(registry.model_bytes(version), threads=2)
    except NotFoundError as error:
        raise NotFoundError(
            f"{version} cannot be checked again, for what the gate looked at is not stored: {error}"
        ) from error
    try:
        before = registry.verdict(version)
    except NotFoundError:
        before = None  # refused or interrupted before there was one; this run makes it
    with TemporaryDirectory(prefix="greenroom-rerun-") as temporary:
        folder = Path(temporary)
        verdict = run_gate(
            spec,
            train=from_parquet(stored["train"]),
            test=from_parquet(stored["test"]),
            model=model,
            report_dir=folder,
            git_commit=before.git_commit if before else None,
            incumbent=find_incumbent(registry, version.model, version.number),
        )
        if before and before.dataset_digests != verdict.dataset_digests:
            raise GateInputError(
                f"The rows stored with {version} are not those that its verdict is about, so checking it on "
                "them says nothing. Train the model again."
            )
        # The verdict goes last, so that an interrupted upload leaves no new verdict beside old reports.
        for file in sorted(folder.iterdir(), key=lambda file: file.name == VERDICT_FILE):
            if file.name not in ROWS_FILES.values():
                registry.put_artifact(version, f"gate/{file.name}", file.read_bytes())
    registry.attest(version, verdict, KeySettings())
    return verdict
