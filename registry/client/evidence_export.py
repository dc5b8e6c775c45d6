"""Everything that somebody needs to check a version without this project: files, evidence, keys, policy."""

from contextlib import suppress
from pathlib import Path

from catalog.loader import CatalogError, get_model
from registry.client.registry import Registry, Version
from registry.errors import RegistryError
from registry.evidence import keys
from registry.evidence.rules import missing
from registry.names import EVIDENCE, OVERRIDE
from registry.settings import KeySettings

EVIDENCE_FILES = {EVIDENCE: "evidence.json", OVERRIDE: "override.json"}


def export(registry: Registry, version: Version, folder: Path, settings: KeySettings) -> list[str]:
    """Write what speaks for a version to a new folder, and return the paths there.

    `model/` holds the version's files, `gate/` the gate's reports and rows, `keys/` the trusted public keys.
    `policy.json` is the gate's policy, if a catalogue here declares the model. Nothing is judged here: that
    is the reader's part (docs/evidence.md). Raises `EvidenceMissingError` when the version has no evidence,
    and `RegistryError` when the folder is not empty or cannot be written.
    """
    envelopes = {name: version.tags[tag] for tag, name in EVIDENCE_FILES.items() if tag in version.tags}
    if not envelopes:
        raise missing(version.ref)
    if folder.exists() and any(folder.iterdir()):
        raise RegistryError(f"{folder} is not empty. Name a new folder.")
    parts: dict[str, bytes] = {name: text.encode() for name, text in envelopes.items()}
    for ring in keys.all_trusted(settings).values():
        parts |= {f"keys/{key.role}/{key.path.name}": key.path.read_bytes() for key in ring}
    with suppress(CatalogError):  # a model that nobody declares here
        parts["policy.json"] = get_model(version.model).gate.model_dump_json().encode()
    for prefix, contents in (("model", registry.contents(version)), ("gate", registry.reports(version))):
        for path, content in contents:
            parts[f"{prefix}/{path}"] = content
    try:
        for path, content in parts.items():
            _write(folder, path, content)
    except OSError as error:
        raise RegistryError(f"{folder} cannot be written: {error.strerror}.") from error
    return sorted(parts)


def _write(folder: Path, path: str, content: bytes) -> None:
    target = (folder / path).resolve()
    if not target.is_relative_to(folder.resolve()):
        raise RegistryError(f"The version has a file outside of its folder: {path}")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)
