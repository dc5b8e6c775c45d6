"""SHA-256 of bytes, and of a folder's files."""

import json
from collections.abc import Mapping
from hashlib import sha256


def digest(content: bytes) -> str:
    """Return the SHA-256 of some bytes as `sha256:HEX`."""
    return f"sha256:{sha256(content).hexdigest()}"


def tree_digest(files: Mapping[str, str]) -> str:
    """Return one digest of several files, given the SHA-256 of each by its path."""
    return digest(json.dumps(sorted(files.items()), separators=(",", ":")).encode())
