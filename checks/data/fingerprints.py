"""What a training depends on, as digests, and the commit of the code."""

import inspect
import json
import subprocess
from functools import cache
from hashlib import sha256
from importlib.metadata import distributions
from pathlib import Path

from pydantic import BaseModel

from catalog.spec import Dataset, ModelSpec
from checks.data import sources
from checks.errors import DataError
from checks.settings import ChecksSettings
from registry.storage.datasets import is_dataset_id

_ROOMS = ("catalog", "registry", "checks", "flows")


def source_digest(dataset: Dataset) -> str:
    """Return the SHA-256 of a dataset's bytes as hex; an uploaded one's id says it already.

    Raises `DataError` when there is no such file; an `OSError` of a network file system passes through.
    """
    if is_dataset_id(dataset.source):
        return dataset.source.removeprefix("sha256:")
    path, content_digest = sources.locate(dataset.source), sha256()
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    try:
        for file in files:
            if file.is_file() or file == path:
                with file.open("rb") as content:
                    while block := content.read(1 << 20):
                        content_digest.update(block)
    except FileNotFoundError as error:
        raise DataError(
            f"{dataset.name}: there is no file {path}. Correct `source` in its declaration."
        ) from error
    return content_digest.hexdigest()


def declaration_digest(spec: ModelSpec) -> str:
    """Return the SHA-256 of all that a declaration says, as hex: its values, and the code of its contract.

    Where the data lies is not part of it, what they are is `source_digest`'s to say.
    """
    values = spec.model_dump(mode="json", exclude={"dataset": {"row", "features", "source"}})
    digest = sha256(json.dumps(values, sort_keys=True).encode())
    for contract in (spec.dataset.row, spec.dataset.features):
        digest.update(contract_content(contract))
    return digest.hexdigest()


def contract_content(contract: type[BaseModel]) -> bytes:
    """Return a contract's schema and the file it is in."""
    # Validators are no part of the schema; they are in the file.
    schema = json.dumps(contract.model_json_schema(), sort_keys=True)
    return schema.encode() + Path(inspect.getfile(contract)).read_bytes()


@cache
def code_digest() -> str:
    """Return the SHA-256 of the code that trains, and of the version of every installed library, as hex."""
    digest, root = sha256(), Path(__file__).resolve().parents[2]
    for room in _ROOMS:
        files = sorted((root / room).rglob("*.py"))
        if not files:  # a digest of no code would never change
            raise FileNotFoundError(f"There is no code of {room} in {root}.")
        for file in files:
            digest.update(file.read_bytes())
    installed = {f"{library.metadata['Name']}=={library.version}" for library in distributions()}
    digest.update("\n".join(sorted(installed)).encode())
    return digest.hexdigest()


def git_commit() -> str | None:
    """Return the commit of this checkout, with `-dirty` if files differ from it; None outside of git.

    GREENROOM_COMMIT takes its place in an image, which has no checkout.
    """
    if commit := ChecksSettings().commit:
        return commit
    root = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]  # whichever git the user has
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
        changed = git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{commit}-dirty" if changed else commit
