"""The files of a model version, as the tracking server's own artifact store holds them."""

import os
import posixpath
from hashlib import file_digest
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import unquote, urlparse

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE
from mlflow.server.constants import ARTIFACTS_DESTINATION_ENV_VAR
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from sqlalchemy import text
from sqlalchemy.orm import Session


def digests(location: str) -> dict[str, str]:
    """Return the SHA-256 of every file under a version's storage location, by its path there.

    They are read anew each time: who can write artifacts can write other bytes of the same size. Raises
    `MlflowException` (503) when the store does not answer, so that nothing is decided on half of them.
    """
    try:
        repository, root = _repository(location)
        with TemporaryDirectory(prefix="greenroom-digests-") as folder:
            # One by one under a name of our own: in a store a name can be a file and a folder at once.
            local = Path(folder) / "file"
            files = {}
            for path in _file_paths(repository, root):
                repository._download_file(path, str(local))
                files[posixpath.relpath(path, root or ".")] = _sha256(local)
                local.unlink()
            return files
    except Exception as error:  # each kind of store raises its own
        raise MlflowException(
            f"The files of the version cannot be read ({type(error).__name__}), so nothing was changed. Try "
            "again when the artifact store answers.",
            error_code=TEMPORARILY_UNAVAILABLE,
        ) from error


def _file_paths(repository: ArtifactRepository, root: str) -> list[str]:
    """Return the path of every file below a folder of a store; none if it was deleted, or never there.

    Raises `ValueError` for a folder that is listed below itself, as by a name of two slashes.
    """
    paths: set[str] = set()
    folders, seen = [root], {root}
    while folders:
        for entry in repository.list_artifacts(folders.pop() or None):
            if not entry.is_dir:
                paths.add(entry.path)
            elif entry.path in seen:
                raise ValueError(f"{entry.path} is a folder below itself")
            else:
                seen.add(entry.path)
                folders.append(entry.path)
    return sorted(paths)


def needing(session: Session, path: str) -> tuple[str, int, str] | None:
    """Return a version (model, number, stage) that stands on an artifact, or on one below it, or None.

    Those count that are in a stage, or were in Production; `path` is below the artifact store's root.
    """
    wanted = _parts(path)
    for name, number, stage, *locations in session.execute(
        text(
            "SELECT name, version, current_stage, storage_location, artifact_location, artifact_uri "
            "FROM greenroom.kept"
        )
    ):
        for location in filter(None, locations):
            parsed = urlparse(location)
            held = _parts(parsed.path)
            shorter = min(len(held), len(wanted))
            if parsed.scheme == "mlflow-artifacts" and held[:shorter] == wanted[:shorter]:
                return name, number, stage
    return None


def _parts(path: str) -> list[str]:
    """Return a path's folders, however it is written."""
    plain = posixpath.normpath("/" + unquote(unquote(path)))
    return [part for part in plain.split("/") if part]


def _repository(location: str) -> tuple[ArtifactRepository, str]:
    parsed = urlparse(location)
    if parsed.scheme != "mlflow-artifacts":
        return get_artifact_repository(location), ""
    # Our own proxy's: read what is behind it rather than ask ourselves over HTTP.
    return get_artifact_repository(os.environ[ARTIFACTS_DESTINATION_ENV_VAR]), parsed.path.strip("/")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()
