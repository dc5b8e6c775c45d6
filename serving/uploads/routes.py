"""The HTTP surface of the dataset upload."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.types import Scope

from catalog.spec import Dataset, ModelSpec
from registry.storage.settings import StorageSettings
from serving.errors import shorten
from serving.http_errors import ErrorBody, respond
from serving.uploads.columns import columns_of
from serving.uploads.csv_checker import MAX_CELL, MAX_ROWS
from serving.uploads.csv_lines import MAX_CSV_BYTES, MAX_ROW_BYTES
from serving.uploads.errors import UploadError
from serving.uploads.receiver import MAX_BYTES, read_packaging, receive, refuse_other_sites, scratch_files
from serving.uploads.runner import Job, check_and_store

_log = logging.getLogger("greenroom.serving")
# Uploads that may be under way at once, each of another caller: a slow sender has its two minutes. Each may
# take 100 MiB on the disk meanwhile. They are checked one by one.
MAX_UPLOADS = 4
# Seconds that an upload waits until another has been checked.
MAX_WAIT = 60.0
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
    503: "Another upload of yours is under way, or too many of others (`upload_busy`), or there is no S3 "
    "storage (`storage_not_configured`), "
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
    """Takes uploads for the datasets of models: one of each caller at a time, and checks one at a time."""

    def __init__(
        self,
        specs: Iterable[ModelSpec],
        settings: StorageSettings,
        caller: Callable[[Scope], str],
        rejected: Callable[[Literal["caller_upload"]], None],
    ) -> None:
        self.settings, self._caller, self._rejected = settings, caller, rejected
        self.specs: dict[str, list[ModelSpec]] = {}
        for spec in specs:
            self.specs.setdefault(spec.dataset.name, []).append(spec)
        self._callers: set[str] = set()
        self._checking = asyncio.Lock()

    async def take(self, request: Request, name: str | None) -> StoredDataset:
        """Receive, check and store one upload for the dataset `name`; raises `UploadError`."""
        headers, settings = request.headers, self.settings
        refuse_other_sites(headers)
        boundary, gzipped = read_packaging(headers)
        dataset = self.choose(name)
        if not settings.has_storage:
            raise UploadError(
                503,
                "storage_not_configured",
                "There is nowhere to store a dataset. Set GREENROOM_S3_ACCESS_KEY, GREENROOM_S3_SECRET_KEY "
                "and, for another server than the local stack's, GREENROOM_S3_ENDPOINT_URL.",
            )
        with self._place(request.scope), scratch_files() as (body, output):
            await receive(request, body, MAX_BYTES)
            job = Job(
                dataset=dataset.name,
                body=body.fileno(),
                output=output.fileno(),
                boundary=boundary,
                gzipped=gzipped,
                max_rows=MAX_ROWS,
            )
            async with self._turn():
                # After the body the next message can only be that the sender hung up.
                stored = await check_and_store(job, request.receive)
        models = tuple(spec.name for spec in self.specs[dataset.name])
        command = f"greenroom train --dataset {stored['id']}"
        return StoredDataset(**stored, dataset=dataset.name, models=models, next=command)

    @contextmanager
    def _place(self, scope: Scope) -> Iterator[None]:
        """Take the caller's place; raises `UploadError` 503 while the caller has it, or others have all."""
        caller = self._caller(scope)
        if caller in self._callers:
            self._rejected("caller_upload")
            raise _busy("Another upload of yours is under way, and there is room for one.")
        if len(self._callers) >= MAX_UPLOADS:
            raise _busy("Other uploads are under way, and there is no room for this one.")
        self._callers.add(caller)
        try:
            yield
        finally:
            self._callers.discard(caller)

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Wait until no other upload is checked; raises `UploadError` 503 if that takes long."""
        try:
            async with asyncio.timeout(MAX_WAIT):
                await self._checking.acquire()
        except TimeoutError:
            raise _busy(f"Another upload is checked for longer than {MAX_WAIT:g} s.") from None
        try:
            yield
        finally:
            self._checking.release()

    def choose(self, name: str | None) -> Dataset:
        """Return the dataset of that name, or the only one; raises `UploadError` 404."""
        names = ", ".join(self.specs)
        if name is None:
            if len(self.specs) > 1:
                raise _unknown(f"Say which dataset it is, with the query ?dataset=NAME. There are: {names}.")
            name = next(iter(self.specs), "")
        if name not in self.specs:
            raise _unknown(f"There is no dataset {shorten(name)!r} in the catalogue. There are: {names}.")
        datasets = [spec.dataset for spec in self.specs[name]]
        try:
            columns_of(datasets[0])
            if any(dataset.row is not datasets[0].row for dataset in datasets):
                raise ValueError("two models declare it with different contracts")
        except ValueError as error:
            raise _unknown(f"The dataset {name!r} cannot be uploaded as CSV: {error}.") from None
        return datasets[0]


def _busy(message: str) -> UploadError:
    return UploadError(503, "upload_busy", f"{message} Send this again in 5 s.", headers={"Retry-After": "5"})


def _unknown(message: str) -> UploadError:
    return UploadError(404, "unknown_dataset", message)


def upload_routes(
    specs: Mapping[str, ModelSpec],
    settings: StorageSettings | None = None,
    caller: Callable[[Scope], str] = lambda _: "",
    rejected: Callable[[Literal["caller_upload"]], None] = lambda _: None,
) -> APIRouter:
    """Return the route that takes a dataset for the models of `specs`.

    `caller` names who sends, and `rejected` is called when one sends a second meanwhile.
    """
    uploads = Uploads(specs.values(), settings or StorageSettings(), caller, rejected)
    router = APIRouter(tags=["datasets"])
    names = ", ".join(uploads.specs)

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
            stored = await uploads.take(request, dataset)
        except UploadError as error:
            _log.info("upload refused: %s %s", error.status, error.code)
            return respond(error.status, error.code, error.message, error.details, error.headers)
        sender = getattr(request.state, "api_key_name", None) or "somebody without an API key"
        _log.info("dataset %s: %d rows of %s, uploaded by %s", stored.id, stored.rows, stored.dataset, sender)
        return JSONResponse(stored.model_dump(mode="json"), status_code=201 if stored.created else 200)

    router.add_api_route(
        "/api/upload-dataset",
        upload,
        methods=["POST"],
        operation_id="upload_dataset",
        summary="Upload rows to train on",
        description="Send a CSV in UTF-8, as it is or compressed with gzip: as the one file of a form, or as "
        "the body. Its header names the columns of the dataset's contract, in any order; every row must meet "
        "the contract, or nothing is stored. The answer's id goes to `greenroom train --dataset ID`.\n\n"
        f"Limits: {MAX_BYTES} bytes as sent, {MAX_CSV_BYTES} unpacked, "
        f"{MAX_ROWS} rows, {MAX_ROW_BYTES} bytes a row, {MAX_CELL} characters a cell; "
        "one upload of a caller at a time.",
        response_model=StoredDataset,
        status_code=201,
        responses={
            200: {"model": StoredDataset, "description": "The same rows are there already."},
            201: {"description": "Checked and stored."},
            **{status: {"model": ErrorBody, "description": words} for status, words in _ERRORS.items()},
        },
        # FastAPI cannot know the body, which is read as it comes, within limits.
        openapi_extra=_BODY,
    )
    return router
