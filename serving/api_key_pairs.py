"""API keys as pairs of a name and a digest: made, and read from a setting."""

import re
import secrets
from hashlib import sha256

# Shorter than a hash, so that a pair turned round is no pair.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}", re.ASCII)
_HASH = re.compile(r"[0-9A-Fa-f]{64}", re.ASCII)
# By it people, and the scanners that look for secrets in repositories, recognize a key.
_PREFIX = "greenroom_"


def new_key(name: str) -> tuple[str, str]:
    """Return a new random key, and the pair `NAME:SHA256HEX` that lets the predictor know it.

    Raises `ValueError` for a name that cannot stand in a pair.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(
            "a name is 1 to 40 letters, digits, '.', '_' or '-', and begins with a letter or digit"
        )
    key = _PREFIX + secrets.token_urlsafe(32)
    return key, f"{name}:{sha256(key.encode()).hexdigest()}"


def parse_pairs(text: str) -> dict[str, bytes]:
    """Return the hashes by the keys' names from `name:sha256hex,name:sha256hex`; an empty text has none.

    Raises `ValueError`, which says which entry is wrong by its place alone: what stands there may be a key.
    """
    hashes: dict[str, bytes] = {}
    if not text:
        return hashes
    for place, entry in enumerate(text.split(","), start=1):
        name, _, digest = entry.strip().partition(":")
        if not _NAME.fullmatch(name) or not _HASH.fullmatch(digest):
            raise ValueError(
                f"entry {place} is not NAME:SHA256HEX; entries are separated by commas, and "
                "`greenroom api-key NAME` makes one"
            )
        if name in hashes or bytes.fromhex(digest) in hashes.values():
            raise ValueError(f"entry {place} repeats the name or the key of an earlier one; leave one out")
        hashes[name] = bytes.fromhex(digest)
    return hashes
