"""The last good version of each model on this machine, for when the registry does not answer.

Content-addressed: a model's file is named by its SHA-256, and a small file per model says which one, with the
evidence that speaks for it. Nothing that is read is believed: digest and signature are checked again. That
it was in Production no evidence says, so the predictor that saw it there signs the small file with a key of
the folder. Several processes may share the folder, because every file is written beside and renamed.
"""

import hmac
import logging
import os
import secrets
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from registry.client.registry import Version
from registry.digests import digest
from registry.files import write_atomically
from registry.names import EVIDENCE, OVERRIDE, Stage
from serving.ids import file_name
from serving.models.pyfunc import PyfuncFiles

_log = logging.getLogger("greenroom.serving")
_KEY_BYTES = 32


class _Kept(BaseModel):
    """What is known of a version that was served."""

    model_config = ConfigDict(extra="forbid")

    model: str
    number: int
    source: str
    digest: str
    tags: dict[str, str]
    # By what the file passed its trial (serving/models/onnx_trials.py); empty if by nothing.
    tried: str = ""
    # HMAC-SHA256 of the rest, by the folder's key.
    mac: str = ""

    def signed(self, key: bytes) -> "_Kept":
        """Return the same with its MAC."""
        rest = self.model_copy(update={"mac": ""})
        return rest.model_copy(
            update={"mac": hmac.digest(key, rest.model_dump_json().encode(), "sha256").hex()}
        )


class ModelCache:
    """A folder with the last good version of each model."""

    def __init__(self, folder: Path) -> None:
        self._blobs, self._models, self._key_path = folder / "sha256", folder / "models", folder / "key"

    def keep(self, version: Version, content: bytes | PyfuncFiles, tried: str = "") -> None:
        """Keep a version that is in Production and served; `tried` says by what its file passed its trial.

        A full disk or a missing right is logged, and the version is served on.

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
            tried=tried,
        )
        try:
            for folder in (self._blobs, self._models):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            signed = kept.signed(self._make_key())
            # Also if it is there: that mends a damaged file.
            write_atomically(self._blob(kept.digest), content, 0o600)
            write_atomically(self._pointer(version.model), signed.model_dump_json().encode(), 0o600)
            self._prune()
        except OSError as error:
            _log.error("%s is served but could not be kept for an outage: %s", version, error)

    def last_good(self, model: str) -> tuple[Version, bytes] | None:
        """Return the version that was kept and its file, None if there is none that is whole and its own."""
        if (kept := self._kept(model)) is None:
            return None
        try:
            content = self._blob(kept.digest).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            _log.error("what was kept of %s cannot be read: %s", model, type(error).__name__)
            return None
        if digest(content) != kept.digest:
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

    def tried_by(self, model: str) -> str:
        """Return by what the kept file of a model passed its trial; empty if by nothing."""
        kept = self._kept(model)
        return kept.tried if kept else ""

    def names(self) -> list[str]:
        """Return the names of the models of which something is kept."""
        return sorted(filter(None, map(_model_of, self._models.glob("*.json"))))

    def forget(self, model: str) -> None:
        """Keep nothing of a model any more: it was taken out of Production."""
        try:
            self._pointer(model).unlink(missing_ok=True)
        except OSError as error:
            _log.error("what was kept of %s could not be removed: %s", model, error)

    def _kept(self, model: str) -> _Kept | None:
        """Return what a predictor with this cache wrote of a model that it saw in Production."""
        try:
            kept = _Kept.model_validate_json(self._pointer(model).read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            _log.error("what was kept of %s cannot be read: %s", model, type(error).__name__)
            return None
        if kept.model != model:
            _log.error("what was kept of %s is damaged, and not used", model)
            return None
        key = self._key()
        if key is None or not hmac.compare_digest(kept.signed(key).mac, kept.mac):
            _log.error(
                "what was kept of %s is not used: nothing shows that a predictor with this cache saw it in "
                "Production. It is kept anew once the registry answers",
                model,
            )
            return None
        return kept

    def _key(self) -> bytes | None:
        """Return the folder's key, None if there is none that is this user's alone."""
        try:
            with self._key_path.open("rb") as file:
                status = os.fstat(file.fileno())
                key = file.read(_KEY_BYTES + 1)
        except OSError:
            return None
        private = status.st_uid == os.geteuid() and not status.st_mode & 0o077
        return key if private and len(key) == _KEY_BYTES else None

    def _make_key(self) -> bytes:
        """Return the folder's key; make one if there is none that can be used. Raises `OSError`."""
        if key := self._key():
            return key
        # Asked again: another process may have made one at this moment, whole as it appears.
        if self._key_path.exists() and self._key() is None:
            self._key_path.unlink(missing_ok=True)
        part = self._key_path.with_name(f".key.{secrets.token_hex(4)}")
        write_atomically(part, secrets.token_bytes(_KEY_BYTES), 0o600)
        try:
            with suppress(FileExistsError):  # another process was first: its key counts for both
                self._key_path.hardlink_to(part)
        finally:
            part.unlink()
        if (key := self._key()) is None:
            raise OSError(f"{self._key_path} is not this user's alone")
        return key

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
