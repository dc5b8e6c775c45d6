"""JSON that every reader understands in one way: no key twice, no number that JSON does not have."""

import json
from collections.abc import Iterable
from typing import Any, NoReturn


def load_json(text: str) -> Any:
    """Return what is in a JSON text; `ValueError` when a key occurs twice in an object, or for NaN."""
    return json.loads(text, object_pairs_hook=_object, parse_constant=_no_number)


def require_unique(names: Iterable[str], what: str) -> None:
    """Raise `ValueError` for a name that occurs twice; `what` names its kind."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"names {what} {name!r} twice")
        seen.add(name)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(content := dict(pairs)) < len(pairs):
        require_unique((name for name, _ in pairs), "the key")
    return content


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON's")
