"""From the registry, or from the cache, to a loaded model whose bytes are those that were checked."""

import logging
import math
from collections.abc import Iterable
from contextlib import suppress

import numpy as np
from pydantic.errors import PydanticUserError

from catalog.contract import to_row
from catalog.spec import Dataset
from registry.client.registry import MODEL_FILE, Registry, Version, digest_of, genuine_evidence
from registry.digests import digest
from registry.errors import EvidenceBytesError, ModelFormatError, RegistryError
from registry.model_format.onnx_model import Description
from registry.settings import KeySettings
from serving import limits
from serving.inference.contracts import derived
from serving.inference.served_model import ServedModel
from serving.models.onnx_trials import OnnxTrials
from serving.models.pyfunc import PyfuncFiles, PyfuncModel, fetched, is_pyfunc
from serving.settings import ServingSettings
from serving.tasks.base import Contract
from serving.tasks.registry import TASKS

_log = logging.getLogger("greenroom.serving")


# An ONNX file, or the folder of a model that is none.
Content = bytes | PyfuncFiles


def from_registry(registry: Registry, version: Version, settings: ServingSettings) -> Content:
    """Return the file of the version in Production, or all its files, held against its evidence.

    A mismatch is also reported to the tracking server, which records it. Raises an `EvidenceError` that says
    what is wrong, and the errors of `Registry`.
    """
    try:
        if is_pyfunc(version, settings):
            return fetched(registry, version, settings)
        content = registry.model_bytes(version, max_bytes=limits.MAX_MODEL_BYTES)
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


def loaded(
    contract: Contract | None,
    name: str,
    content: Content,
    datasets: Iterable[Dataset] = (),
    trials: OnnxTrials | None = None,
) -> tuple[ServedModel, Contract]:
    """Return the model in a file or folder, warm, and its contract; `ModelFormatError` if it does not work.

    It must do the declared task, read nothing that the contract does not send, and answer the contract's own
    example with a finite number or with probabilities. Without a declared `contract` it is derived from the
    file, and from `datasets` where the model reads their rows. An ONNX file is loaded, and run for the first
    time, by `trials`, or by a process for it alone.
    """
    model: ServedModel
    if isinstance(content, bytes):
        own = trials or OnnxTrials()
        try:
            first = own.load(name, content)
            contract = _fitting(contract, name, first.description, datasets)
            model = first.run(_example_row(first.description, contract))
        finally:
            if trials is None:
                own.close()
    else:
        model = _started(contract, content)
        contract = _fitting(contract, name, model.description, datasets)
    _warm(model, contract)
    return model, contract


def _started(contract: Contract | None, files: PyfuncFiles) -> PyfuncModel:
    if contract is None:
        raise ModelFormatError(
            "It is no ONNX file, and what task it does stands nowhere: declare the model in the catalogue."
        )
    if not TASKS[contract.task].pyfunc:
        raise ModelFormatError(f"A model that does {contract.task} is served as an ONNX file alone.")
    return PyfuncModel(files, contract.task)


def _fitting(
    contract: Contract | None, name: str, description: Description, datasets: Iterable[Dataset]
) -> Contract:
    if contract is None:
        return _derived(name, description, datasets)
    _require_fit(contract, description)
    return contract


def _derived(name: str, description: Description, datasets: Iterable[Dataset]) -> Contract:
    try:
        return derived(name, description, datasets)
    except (TypeError, ValueError, NameError, PydanticUserError) as error:
        raise ModelFormatError(f"No request can be made of the features it reads: {error}") from error


def _example_row(description: Description, contract: Contract) -> list[float]:
    if not (example := contract.example):
        return [0.0] * len(description.features)
    request = contract.request.model_validate(example)
    return to_row(request, [contract.attributes[feature] for feature in description.features])


def _warm(model: ServedModel, contract: Contract) -> None:
    row = _example_row(model.description, contract)
    try:
        for _ in range(3):  # the first calls allocate
            labels, probabilities = model.predict(np.array([row], dtype=np.float32))
    except Exception as error:  # onnxruntime's exceptions have no common base
        raise ModelFormatError(f"The version fails on an example: {type(error).__name__}: {error}") from error
    answer = labels[0] if probabilities is None else probabilities.sum()
    if not math.isfinite(float(answer)):
        raise ModelFormatError(f"The version answers {answer} to an example, which is no finite number.")


def _require_fit(contract: Contract, description: Description) -> None:
    if description.task != contract.task:
        raise ModelFormatError(
            f"The version is a {description.task} model, the catalogue declares {contract.task}."
        )
    TASKS[contract.task].require_fit(contract, description)
    if unknown := [feature for feature in description.features if feature not in contract.attributes]:
        raise ModelFormatError(
            f"The version reads features that the catalogue does not declare: {', '.join(unknown)}. "
            "Declare them, or promote a version trained on the declared features."
        )
