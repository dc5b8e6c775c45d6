"""Run as a program: trains models of the catalogue without a server and prints the SHA-256 of their files."""

import json
import sys
from hashlib import sha256

from catalog.loader import get_model
from checks.data.rows import load_rows
from flows.training.reproduce import train_file


def main() -> None:
    """Train each model that is named by `NAME:CANDIDATE`, with one trial; print their digests as JSON."""
    digests = {}
    for wanted in sys.argv[1:]:
        name, _, kept = wanted.partition(":")
        spec = get_model(name)
        only = tuple(candidate for candidate in spec.candidates if kept in ("", candidate.name))
        content = train_file(spec.model_copy(update={"candidates": only}), load_rows(spec), trials=1)
        digests[wanted] = sha256(content).hexdigest()
    sys.stdout.write(json.dumps(digests))


if __name__ == "__main__":
    main()
