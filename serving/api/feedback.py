"""POST /api/feedback: what came true of earlier predictions, for later monitoring."""

import time
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from serving import limits
from serving.api.body import read_json
from serving.errors import MAX_DETAILS, Detail, InvalidInputError, UnreadableInputError, describe
from serving.http_errors import FEEDBACK, documented, respond
from serving.parsing import is_list, most_fields_of
from serving.recording.recorder import FeedbackRecord, Recorder
from serving.settings import ServingSettings

_UUID = r"^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$"
_BYTES_PER_ROW = 512
# An outcome has three fields; a class's name may hold some colons more, which count as fields.
_MOST_FIELDS = 10
_OFF = (
    "This predictor keeps no feedback: GREENROOM_SERVING_PREDICTION_LOG is off, or no bucket is set "
    "(GREENROOM_S3_ACCESS_KEY and GREENROOM_S3_SECRET_KEY)."
)
_FULL = "More feedback waits than is kept in memory; send this again after 5 s."


class Feedback(BaseModel):
    """The true outcome of one prediction."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    id: str = Field(pattern=_UUID, description="The `id` of the answer.")
    row: int = Field(
        default=0, ge=0, le=9999, description="In the answer to a list: place of the prediction, from 0."
    )
    outcome: (
        Annotated[float, Field(allow_inf_nan=False)] | Annotated[str, Field(min_length=1, max_length=200)]
    ) = Field(description="What came true: a number for a regression, a class's name for a classifier.")


class Accepted(BaseModel):
    """So many outcomes were taken and will be kept."""

    accepted: int


_ONE = TypeAdapter(Feedback)


def feedback_routes(
    recorder: Recorder | None, settings: ServingSettings, counted: Callable[[int], None]
) -> APIRouter:
    """Return the route; without a `recorder` it says that nothing is kept. `counted` is told of outcomes."""
    router, most = APIRouter(tags=["feedback"]), settings.serving_max_rows
    several = TypeAdapter(Annotated[list[Feedback], Field(min_length=1, max_length=most)])

    async def feedback(request: Request) -> JSONResponse:
        body = await read_json(
            request.scope,
            request.receive,
            max_bytes=limits.MAX_BODY_BYTES,
            max_list_bytes=max(limits.MAX_BODY_BYTES, most * _BYTES_PER_ROW),
        )
        if recorder is None:
            return respond(503, "feedback_off", _OFF)
        outcomes = _read(several if is_list(body) else _ONE, body, most if is_list(body) else 1)
        at, key = time.time_ns(), request.scope.get("state", {}).get("api_key_name")
        records = [FeedbackRecord(outcome.id, outcome.row, outcome.outcome, at, key) for outcome in outcomes]
        if not recorder.outcomes(records):
            return respond(503, "overloaded", _FULL, headers={"Retry-After": "5"})
        counted(len(records))
        return JSONResponse(Accepted(accepted=len(records)).model_dump(), status_code=202)

    router.add_api_route(
        FEEDBACK,
        feedback,
        methods=["POST"],
        status_code=202,
        operation_id="feedback",
        summary="Say what came true",
        description="The true outcome of an earlier prediction, by the `id` of its answer; one object, or a "
        f"list of 1 to {most}, taken whole or not at all. It is kept beside the prediction log. An id that "
        "no answer ever had is accepted too; it has no match when predictions and outcomes are joined.",
        response_model=Accepted,
        responses=_responses(),
        openapi_extra=_body(most),
    )
    return router


def _read(form: TypeAdapter[Any], body: bytearray, most: int) -> list[Feedback]:
    # Pydantic would report each unknown field, which keeps all requests waiting for a second.
    if most_fields_of(body) > most * _MOST_FIELDS:
        problem = f"It has more fields than {most} outcomes have"
        raise InvalidInputError(f"The feedback is not valid: {problem}.", [Detail("body", problem)])
    try:
        parsed = form.validate_json(body)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False, include_input=False)
        details = describe(problems[:MAX_DETAILS])
        if problems[0]["type"] == "json_invalid":
            what = details[0].problem.removeprefix("Invalid JSON: ")
            raise UnreadableInputError(f"The body is not JSON: {what}.", [Detail("body", what)]) from None
        message = "The feedback is not valid: " + ", ".join(dict.fromkeys(d.field for d in details)) + "."
        raise InvalidInputError(message, details) from None
    return parsed if isinstance(parsed, list) else [parsed]


def _responses() -> dict[int | str, dict[str, Any]]:
    words = {
        422: "The feedback breaks its contract; `details` names each field.",
        503: "Nothing is kept here (`feedback_off`), or too much waits (`overloaded`).",
    }
    responses = documented(400, 408, 413, 415, 422, 503)
    for status, description in words.items():
        responses[status]["description"] = description
    return responses


def _body(most: int) -> dict[str, Any]:
    outcome = Feedback.model_json_schema()
    outcomes = {"type": "array", "items": outcome, "minItems": 1, "maxItems": most}
    example: dict[str, Any] = {"id": "01980a2c-7c1e-7cc4-9d3b-2f6c1a0b5e77", "outcome": 0.71}
    of_a_list = [{**example, "row": 3, "outcome": "rock"}]
    content = {
        "schema": {"oneOf": [outcome, outcomes]},
        "examples": {
            "number": {"summary": "Of a regression", "value": example},
            "class": {"summary": "Of a row of a list", "value": of_a_list},
        },
    }
    return {"requestBody": {"required": True, "content": {"application/json": content}}}
