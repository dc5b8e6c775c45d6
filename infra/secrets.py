"""Is a secret fit to protect something?"""

import re

SHORTEST = 16
_DISTINCT = 8
# What examples are made of.
_EXAMPLE = re.compile(r"change.?me|example|your.?|<.*>|password|secret", re.IGNORECASE)
# What people type to get past a form. Names may well hold these; secrets may not.
_NAMES = re.compile(r"minioadmin|greenroom|postgres", re.IGNORECASE)


def is_example(value: str) -> bool:
    """Whether a value is empty, one character alone, or made of words that stand in examples."""
    return len(set(value)) < 2 or bool(_EXAMPLE.search(value))


def is_weak(value: str) -> bool:
    """Whether a secret is an example, a common name, under 16 characters, or has under 8 different ones."""
    guessable = is_example(value) or _NAMES.search(value)
    return bool(guessable) or len(value) < SHORTEST or len(set(value)) < _DISTINCT
