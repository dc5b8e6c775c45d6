"""Models that were trained elsewhere, through the same gate."""

from flows.submission.api import connect, submit, training_rows

__all__ = ["connect", "submit", "training_rows"]
