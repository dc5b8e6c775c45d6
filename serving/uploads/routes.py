"""The HTTP surface of the dataset upload."""

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from catalog.spec import Dataset, ModelSpec
from serving.errors import shorten
from serving.http_errors import ErrorBody, respond
from serving.uploads.columns import columns_of
from serving.uploads.errors import UploadError
from serving.uploads.receiver import read_form, receive, refuse_length, refuse_other_sites, scratch_files
from serving.uploads.runner import check_and_store
from serving.uploads.settings import UploadSettings
from serving.uploads.slow_close import LingeringResponse

_log = logging.getLogger("greenroom.serving")
_ERRORS = {
    400: "The form or the gzip file cannot be read, or the connection closed too early.",
    403: "A page of another site sent it.",
    404: "The catalogue has no such dataset (`unknown_dataset`).",
    408: "The file came too slowly.",
    413: "Too large: the upload, the CSV in it, its compression ratio, its rows, a row, a cell, or the work.",
    415: "Neither a form nor a CSV nor gzip.",
    422: "Not a CSV in UTF-8 with the dataset's header (`invalid_csv`, `invalid_header`, `no_rows`), or rows "
    "that break its contract (`invalid_rows`): the details count the problems by column, and name the first "
    "as ROW.COLUMN, counted as in the file, where the header is row 1.",
    500: "Checking failed; the predictor's log says why.",
    503: "Another upload is under way (`upload_busy`), or there is no S3 storage (`storage_not_configured`), "
    "or it does not answer (`storage_unavailable`), or no room on the disk (`no_room`).",
}
_BINARY = {"type": "string", "format": "binary"}
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {"type": "object", "required": ["file"], "properties": {"file": _BINARY}}
            },
            "text/csv": {"schema": _BINARY},
            "application/gzip": {"schema": _BINARY},
        },
    }
}


class StoredDataset(BaseModel):
    """An upload that was stored, or was there before."""

    model_config = ConfigDict(frozen=True)

    id: str = Field(description="`sha256:HEX`, the digest of the rows. The same rows have the same id.")
    dataset: str = Field(description="The dataset of the catalogue whose contract the rows meet.")
    rows: int = Field(description="How many there are.")
    columns: tuple[str, ...] = Field(description="The columns, in the contract's order.")
    created: bool = Field(description="Whether it is new; answered with 201, else 200.")
    models: tuple[str, ...] = Field(description="Models of the catalogue that can be trained on it.")
    next: str = Field(description="The command that trains on it.")


