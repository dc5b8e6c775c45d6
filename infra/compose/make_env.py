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
    """Write `target`, for its owner alone; print how many secrets it made, never a value."""
    old = _pairs(target.read_text()) if target.exists() else {}
    new: dict[str, str] = {}
    lines: list[str] = []
    made = 0
    for line in example.read_text().splitlines():
        if match := _LINE.fullmatch(line):
            name = match[1]
            new[name] = old.pop(name, "") or match[2]
            # `[secret]` in the comment above marks the values to be made.
            if not new[name] and lines and lines[-1].startswith("#") and "[secret]" in lines[-1]:
                new[name] = _new_secret(name, new)
                made += 1
            lines.append(f"{name}={new[name]}")
        else:
            lines.append(line)
    if old:
        lines += ["", "# Not in .env.example", *(f"{name}={value}" for name, value in old.items())]
    text = "\n".join(lines) + "\n"
    if not target.exists() or target.read_text() != text:
        part = target.with_suffix(".new")
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(text)
        part.replace(target)
    sys.stdout.write(f"{target.name}: {f'{made} secrets made' if made else 'nothing was missing'}\n")
    return 0


def _new_secret(name: str, values: dict[str, str]) -> str:
    if name == _PAIRS:
        digests = {who: hashlib.sha256(values[key].encode()).hexdigest() for who, key in _API_KEYS.items()}
        return ",".join(f"{who}:{digest}" for who, digest in digests.items())
    if name in _API_KEYS.values():
        return "greenroom_" + secrets.token_urlsafe(32)
    return secrets.token_hex(20)


def _pairs(text: str) -> dict[str, str]:
    return {match[1]: match[2] for match in map(_LINE.fullmatch, text.splitlines()) if match}


if __name__ == "__main__":
    sys.exit(main(ROOT / ".env.example", ROOT / os.environ.get("GREENROOM_ENV_FILE", ".env")))
