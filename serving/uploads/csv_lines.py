"""From an upload's bytes to lines of text: out of a form, out of gzip, in UTF-8, each within its limit.

This runs in the process that checks: whatever a body does to a parser, predictions do not wait for it.
"""

import gzip
import io
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser

from serving.uploads.errors import FormatError, TooLargeError, UploadError
from serving.uploads.settings import MIB, UploadSettings

_CHUNK = 64 * 1024
_GZIP = b"\x1f\x8b"
_BOM = b"\xef\xbb\xbf"
_FOREIGN = {
    b"\xff\xfe": "text in UTF-16 or UTF-32",
    b"\xfe\xff": "text in UTF-16",
    b"PK\x03\x04": "a ZIP archive or an Excel workbook",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook",
    b"PAR1": "a Parquet file",
    b"(\xb5\x2f\xfd": "compressed with Zstandard",
    b"BZh": "compressed with bzip2",
    b"\xfd7zXZ": "compressed with xz",
}


class Lines:
    """The lines of a CSV as text, for `csv.reader`; `number` counts those read, beginning with 1.

    Raises `UploadError` when the bytes are no UTF-8 text, or beyond a limit, or no whole gzip file.
    """

    def __init__(self, body: BinaryIO, settings: UploadSettings, *, boundary: str | None, gzipped: bool):
        """Read an upload. `boundary` is a form's; what looks like gzip is unpacked, `gzipped` insists."""
        self.number = 0
        self._stream = io.BufferedReader(
            _Unpacked(_Source(_chunks(body, boundary)), settings, gzipped), _CHUNK
        )
        self._most = settings.serving_upload_max_line_bytes
        self._row_bytes = 0

    def end_row(self) -> None:
        """Say that a row is complete. One in quotes can have many lines, which count together."""
        self._row_bytes = 0

    def __iter__(self) -> "Lines":
        return self

    def __next__(self) -> str:
        line = self._stream.readline(self._most - self._row_bytes + 1)
        if not line:
            raise StopIteration
        self.number += 1
        if self.number == 1:
            line = _start(line)
        self._row_bytes += len(line)
        if self._row_bytes > self._most:
            raise TooLargeError(
                f"The row that ends in or after line {self.number} is longer than {self._most} bytes. Does a "
                "quote stay open, or does the file end its lines with CR alone?"
            )
        if b"\0" in line:
            raise FormatError(
                f"Line {self.number} holds a NUL byte, so this is not text in UTF-8 (perhaps UTF-16). "
                "Save the file as CSV in UTF-8."
            )
        try:
            return line.decode()
        except UnicodeDecodeError as error:
            raise FormatError(
                f"Line {self.number} is not UTF-8 at its byte {error.start + 1} (perhaps Latin-1 or "
                "Windows-1252). Save the file as CSV in UTF-8."
            ) from None


def _start(line: bytes) -> bytes:
    """Return the first line without its BOM; what it shows to be something else is refused."""
    for beginning, what in _FOREIGN.items():
        if line.startswith(beginning):
            raise FormatError(f"The file is {what}. Send a CSV in UTF-8, as it is or compressed with gzip.")
    return line.removeprefix(_BOM)


def _chunks(body: BinaryIO, boundary: str | None) -> Iterator[bytes]:
    chunks = iter(lambda: body.read(_CHUNK), b"")
    return chunks if boundary is None else _only_part(chunks, boundary)


def _only_part(chunks: Iterator[bytes], boundary: str) -> Iterator[bytes]:
    """Yield the content of the one file in a form, as it comes."""
    found: list[bytes] = []
    state = {"parts": 0, "ended": False}

    def begin() -> None:
        state["parts"] += 1
        if state["parts"] > 1:
            raise _bad_form("it has more than one part")

    def end() -> None:
        state["ended"] = True

    callbacks: Any = {
        "on_part_begin": begin,
        "on_part_data": lambda data, start, stop: found.append(data[start:stop]),
        "on_end": end,
    }
    try:
        parser = MultipartParser(boundary.encode("latin-1"), callbacks)
        for chunk in chunks:
            parser.write(chunk)
            yield from found
            found.clear()
    except (FormParserError, UnicodeEncodeError) as error:
        raise _bad_form(str(error)) from None
    if not state["ended"]:
        raise _bad_form("it ends before its closing boundary")


def _bad_form(what: str) -> UploadError:
    return UploadError(
        400,
        "invalid_form",
        f"The form cannot be read: {what}. Send exactly one file, as `curl -F file=@FILE.csv` does.",
    )


class _Source(io.RawIOBase):
    """Chunks as a file; `taken` counts what was read of them."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks, self._rest, self.taken = chunks, b"", 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            if (chunk := next(self._chunks, None)) is None:
                return 0
            self._rest = chunk
        piece, self._rest = self._rest[: len(buffer)], self._rest[len(buffer) :]
        buffer[: len(piece)] = piece
        self.taken += len(piece)
        return len(piece)


class _Unpacked(io.RawIOBase):
    """The CSV's bytes, unpacked if need be, and counted.

    All members of a gzip file count together. No more is unpacked at once than is asked for, so a bomb is
    found out while it is small.
    """

    def __init__(self, source: _Source, settings: UploadSettings, gzipped: bool) -> None:
        self._source, self._settings, self._given = source, settings, 0
        packed = io.BufferedReader(source, _CHUNK)
        self._gzip = packed.peek(2)[:2] == _GZIP
        if gzipped and not self._gzip:
            raise _bad_gzip("it is declared as gzip and is not")
        self._file: Any = gzip.GzipFile(fileobj=packed, mode="rb") if self._gzip else packed

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._file.read(len(buffer))
        except EOFError:
            raise _bad_gzip("it ends too early, as if cut short") from None
        except (gzip.BadGzipFile, zlib.error) as error:
            raise _bad_gzip(str(error)) from None
        self._given += len(data)
        self._hold_to_limits()
        buffer[: len(data)] = data
        return len(data)

    def _hold_to_limits(self) -> None:
        most, ratio = self._settings.serving_upload_max_csv_bytes, self._settings.serving_upload_max_ratio
        if self._given > most:
            raise TooLargeError(
                f"The CSV is larger than the {most} bytes that are accepted; send fewer rows."
            )
        if self._gzip and self._given > MIB + ratio * self._source.taken:
            raise TooLargeError(
                f"The gzip file unpacks to more than {ratio} times its size, as no table of data does. Send "
                "the CSV as it is.",
                "compression_ratio",
            )


def _bad_gzip(what: str) -> UploadError:
    return UploadError(400, "invalid_gzip", f"The gzip file cannot be read: {what}. Compress it again.")