class Uploads:
    """What can be uploaded here, and the one place where an upload is under way."""

    def __init__(self, specs: Iterable[ModelSpec], settings: UploadSettings) -> None:
        self.settings = settings
        self.datasets: dict[str, Dataset] = {}
        self.models: dict[str, list[str]] = {}
        self._unfit: dict[str, str] = {}
        self._busy = False
        for spec in specs:
            self._add(spec)

    def _add(self, spec: ModelSpec) -> None:
        dataset = spec.dataset
        known = self.datasets.setdefault(dataset.name, dataset)
        self.models.setdefault(dataset.name, []).append(spec.name)
        if known.row is not dataset.row:
            self._unfit[dataset.name] = "two models declare it with different contracts"
        try:
            columns_of(dataset)
        except ValueError as error:
            self._unfit[dataset.name] = str(error)

    def choose(self, name: str | None) -> Dataset:
        """Return the dataset of that name, or the only one; raises `UploadError` 404."""
        names = ", ".join(self.datasets)
        if name is None and len(self.datasets) == 1:
            return next(iter(self.datasets.values()))
        if name is None:
            what = f"Say which dataset it is, with the query ?dataset=NAME. There are: {names}."
            raise UploadError(404, "unknown_dataset", what)
        if name not in self.datasets:
            what = f"There is no dataset {shorten(name)!r} in the catalogue. There are: {names}."
            raise UploadError(404, "unknown_dataset", what)
        if why := self._unfit.get(name):
            what = f"The dataset {name!r} cannot be uploaded as CSV: {why}."
            raise UploadError(404, "unknown_dataset", what)
        return self.datasets[name]

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Be the one upload that is under way; raises `UploadError` 503 when there is another."""
        if self._busy:
            message = "Another upload is under way, and there is room for one. Send this again in 5 s."
            raise UploadError(503, "upload_busy", message, headers={"Retry-After": "5"})
        self._busy = True
        try:
            yield
        finally:
            self._busy = False

    async def take(self, request: Request, name: str | None) -> tuple[Dataset, dict[str, Any]]:
        """Receive, check and store one upload; returns its dataset and what the worker says was stored."""
        headers, settings = request.headers, self.settings
        refuse_other_sites(headers)
        form, dataset = read_form(headers), self.choose(name)
        if not settings.has_storage:
            raise UploadError(
                503,
                "storage_not_configured",
                "There is nowhere to store a dataset. Set GREENROOM_S3_ACCESS_KEY, GREENROOM_S3_SECRET_KEY "
                "and, for another server than the local stack's, GREENROOM_S3_ENDPOINT_URL.",
            )
        refuse_length(headers, settings.serving_upload_max_bytes)
        with self.alone(), scratch_files(settings) as (body, output):
            await receive(request, body, settings)
            request.state.upload_is_here = True
            job = {
                "dataset": dataset.name,
                "body": body.fileno(),
                "output": output.fileno(),
                "boundary": form.boundary,
                "gzipped": form.gzipped,
            }
            # After the body the next message can only be that the sender left.
            stored = await check_and_store(
                job, timeout=settings.serving_upload_check_timeout, leaves=request.receive
            )
        return dataset, stored


def upload_routes(specs: Mapping[str, ModelSpec], settings: UploadSettings | None = None) -> APIRouter:
    """Return the route that takes a dataset for the models of `specs`."""
    uploads = Uploads(specs.values(), settings or UploadSettings())
    router = APIRouter(tags=["datasets"])
    names = ", ".join(uploads.datasets)

    async def upload(
        request: Request,
        dataset: Annotated[
            str | None,
            Query(
                description=f"Name of the dataset in the catalogue: {names}. The only one may be left out."
            ),
        ] = None,
    ) -> Response:
        try:
            chosen, stored = await uploads.take(request, dataset)
        except UploadError as error:
            _log.info("upload refused: %s %s", error.status, error.code)
            answer = respond(error.status, error.code, error.message, error.details, error.headers)
            return answer if getattr(request.state, "upload_is_here", False) else LingeringResponse(answer)
        models = tuple(uploads.models[chosen.name])
        found = StoredDataset(
            **stored, dataset=chosen.name, models=models, next=f"greenroom train --dataset {stored['id']}"
        )
        who = getattr(request.state, "api_key_name", None) or "somebody without an API key"
        _log.info("dataset %s: %d rows of %s, uploaded by %s", found.id, found.rows, chosen.name, who)
        return JSONResponse(found.model_dump(mode="json"), status_code=201 if found.created else 200)

    limits = uploads.settings
    router.add_api_route(
        "/api/upload-dataset",
        upload,
        methods=["POST"],
        operation_id="upload_dataset",
        summary="Upload rows to train on",
        description="Send a CSV in UTF-8, as it is or compressed with gzip: as the one file of a form, or as "
        "the body. Its header names the columns of the dataset's contract, in any order; every row must meet "
        "the contract, or nothing is stored. The answer's id goes to `greenroom train --dataset ID`.\n\n"
        f"Limits: {limits.serving_upload_max_bytes} bytes as sent, {limits.serving_upload_max_csv_bytes} "
        f"unpacked, {limits.serving_upload_max_rows} rows, {limits.serving_upload_max_line_bytes} bytes a "
        f"row, {limits.serving_upload_max_cell} characters a cell; one upload at a time.",
        response_model=StoredDataset,
        status_code=201,
        responses={
            200: {"model": StoredDataset, "description": "The same rows are there already."},
            201: {"description": "Checked and stored."},
            **{status: {"model": ErrorBody, "description": words} for status, words in _ERRORS.items()},
        },
        # By hand, because the body is read by hand: as it comes, within limits.
        openapi_extra=_BODY,
    )
    return router
