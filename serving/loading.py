"""From the registry to a loaded model, whose bytes are those that were checked."""

import logging
from contextlib import suppress

from catalog.spec import ModelSpec
from registry.client import TrackingClient
from registry.errors import EvidenceBytesError, NotFoundError, RegistryError
from registry.evidence import digest
from registry.onnx_model import OnnxModel
from registry.settings import RegistrySettings
from registry.stage import Stage
from registry.stages import MODEL_FILE, Registry, digest_of

_log = logging.getLogger("greenroom.serving")


def load_production(settings: RegistrySettings, spec: ModelSpec) -> tuple[int, OnnxModel]:
    """Return the number and the model of the version in Production.

    Its evidence must be signed by a trusted key and be about these very bytes: what the registry says alone
    is not believed. A mismatch is also reported to the tracking server, which records it. Raises
    `NotFoundError` when there is no version, an `EvidenceError` that says what is wrong with it, and
    whatever `Registry` and `OnnxModel` raise.
    """
    with TrackingClient(settings) as client:
        registry = Registry(client)
        version = registry.in_stage(spec.name, Stage.PRODUCTION)
        if version is None:
            raise NotFoundError(
                f"It has no version in Production. Train one with `greenroom train {spec.name}`, promote it "
                f"with `greenroom promote {spec.name} VERSION`, then restart the predictor."
            )
        evidence = registry.evidence(version, settings)
        content = registry.model_bytes(version)
        checked = digest_of(evidence.files, MODEL_FILE)
        if digest(content) != checked:
            _log.error("%s: its bytes are %s, its evidence is about %s", version, digest(content), checked)
            # A predictor may only be allowed to read; then the log and this refusal must do.
            with suppress(RegistryError):
                registry.report_mismatch(version)
            raise EvidenceBytesError(
                f"{version} in Production does not hold the bytes that were checked: its {MODEL_FILE} was "
                f"exchanged. `greenroom rollback {spec.name} --reason …` brings the last good version back."
            )
        return version.number, OnnxModel(content)
