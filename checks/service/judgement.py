"""Judges one version: its rows from their source, its bytes from the registry, the verdict signed."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from catalog.spec import ModelSpec
from catalog.table_declaration import DECLARATION_FILE
from checks.comparison import find_incumbent
from checks.data.fingerprints import git_commit
from checks.data.rows import load_rows
from checks.data.splits import SplitRows
from checks.errors import GateInputError
from checks.frames import checked_frame, frame_digest
from checks.gate import VERDICT_FILE, run_gate
from checks.job import WarmWorker, use_warm_worker
from checks.service.declarations import find_declared
from checks.service.model_file import MAX_BYTES, require_plain_file
from checks.service.trial import require_runs
from checks.settings import ChecksSettings
from registry.client.registry import REPORT_SUFFIXES, Registry, Version
from registry.errors import EvidenceBytesError
from registry.evidence import keys
from registry.evidence.attestation import read_unverified
from registry.evidence.verdict import Verdict
from registry.model_format.onnx_model import OnnxModel
from registry.names import DATASET, EVIDENCE, GATED
from registry.settings import KeySettings


@contextmanager
def judging() -> Iterator[None]:
    """Keep one DeepChecks process warm for all verdicts of this process."""
    # Elsewhere than on Linux a process with DeepChecks' libraries cannot be forked safely.
    if sys.platform != "linux":
        yield
        return
    with WarmWorker(ChecksSettings()) as worker:
        use_warm_worker(worker)
        try:
            yield
        finally:
            use_warm_worker(None)


def judge_version(registry: Registry, model: str, number: int) -> Verdict:
    """Judge a version, store the gate's reports and verdict in its run, sign the verdict and return it.

    The rows are read from the declared source, or from the store of datasets by their digest, and are split
    here: what a run holds is no input. The version is compared with the one in Production.

    Raises `KeyFileError` without the gate's key, before any work; `NotFoundError` for what does not exist;
    `DataError` when the table cannot be used; `GateInputError` when rows or model are not those that the
    version declares; `EvidenceBytesError` when a version in a stage does not hold the bytes that got it
    there; and what `run_gate` and the registry raise.
    """
    keys.signer("gate", KeySettings())
    version = registry.version(model, number)
    judged = find_declared(registry, version)
    _require_same_bytes(registry, version)
    content = registry.model_bytes(version, max_bytes=MAX_BYTES)
    require_plain_file(content)
    rows = load_rows(judged.spec)
    _require_trained_on(judged.spec, rows, version)

    def require_usable(file: bytes) -> None:
        require_plain_file(file)
        require_runs(file, judged.spec, rows)

    require_usable(content)
    onnx = OnnxModel(content, threads=2)
    with TemporaryDirectory(prefix="greenroom-gate-") as scratch:
        folder = Path(scratch)
        verdict = run_gate(
            judged.spec,
            train=rows.train.frame,
            test=rows.test.frame,
            model=onnx,
            report_dir=folder,
            git_commit=git_commit(),
            incumbent=find_incumbent(registry, model, number, require_usable),
            data=judged.origin,
        )
        contents = {file.name: file.read_bytes() for file in sorted(folder.iterdir())}
    if judged.declaration is not None:
        contents[DECLARATION_FILE] = judged.declaration  # the one that was read, whatever is there now
    # The verdict goes last, so that an interrupted upload leaves no new verdict beside old reports.
    for name in sorted(contents, key=lambda name: name == VERDICT_FILE):
        registry.put_artifact(version, f"gate/{name}", contents[name])
    reports = {name: raw for name, raw in contents.items() if name.endswith(REPORT_SUFFIXES)}
    registry.attest(version, verdict, KeySettings(), reports)
    return verdict


def _require_same_bytes(registry: Registry, version: Version) -> None:
    """Evidence on a version in a stage can be renewed for the same bytes alone."""
    before = read_unverified(version.tags.get(EVIDENCE, "")) if version.stage in GATED else None
    if before and dict(before.files) != registry.files(version):
        raise EvidenceBytesError(
            f"{version} is in {version.stage} and does not hold the files that it came there with. "
            f"`greenroom rollback {version.model} --reason …` brings the last good version back."
        )


def _require_trained_on(spec: ModelSpec, rows: SplitRows, version: Version) -> None:
    """A table that changed since the training has other held-out rows, and the model may know those."""
    claimed = version.tags.get(DATASET)
    if claimed and claimed != frame_digest(checked_frame(spec, rows.train.frame, "training")):
        raise GateInputError(
            f"The table {spec.dataset.source} or its declaration changed since {version} was trained: its "
            f"training rows were {claimed[:19]}… Train the model again with `greenroom train {spec.name}`."
        )
