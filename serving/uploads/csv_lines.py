"""The lines of an uploaded CSV: out of the form, out of gzip, decoded, each within its limit.

This runs in the worker process, so that no body can delay predictions.
"""

import gzip
import zlib
from typing import IO, Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser

from serving.uploads.errors import FormatError, TooLargeError, UploadError

# Largest CSV after decompression.
MAX_CSV_BYTES = 256 << 20
# A gzip file may unpack to so many times its size, plus 1 MiB. Tables of numbers come to about 3.
MAX_RATIO = 100
# Longest row, line breaks in quotes included. An open quote would otherwise take in the rest of the file.
MAX_ROW_BYTES = 64 << 10

_CHUNK = 64 << 10
_GZIP = b"\x1f\x8b"
_BOM = b"\xef\xbb\xbf"
_OTHER_FORMATS = {
    b"\xff\xfe": "text in UTF-16 or UTF-32",
    b"\xfe\xff": "text in UTF-16",
    b"PK\x03\x04": "a ZIP archive or an Excel workbook",
    b"PAR1": "a Parquet file",
}


class CsvLines:
    """The lines of a CSV as text, for `csv.reader`; `number` counts the lines read.

    Iterating raises `UploadError` when the bytes are no UTF-8 text, exceed a limit, or are broken gzip.
    """

    def __init__(self, body: IO[bytes], *, boundary: str | None, gzipped: bool) -> None:
        """Open a body, at its start; `boundary` is a form's, which is unpacked in place.

        Gzip is recognized by its first bytes; with `gzipped` anything else is refused.
        """
        if boundary is not None:
            _unpack_form(body, boundary)
        self.number = 0
        self._body = body
        self._gzip = body.read(2) == _GZIP
        body.seek(0)
        if gzipped and not self._gzip:
            raise _bad_gzip("it is declared as gzip and is not")
        self._file: Any = gzip.GzipFile(fileobj=body, mode="rb") if self._gzip else body
        self._bytes = self._row_bytes = 0

    def end_row(self) -> None:
        """Begin to count a new row's bytes: a row with line breaks in quotes has several lines."""
        self._row_bytes = 0

    def __iter__(self) -> "CsvLines":
        return self

    def __next__(self) -> str:
        # One byte more than allowed: that is how a longer row is noticed.
        if not (line := self._read_line(MAX_ROW_BYTES - self._row_bytes + 1)):
            raise StopIteration
        self.number += 1
        if self.number == 1:
            line = _without_bom(line)
        self._row_bytes += len(line)
        if self._row_bytes > MAX_ROW_BYTES:
            raise TooLargeError(
                f"The row that ends in or after line {self.number} is longer than {MAX_ROW_BYTES} bytes. "
                "Does a quote stay open, or does the file end its lines with CR alone?"
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

    def _read_line(self, size: int) -> bytes:
        """Return a line of at most `size` bytes. No more than a buffer is unpacked beyond it."""
        try:
            line: bytes = self._file.readline(size)
        except EOFError:
            raise _bad_gzip("it ends too early, as if cut short") from None
        except (gzip.BadGzipFile, zlib.error) as error:
            raise _bad_gzip(str(error)) from None
        self._bytes += len(line)
        if self._bytes > MAX_CSV_BYTES:
            raise TooLargeError(
                f"The CSV is larger than the {MAX_CSV_BYTES} bytes that are accepted; send fewer rows."
            )
        if self._gzip and self._bytes > (1 << 20) + MAX_RATIO * self._body.tell():
            raise TooLargeError(
                f"The gzip file unpacks to more than {MAX_RATIO} times its size, as no table of data does. "
                "Send the CSV as it is.",
                "compression_ratio",
            )
        return line


def _without_bom(line: bytes) -> bytes:
    """Return the first line without its byte order mark; refuse the beginnings of other formats."""
    for beginning, name in _OTHER_FORMATS.items():
        if line.startswith(beginning):
            raise FormatError(f"The file is {name}. Send a CSV in UTF-8, as it is or compressed with gzip.")
    return line.removeprefix(_BOM)


def _unpack_form(body: IO[bytes], boundary: str) -> None:
    """Replace a form by the content of its only part.

    The content is shorter than the form, so writing never overtakes reading, and no second file is needed.
    """
    pieces: list[bytes] = []
    events: list[str] = []
    callbacks: Any = {
        "on_part_begin": lambda: events.append("part"),
        "on_part_data": lambda data, start, stop: pieces.append(data[start:stop]),
        "on_end": lambda: events.append("end"),
    }
    read = written = 0
    try:
        parser = MultipartParser(boundary.encode("latin-1"), callbacks)
        while chunk := body.read(_CHUNK):
            parser.write(chunk)
            read += len(chunk)
            if events.count("part") > 1:
                raise _bad_form("it has more than one part")
            body.seek(written)
            written += sum(map(body.write, pieces))
            pieces.clear()
            body.seek(read)
    except (FormParserError, UnicodeEncodeError) as error:
        raise _bad_form(str(error)) from None
    if "end" not in events:
        raise _bad_form("it ends before its closing boundary")
    body.truncate(written)
    body.seek(0)


def _bad_form(problem: str) -> UploadError:
    return UploadError(
        400,
        "invalid_form",
        f"The form cannot be read: {problem}. Send exactly one file, as `curl -F file=@FILE.csv` does.",
    )


def _bad_gzip(problem: str) -> UploadError:
    return UploadError(400, "invalid_gzip", f"The gzip file cannot be read: {problem}. Compress it again.")
