"""Outputs and summary of a step of GitHub Actions; elsewhere the functions do nothing."""

import os
from pathlib import Path


def output(name: str, value: str) -> None:
    """Set an output of the step; `value` is one line."""
    if "\n" in value:
        raise ValueError(f"the output {name} would be several lines, and each could set another output")
    _append("GITHUB_OUTPUT", f"{name}={value}\n")


def summary(text: str) -> None:
    """Add Markdown to the run's page."""
    _append("GITHUB_STEP_SUMMARY", f"{text}\n")


def _append(variable: str, text: str) -> None:
    if path := os.environ.get(variable):
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(text)
