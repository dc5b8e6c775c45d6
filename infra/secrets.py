"""Rules for secrets: no examples, none that is easy to guess."""

import re

SHORTEST = 16
_DISTINCT = 8
# Words of examples.
_EXAMPLE = re.compile(r"change.?me|example|your.?|<.*>|password|secret", re.IGNORECASE)
# Common names: a user name may hold them, a secret may not.
_NAMES = re.compile(r"minioadmin|greenroom|postgres", re.IGNORECASE)


def is_example(value: str) -> bool:
    """Whether a value is empty, repeats one character, or contains a word of examples."""
    return len(set(value)) < 2 or bool(_EXAMPLE.search(value))


def is_weak(value: str) -> bool:
    """Whether a secret is an example, a common name, under 16 characters, or has under 8 different ones."""
    guessable = is_example(value) or _NAMES.search(value)
    return bool(guessable) or len(value) < SHORTEST or len(set(value)) < _DISTINCT
