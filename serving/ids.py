"""Names for what happens here: predictions, requests, and files of models."""

import os
import re
import time
from hashlib import sha256
from urllib.parse import quote

_LONG = 200
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")


def new_id() -> str:
    """Return a new UUID of version 7 (RFC 9562, 5.7): unique, and in the order of time.

    48 bits of milliseconds since 1970, then 74 random ones.
    """
    noise = int.from_bytes(os.urandom(10), "big")
    number = (time.time_ns() // 1_000_000) << 80 | noise
    number = number & ~(0xF << 76) | 0x7 << 76
    text = f"{number & ~(0x3 << 62) | 0x2 << 62:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def file_name(model: str) -> str:
    """Return a model's name as a file's or folder's; a long one by its hash, because those are bounded."""
    name = quote(model, safe="")
    return name if len(name) <= _LONG else sha256(model.encode()).hexdigest()


def request_id(given: bytes | None) -> str:
    """Return the id that a caller gave a request, if it is fit for a log and a header, else a new one."""
    if given and _REQUEST_ID.fullmatch(given):
        return given.decode("ascii")
    return new_id()
