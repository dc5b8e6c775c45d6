"""What can go wrong while predicting, in words a caller can act on. Nothing here knows of HTTP."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

# Two kinds of one object, between which Pydantic chooses; they are no fields, and no error names them.
BY_ID, BY_FEATURES = "<by id>", "<by features>"
# One body can hold thousands of misspelt fields; the answer need not.
MAX_DETAILS = 20
_MAX_NAME = 100


@dataclass(frozen=True)
class Detail:
    """One field of the input and what is wrong with it; `body` is the input as a whole.

    In a list the index of the object comes first, counted from 0: `3.energy`, or `3` as a whole.
    """

    field: str
    problem: str


class PredictorError(Exception):
    """Base of the predictor's errors. `code` is stable, for programs; the message is for people."""

    code: ClassVar[str] = "internal"

    def __init__(self, message: str, details: Sequence[Detail] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.details = tuple(details)


class UnreadableInputError(PredictorError):
    """The input is not JSON."""

    code = "invalid_json"


class InvalidInputError(PredictorError):
    """The input breaks the model's contract; the details name each field."""

    code = "invalid_input"

    @classmethod
    def of(cls, model: str, details: Sequence[Detail], total: int | None = None) -> Self:
        """Return the error for a list of problems, cut to a length a person can read.

        `total` is how many there are, where `details` are but the first of them.
        """
        shown = [Detail(shorten(detail.field), detail.problem) for detail in details[:MAX_DETAILS]]
        fields = ", ".join(dict.fromkeys(detail.field for detail in shown))
        more = (len(details) if total is None else total) - len(shown)
        rest = f" and {more} more" if more else ""
        return cls(
            f"The input of the model {model!r} is not valid: {fields}{rest}. /docs shows what it reads.",
            shown,
        )


class TooManyRowsError(PredictorError):
    """The input is a list of more objects than one request may hold."""

    code = "too_many_rows"

    @classmethod
    def of(cls, most: int) -> Self:
        """Return the error, saying the limit."""
        message = f"The list has more than {most} objects, the most that one request may hold; send several."
        return cls(message, [Detail("body", message)])


class UnknownModelNameError(PredictorError):
    """The catalogue has no model of that name."""

    code = "unknown_model"

    @classmethod
    def of(cls, name: str, known: Iterable[str]) -> Self:
        """Return the error, naming the models that exist."""
        return cls(f"There is no model {shorten(name)!r}. There are: {', '.join(known)}.")


class UnknownItemError(PredictorError):
    """A similarity's index holds nothing of that id."""

    code = "unknown_id"

    @classmethod
    def of(cls, model: str, id_name: str, unknown: Sequence[tuple[str, str]]) -> Self:
        """Return the error for ids by the field that has them."""
        shown = [
            Detail(field, f"The index holds no {shorten(name)!r}") for field, name in unknown[:MAX_DETAILS]
        ]
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        return cls(
            f"The model {model!r} knows no {id_name} {shorten(unknown[0][1])!r}{more}. "
            "Send the features of the thing instead.",
            shown,
        )


class ModelUnavailableError(PredictorError):
    """The catalogue has the model, but no version of it could be loaded; the message says why."""

    code = "model_unavailable"


class OverloadedError(PredictorError):
    """There are more requests than are worked on, and more than may wait; or this one has waited too long."""

    code = "overloaded"

    @classmethod
    def of(cls, timeout: float) -> Self:
        """Return the error with the advice to come back after `timeout` seconds, rounded up."""
        seconds = max(1, math.ceil(timeout))
        error = cls(
            f"The predictor has more requests than it can take. Send this one again after {seconds} s, and "
            "fewer at once; if that goes on, run another predictor beside it."
        )
        error.retry_after = seconds
        return error

    retry_after = 1


class NotExplainableError(PredictorError):
    """The version predicts, but its file holds nothing to explain a prediction against."""

    code = "not_explainable"


class PredictionFailedError(PredictorError):
    """The model itself failed on valid input."""

    code = "prediction_failed"


class PredictionLateError(PredictorError):
    """The model has not answered in its time; its run was ended."""

    code = "prediction_timeout"

    @classmethod
    def of(cls, name: str, seconds: float) -> Self:
        """Return the error for a run, or the waiting for one, that took too long."""
        return cls(
            f"{name} has not answered within {seconds:g} s, and this request was given up; other models go "
            "on. Send shorter lists, or promote another version if it goes on."
        )


def shorten(text: str) -> str:
    """Return text that came from outside at a length fit for a message."""
    return text if len(text) <= _MAX_NAME else f"{text[:_MAX_NAME]}…"


def describe(errors: Iterable[Any]) -> list[Detail]:
    """Return Pydantic's errors as details. Inputs are left out: NaN, for one, is not JSON."""
    kinds = (BY_ID, BY_FEATURES)
    return [
        Detail(".".join(str(part) for part in error["loc"] if part not in kinds) or "body", str(error["msg"]))
        for error in errors
    ]
