"""Rows to upload, and what must be true of a predictor that took none."""

import csv
import gzip
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx

from catalog.spotify_tracks import Track
from registry.storage.bucket import Bucket
from registry.storage.settings import StorageSettings
from serving.http_errors import ErrorBody
from tests.serving.support.predictor_process import Running

NOWHERE = "http://127.0.0.1:9"
MIB = 1 << 20
PATH = "/api/upload-dataset"
CSV = {"Content-Type": "text/csv"}
GZIP = {"Content-Type": "application/gzip"}
COLUMNS = tuple(Track.model_fields)
_TRACK: dict[str, Any] = {
    "danceability": 0.5,
    "energy": 1.0,
    "valence": 0.25,
    "acousticness": 0.153,
    "instrumentalness": 0.0,
    "liveness": 0.111,
    "speechiness": 0.0259,
    "key": 10,
    "mode": 1,
    "loudness": -4.644,
    "tempo": 89.991,
    "duration_ms": 200_000,
    "time_signature": 4,
    "explicit": True,
    "track_id": "a1",
    "artists": "Ann;Bob",
    "track_name": 'She said "no", twice',
    "track_genre": "rock",
    "popularity": 40,
}


def row(**values: Any) -> dict[str, Any]:
    """A track with some cells of its own."""
    return {**_TRACK, **values}


def rows(count: int, seed: str = "") -> list[dict[str, Any]]:
    """Tracks that differ."""
    return [row(track_id=f"{seed}{number}", energy=number % 10 / 10) for number in range(count)]


TABLE = rows(30)


def to_csv(table: list[dict[str, Any]], columns: tuple[str, ...] = COLUMNS, **options: Any) -> bytes:
    """The table as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, **{"lineterminator": "\n", **options})
    writer.writeheader()
    writer.writerows(table)
    return text.getvalue().encode()


def form(content: bytes, name: str = "rows.csv") -> dict[str, Any]:
    """httpx' options for a form with one file."""
    return {"files": {"file": (name, content)}}


def raw(content: bytes, headers: dict[str, str] = CSV) -> dict[str, Any]:
    """httpx' options for a bare body."""
    return {"content": content, "headers": headers}


def packed(content: bytes) -> dict[str, Any]:
    """httpx' options for a gzip file."""
    return raw(gzip.compress(content), GZIP)


def generated(size: int) -> Iterator[bytes]:
    """A CSV of many bytes, as it comes from a program that does not know their number."""
    head, line = to_csv([]), to_csv(TABLE).partition(b"\n")[2]
    yield head
    for _ in range(size // len(line)):
        yield line


def varied(count: int) -> list[dict[str, Any]]:
    """Tracks that gzip cannot make much smaller."""
    return [row(track_id=sha256(number.to_bytes(4, "big")).hexdigest()) for number in range(count)]


def wide(count: int, text: Callable[[], str]) -> list[dict[str, Any]]:
    """Tracks with much text."""
    return [row(track_id=text(), artists=text(), track_name=text(), track_genre=text()) for _ in range(count)]


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except FileNotFoundError:  # it was closed meanwhile
        return ""


@dataclass
class Uploading:
    """A predictor that takes uploads, and the bucket that they go to."""

    predictor: Running
    storage: StorageSettings

    @property
    def bucket(self) -> Bucket:
        return Bucket(self.storage)

    def post(self, **options: Any) -> httpx.Response:
        return httpx.post(self.predictor.url + PATH, **{"timeout": 60, **options})

    def stored(self) -> set[str]:
        """Every dataset in the bucket."""
        return set(self.bucket.keys("datasets"))

    def refuses(self, status: int, code: str, **options: Any) -> str:
        """Upload what must be refused; nothing is left of it. Returns the error's message."""
        before = self.stored()
        answer = self.post(**options)
        assert answer.status_code == status, answer.text
        error = ErrorBody.model_validate(answer.json()).error
        assert error.code == code, answer.text
        assert error.details
        assert len(answer.content) < 20_000
        assert self.stored() == before
        self.is_clean()
        return error.message

    def is_clean(self) -> None:
        """No file of an upload is left, neither by name nor open, and no process of one."""
        assert list((self.predictor.log.parent / "serving-uploads").glob("*")) == []
        files = Path(f"/proc/{self.predictor.process.pid}/fd").glob("*")
        assert [file for file in files if "serving-uploads" in _target(file)] == []
        assert self.workers() == []

    def workers(self) -> list[int]:
        """The processes that check an upload of this predictor."""
        pids = []
        home = f"GREENROOM_HOME={self.predictor.log.parent}".encode()
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                command, environ = (entry / "cmdline").read_bytes(), (entry / "environ").read_bytes()
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:  # it ended meanwhile
                continue
            if b"serving.uploads.worker" in command and home in environ.split(b"\0") and state != "Z":
                pids.append(int(entry.name))
        return pids


Launch = Callable[..., Uploading]
