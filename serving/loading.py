"""From the registry, or from the cache, to a loaded model whose bytes are those that were checked."""

import logging
import math
from contextlib import suppress

import numpy as np
from pydantic import BaseModel

from catalog.contract import to_row
from catalog.spec import ModelSpec
from registry.errors import EvidenceBytesError, ModelFormatError, RegistryError
from registry.evidence import digest
from registry.onnx_model import OnnxModel
from registry.settings import KeySettings
from registry.stages import MODEL_FILE, Registry, Version, digest_of, genuine_evidence
from serving.models import ServedModel
from serving.pyfunc import PyfuncFiles, PyfuncModel, fetched, is_pyfunc
from serving.settings import ServingSettings

_log = logging.getLogger("greenroom.serving")


# An ONNX file, or the folder of a model that is none.
Content = bytes | PyfuncFiles


def from_registry(registry: Registry, version: Version, settings: ServingSettings) -> Content:
    """Return the file of the version in Production, or all its files, held against its evidence.

    A mismatch is also reported to the tracking server, which records it. Raises an `EvidenceError` that says
    what is wrong, and whatever `Registry` raises.
    """
    try:
        if is_pyfunc(version, settings):
            return fetched(registry, version, settings)
        content = registry.model_bytes(version)
        require_checked(version, content, settings)
    except EvidenceBytesError:
        # A predictor may only be allowed to read; then the log and this refusal must do.
        with suppress(RegistryError):
            registry.report_mismatch(version)
        raise
    return content


def require_checked(version: Version, content: bytes, settings: KeySettings) -> None:
    """Raise an `EvidenceError` unless a trusted key signed that these very bytes passed the gate."""
    checked = digest_of(genuine_evidence(version, settings).files, MODEL_FILE)
    if digest(content) != checked:
        _log.error("%s: its bytes are %s, its evidence is about %s", version, digest(content), checked)
        raise EvidenceBytesError(
            f"{version} in Production does not hold the bytes that were checked: its {MODEL_FILE} was "
            f"exchanged. `greenroom rollback {version.model} --reason …` brings the last good version back."
        )


def loaded(spec: ModelSpec, request: type[BaseModel], content: Content) -> ServedModel:
    """Return the model in a file or folder, warm, or raise `ModelFormatError` when it cannot do its work.

    It must do the declared task, read nothing that the contract does not send, and answer the contract's own
    example with a finite number or with probabilities.
    """
    model = _opened(spec, content)
    _require_fit(spec, model)
    features = model.description.features
    examples = request.model_json_schema().get("examples") or []
    row = to_row(request.model_validate(examples[0]), features) if examples else [0.0] * len(features)
    try:
        for _ in range(3):  # the first calls allocate
            labels, probabilities = model.predict(np.array([row], dtype=np.float32))
    except Exception as error:  # onnxruntime's exceptions have no common base
        raise ModelFormatError(f"The version fails on an example: {type(error).__name__}: {error}") from error
    answer = labels[0] if probabilities is None else probabilities.sum()
    if not math.isfinite(float(answer)):
        raise ModelFormatError(f"The version answers {answer} to an example, which is no finite number.")
    return model


def _opened(spec: ModelSpec, content: Content) -> ServedModel:
    if isinstance(content, bytes):
        return OnnxModel(content)
    return PyfuncModel(content, spec.task)


def _require_fit(spec: ModelSpec, model: ServedModel) -> None:
    found = model.description
    if found.task != spec.task:
        raise ModelFormatError(f"The version is a {found.task} model, the catalogue declares {spec.task}.")
    if strange := [feature for feature in found.features if feature not in spec.features]:
        raise ModelFormatError(
            f"The version reads features that the catalogue does not declare: {', '.join(strange)}. "
            "Declare them, or promote a version trained on the declared features."
        )
