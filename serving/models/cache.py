"""The last good version of each model on this machine, for when the registry does not answer.

Content-addressed: a model's file is named by its SHA-256, and a small file per model says which one, with the
evidence that speaks for it. Nothing that is read is believed: digest and signature are checked again. Several
processes may share the folder, because every file is written beside and renamed.
"""

import logging
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from registry.client.registry import Version
from registry.digests import digest
from registry.files import write_atomically
from registry.names import EVIDENCE, OVERRIDE, Stage
from serving.ids import file_name
from serving.models.pyfunc import PyfuncFiles

_log = logging.getLogger("greenroom.serving")


class _Kept(BaseModel):
    """What is known of a version that was served."""

    model_config = ConfigDict(extra="forbid")

    model: str
    number: int
    source: str
    digest: str
    tags: dict[str, str]


class ModelCache:
    """A folder with the last good version of each model."""

    def __init__(self, folder: Path) -> None:
        self._blobs, self._models = folder / "sha256", folder / "models"

    def keep(self, version: Version, content: bytes | PyfuncFiles) -> None:
        """Keep a version that is being served; a full disk or missing right is logged, and serves on.

        One that is no ONNX file is not kept, and neither is what it replaced: code is executed only while
        the registry says that it is in Production.
        """
        if not isinstance(content, bytes):
            self.forget(version.model)
            return
        kept = _Kept(
            model=version.model,
            number=version.number,
            source=version.source,
            digest=digest(content),
            tags={tag: version.tags[tag] for tag in (EVIDENCE, OVERRIDE) if tag in version.tags},
        )
        try:
            for folder in (self._blobs, self._models):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            # Also if it is there: that mends a damaged file.
            write_atomically(self._blob(kept.digest), content, 0o600)
            write_atomically(self._pointer(version.model), kept.model_dump_json().encode(), 0o600)
            self._prune()
        except OSError as error:
            _log.error("%s is served but could not be kept for an outage: %s", version, error)

    def last_good(self, model: str) -> tuple[Version, bytes] | None:
        """Return the version that was kept and its file, or None if there is none that is whole."""
        try:
            kept = _Kept.model_validate_json(self._pointer(model).read_bytes())
            content = self._blob(kept.digest).read_bytes()
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            _log.error("what was kept of %s cannot be read: %s", model, type(error).__name__)
            return None
        if digest(content) != kept.digest or kept.model != model:
            _log.error("what was kept of %s is damaged, and not used", model)
            return None
        version = Version(
            model=model,
            number=kept.number,
            stage=Stage.PRODUCTION,
            run_id="",
            source=kept.source,
            tags=kept.tags,
        )
        return version, content

    def names(self) -> list[str]:
        """Return the names of the models of which something is kept."""
        return sorted(filter(None, map(_model_of, self._models.glob("*.json"))))

    def forget(self, model: str) -> None:
        """Keep nothing of a model any more: it was taken out of Production."""
        try:
            self._pointer(model).unlink(missing_ok=True)
        except OSError as error:
            _log.error("what was kept of %s could not be removed: %s", model, error)

    def _pointer(self, model: str) -> Path:
        # A model that the catalogue does not declare may be called anything, a path for one.
        return self._models / f"{file_name(model)}.json"

    def _blob(self, sha256: str) -> Path:
        return self._blobs / sha256.removeprefix("sha256:")

    def _prune(self) -> None:
        """Remove the files that no model points at."""
        named = set()
        for pointer in self._models.glob("*.json"):
            try:
                named.add(_Kept.model_validate_json(pointer.read_bytes()).digest.removeprefix("sha256:"))
            except (OSError, ValidationError):
                return  # rather a file too many than one too few
        for blob in self._blobs.iterdir():
            if blob.name not in named and not blob.name.startswith("."):
                blob.unlink(missing_ok=True)


def _model_of(pointer: Path) -> str | None:
    try:
        return _Kept.model_validate_json(pointer.read_bytes()).model
    except (OSError, ValidationError):
        return None
