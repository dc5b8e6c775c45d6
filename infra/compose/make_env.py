"""`make compose-env`: writes `.env` from `.env.example`, with a random secret wherever one is empty.

Standard library alone, so that it runs where nothing is set up. What `.env` has already stays.
"""

import hashlib
import os
import re
import secrets
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_LINE = re.compile(r"([A-Z0-9_]+)=(.*)")
# API keys of the predictor, in plain for those that use them; the predictor gets their hashes.
_API_KEYS = {"app": "GREENROOM_APP_API_KEY", "metrics": "GREENROOM_METRICS_API_KEY"}
_PAIRS = "GREENROOM_SERVING_API_KEYS"


def main(example: Path, target: Path) -> int:
    """Write `target`, for its owner alone; print what was made, never a value."""
    have = dict(_pairs(target.read_text())) if target.exists() else {}
    made = []
    lines = []
    values: dict[str, str] = {}
    for line in example.read_text().splitlines():
        match = _LINE.fullmatch(line)
        if not match:
            lines.append(line)
            continue
        name, value = match[1], have.pop(match[1], "") or match[2]
        # `[secret]` in the comment above says which are to be made.
        if not value and lines and lines[-1].startswith("#") and "[secret]" in lines[-1]:
            value = _new(name, values)
            made.append(name)
        values[name] = value
        lines.append(f"{name}={value}")
    if have:
        lines += ["", "# Not in .env.example", *(f"{name}={value}" for name, value in have.items())]
    text = "\n".join(lines) + "\n"
    if not target.exists() or target.read_text() != text:
        new = target.with_suffix(".new")
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(text)
        new.replace(target)
    sys.stdout.write(f"{target.name}: {f'{len(made)} secrets made' if made else 'nothing was missing'}\n")
    return 0


def _new(name: str, values: dict[str, str]) -> str:
    if name == _PAIRS:
        return ",".join(
            f"{who}:{hashlib.sha256(values[variable].encode()).hexdigest()}"
            for who, variable in _API_KEYS.items()
        )
    if name in _API_KEYS.values():
        return "greenroom_" + secrets.token_urlsafe(32)
    return secrets.token_hex(20)


def _pairs(text: str) -> list[tuple[str, str]]:
    return [(match[1], match[2]) for match in map(_LINE.fullmatch, text.splitlines()) if match]


if __name__ == "__main__":
    sys.exit(main(ROOT / ".env.example", ROOT / os.environ.get("GREENROOM_ENV_FILE", ".env")))
