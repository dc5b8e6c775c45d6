"""Waiting for what comes in its own time: never for so many seconds, and long enough for a busy machine."""

import time
from collections.abc import Callable
from typing import TypeVar

import httpx

Found = TypeVar("Found")


def until(
    look: Callable[[], Found], what: str | Callable[[], str] = "it does not become so", seconds: float = 60
) -> Found:
    """Look again and again until what is found is true of something, and return that.

    Failing that, `what` says what did not come; a function is asked for it only then.
    """
    deadline, pause = time.monotonic() + seconds, 0.01
    while not (found := look()):
        assert time.monotonic() < deadline, what if isinstance(what, str) else what()
        time.sleep(pause)
        pause = min(pause * 1.5, 0.2)
    return found


def answers(url: str) -> bool:
    """Whether something answers there, and with success."""
    try:
        return httpx.get(url, timeout=5, trust_env=False).is_success
    except httpx.TransportError:
        return False
