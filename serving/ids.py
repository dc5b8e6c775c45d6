"""Names for what happens here: predictions, requests, and files of models."""

import os
import re
import time
from hashlib import sha256
from random import Random
from urllib.parse import quote

_LONG = 200
# Seeded by the system; asking the system for each id would be two calls of it a request.
_NOISE = Random()  # noqa: S311 - ids are unique, not secret
os.register_at_fork(after_in_child=_NOISE.seed)
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")


def new_id() -> str:
    """Return a new UUID of version 7 (RFC 9562, 5.7): unique, and in the order of time.

    48 bits of milliseconds since 1970, then 74 random ones.
    """
    milliseconds, noise = time.time_ns() // 1_000_000, _NOISE.getrandbits(74)
    return "%08x-%04x-7%03x-%04x-%012x" % (  # noqa: UP031 - half the time of an f-string
        milliseconds >> 16 & 0xFFFFFFFF,
        milliseconds & 0xFFFF,
        noise >> 62,
        noise >> 48 & 0x3FFF | 0x8000,
        noise & 0xFFFFFFFFFFFF,
    )


def file_name(model: str) -> str:
    """Return a model's name as a file's or folder's; a long one by its hash, because those are bounded."""
    name = quote(model, safe="")
    return name if len(name) <= _LONG else sha256(model.encode()).hexdigest()


def request_id(header: bytes | None) -> str:
    """Return the id that a caller sent, if it is fit for a log and a header, else a new one."""
    if header and _REQUEST_ID.fullmatch(header):
        return header.decode("ascii")
    return new_id()
