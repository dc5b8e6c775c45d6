"""From errors to HTTP: every error leaves this process as an `ErrorBody`."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.types import Scope

from serving.errors import (
    Detail,
    InvalidInputError,
    ModelUnavailableError,
    NotExplainableError,
    OverloadedError,
    PredictionFailedError,
    PredictionLateError,
    PredictorError,
    TooManyRowsError,
    UnknownItemError,
    UnknownModelNameError,
    UnreadableInputError,
    describe,
    shorten,
)

PREDICT = "/api/predict/"
EXPLAIN = "/api/explain/"
FEEDBACK = "/api/feedback"

_STATUS: Mapping[type[PredictorError], int] = {
    UnreadableInputError: 400,
    UnknownModelNameError: 404,
    UnknownItemError: 404,
    NotExplainableError: 409,
    TooManyRowsError: 413,
    InvalidInputError: 422,
    PredictionFailedError: 500,
    ModelUnavailableError: 503,
    OverloadedError: 503,
    PredictionLateError: 504,
}


class BodyError(PredictorError):
    """The body cannot be taken as it comes over the wire."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message, [Detail("body", message)])
        self.status = status
        self.body_code = code


def install(app: FastAPI) -> None:
    """Give every error of `app` the one form."""
    # Starlette types handlers by the base class of exceptions, hence the ignores.
    app.add_exception_handler(PredictorError, _predictor_error)  # type: ignore[arg-type]
    app.add_exception_handler(HTTPException, _http_error)  # type: ignore[arg-type]
    app.add_exception_handler(RequestValidationError, _invalid_request)  # type: ignore[arg-type]
    app.add_exception_handler(Exception, _unexpected)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI entries of the errors that a route may answer."""
    words = {
        400: "The body is not JSON.",
        404: "The model is not there (any more), or its index holds no such id (`unknown_id`).",
        408: "The body did not arrive in time.",
        409: "The version that is served cannot be explained; the message says why and what to do.",
        413: "The body is too large, or its list has too many objects (`too_many_rows`).",
        415: "The body is not declared as JSON.",
        422: "The input breaks the model's contract; `details` names each field.",
        500: "The model failed on valid input.",
        503: "No version of the model is served; the message says why and what to do.",
        504: "The model has not answered in its time (`prediction_timeout`); its run was ended.",
    }
    return {status: {"model": ErrorBody, "description": words[status]} for status in statuses}


async def _predictor_error(_: Request, error: PredictorError) -> JSONResponse:
    return answer_to(error)


def answer_to(error: PredictorError) -> JSONResponse:
    """Return the answer that says what went wrong."""
    if isinstance(error, BodyError):
        # A slow sender has had its time. A sender of too much may finish, and so reads the answer.
        headers = {"Connection": "close"} if error.status == 408 else None
        return respond(error.status, error.body_code, error.message, error.details, headers)
    headers = {"Retry-After": str(error.retry_after)} if isinstance(error, OverloadedError) else None
    return respond(_STATUS[type(error)], error.code, error.message, error.details, headers)


async def _http_error(request: Request, error: HTTPException) -> JSONResponse:
    path = request.scope["path"]
    for prefix in (PREDICT, EXPLAIN):
        if error.status_code == 404 and path.startswith(prefix):
            unknown = UnknownModelNameError.of(path.removeprefix(prefix), request.app.state.predictor.states)
            return answer_to(unknown)
    where = f"{request.method} {shorten(path)}"
    if error.status_code == 404:
        message = f"There is nothing at {where}. /docs lists what there is."
    elif error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "another method")
        message = f"{where} is not allowed; use {allowed}."
    else:
        message = str(error.detail)
    code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "_")
    return respond(error.status_code, code, message, headers=error.headers)


async def _invalid_request(_: Request, error: RequestValidationError) -> JSONResponse:
    return respond(422, InvalidInputError.code, "The request is not valid.", describe(error.errors()))


async def _unexpected(request: Request, _: Exception) -> JSONResponse:
    # The traceback goes to the log (Starlette raises the error again), never to the caller.
    return unexpected(request.scope)


def unexpected(scope: Scope) -> JSONResponse:
    """Return the answer to a request that failed because of a fault in the predictor itself."""
    message = f"{scope['method']} {shorten(scope['path'])} failed; the predictor's log says why."
    return respond(500, PredictorError.code, message)


def respond(
    status: int,
    code: str,
    message: str,
    details: tuple[Detail, ...] | list[Detail] = (),
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """Return an error in the one form; middleware outside of FastAPI uses it, too."""
    body = ErrorBody(
        error=ErrorContent(
            code=code,
            message=message,
            details=tuple(ErrorDetail(field=d.field, problem=d.problem) for d in details),
        )
    )
    return JSONResponse(body.model_dump(mode="json"), status_code=status, headers=headers)


class ErrorDetail(BaseModel, frozen=True):
    """One field of the input and what is wrong with it."""

    field: str = Field(
        description="Name of the field; `body` is the input as a whole. In a list the index of the object "
        "comes first, counted from 0: `3.energy`."
    )
    problem: str


class ErrorContent(BaseModel, frozen=True):
    """What went wrong."""

    code: str = Field(description="Stable name of the error, for programs.")
    message: str = Field(description="What happened and what to do, for people.")
    details: tuple[ErrorDetail, ...] = ()


class ErrorBody(BaseModel, frozen=True):
    """Every error of this API has this form."""

    error: ErrorContent
