"""Which CSV files are accepted, which are refused, and which places the errors name. No server is needed."""

import csv
import gzip
import io
import subprocess
import sys
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field

from catalog.loader import get_model
from catalog.spec import Dataset, ModelSpec
from catalog.spotify_tracks import TRACKS, Track, TrackFeatures
from registry.storage.settings import StorageSettings
from serving.uploads import csv_lines
from serving.uploads.columns import Column, columns_of
from serving.uploads.csv_checker import CsvChecker
from serving.uploads.csv_lines import CsvLines
from serving.uploads.errors import UploadError
from serving.uploads.routes import Uploads
from tests.serving.support.uploading import COLUMNS, MIB, TABLE, generated, row, to_csv, varied


@pytest.fixture(autouse=True)
def _cells() -> Iterator[None]:
    """Put back the longest cell, which the csv module keeps for the whole process."""
    before = csv.field_size_limit()
    yield
    csv.field_size_limit(before)


def read(
    content: bytes,
    *,
    dataset: Dataset = TRACKS,
    boundary: str | None = None,
    gzipped: bool = False,
    max_rows: int = 1_000_000,
) -> list[dict[str, Any]]:
    """Return the rows of an upload, as they would be stored."""
    lines = CsvLines(io.BytesIO(content), boundary=boundary, gzipped=gzipped)
    checker = CsvChecker(lines, dataset, max_rows)
    names = [column.name for column in checker.columns]
    return [
        dict(zip(names, values, strict=True))
        for block in checker.blocks()
        for values in zip(*block, strict=True)
    ]


def refused(content: bytes, **options: Any) -> UploadError:
    with pytest.raises(UploadError) as caught:
        read(content, **options)
    return caught.value


def test_rows_are_read_however_they_are_written() -> None:
    table = [row(energy=0.5, track_name="Ünïcode, with\na line break"), row(track_id="b", loudness=-60.0)]
    spelled = to_csv([{**table[0], "energy": "+5e-1"}, {**table[1], "explicit": "TRUE", "popularity": " 40"}])
    for content in (
        to_csv(table),
        b"\xef\xbb\xbf" + to_csv(table),
        to_csv(table, lineterminator="\r\n"),
        to_csv(table, columns=COLUMNS[::-1], quoting=csv.QUOTE_ALL),
        to_csv(table).removesuffix(b"\n"),
        to_csv(table).replace(b"\n", b"\n\n", 1) + b"\n\n",
        spelled,
        gzip.compress(to_csv(table)[:100]) + gzip.compress(to_csv(table)[100:]),
    ):
        assert read(content) == table


def test_numbers_may_be_negative_and_text_may_hold_what_formulas_begin_with() -> None:
    table = [row(loudness=-5.0, track_name="Me & You - 1+1=2 @home", artists="A-ha")]
    assert read(to_csv(table)) == table


@pytest.mark.parametrize("begin", ["=", "+", "-", "@", "\t", "\r", "＝", "＠"])
@pytest.mark.parametrize("before", ["", "  ", "'", '"', "\u00a0", '\n"\u200b'])
def test_formulas_are_refused_by_row_and_column(begin: str, before: str) -> None:
    table = [row(), row(artists=f"{before}{begin}1+1"), row(artists="also - fine")]
    error = refused(to_csv(table, quoting=csv.QUOTE_ALL))
    assert (error.status, error.code) == (422, "invalid_rows")
    assert [detail.field for detail in error.details] == ["artists", "3.artists"]
    assert "formula" in error.details[1].problem


def test_the_report_counts_all_and_shows_the_first() -> None:
    table = [row(energy=1.5, key="", explicit="perhaps", popularity="4.5") for _ in range(1500)]
    table[0] = row(track_name="two\nlines")
    table[1] = row(artists="", duration_ms="99999999999999999999", tempo="1e999", valence="nan")
    error = refused(to_csv(table))
    assert error.message.startswith("5996 problems in 1500 rows")
    assert "energy 1498" in error.message
    assert len(error.details) <= 20 + len(COLUMNS)
    problems = {detail.field: detail.problem for detail in error.details}
    assert problems["energy"] == "1498 of 1500 rows have a problem here, the first is row 4"
    # Row 3 is on line 4, because row 2 has two lines.
    assert problems["3.artists"].startswith("is empty: ")
    assert problems["3.artists"].endswith("(line 4)")
    assert problems["3.tempo"].startswith("'1e999' is not a number")
    assert problems["3.valence"].startswith("'nan' is not a number")
    assert problems["3.duration_ms"].startswith("'99999999999999999999' is not a whole number")
    assert problems["4.energy"].startswith("'1.5': Input should be less than or equal to 1")
    assert problems["4.explicit"].startswith("'perhaps' is not true or false")
    assert problems["4.popularity"].startswith("'4.5' is not a whole number")
    assert problems["4.key"].startswith("is empty: ")


def test_a_file_that_is_wrong_as_a_whole_is_not_read_to_its_end() -> None:
    for content in (to_csv([row(energy=2)] * 12_000), to_csv([]) + b"1,2\n" * 12_000):
        assert "The rest of the file was not looked at" in refused(content).message


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        (b"", "no_rows", "empty"),
        (b"\n\n", "no_rows", "empty"),
        (to_csv([]), "no_rows", "header and no rows"),
        (to_csv(TABLE).decode().encode("utf-16"), "invalid_csv", "UTF-16"),
        (to_csv(TABLE).decode().encode("utf-16-be"), "invalid_csv", "NUL"),
        (
            to_csv([row(), row(artists="Beyoncé")]).decode().encode("latin-1"),
            "invalid_csv",
            "Line 3 is not UTF-8",
        ),
        (to_csv([row(artists="a\0b")]), "invalid_csv", "Line 2 holds a NUL byte"),
        (b"PK\x03\x04" + bytes(100), "invalid_csv", "Excel"),
        (to_csv([row(popularity="x")]).replace(b",x", b',"x'), "invalid_csv", "line 2: a quote is opened"),
        (to_csv([row(artists="x")]).replace(b",x,", b',"x"y,'), "invalid_csv", "line 2"),
        (to_csv([row(artists="x")]).replace(b",x,", b",x\ry,"), "invalid_csv", "CR"),
        (
            to_csv(TABLE, columns=COLUMNS[1:], extrasaction="ignore"),
            "invalid_header",
            "Missing: 'danceability'",
        ),
        (to_csv(TABLE).replace(b"valence", b"energy", 1), "invalid_header", "there twice: 'energy'"),
        (to_csv(TABLE).replace(b"\n", b",mood\n", 1), "invalid_header", "'mood'"),
        (to_csv(TABLE, delimiter=";"), "invalid_header", "separated by ';'"),
        (b",".join(b"c%d" % number for number in range(250)), "invalid_header", "and 230 more"),
        (to_csv(TABLE) + b"1,2\n", "invalid_rows", "row 1"),
    ],
)
def test_a_file_that_is_no_such_csv_is_refused(content: bytes, code: str, words: str) -> None:
    error = refused(content)
    assert (error.status, error.code) == (422, code)
    assert words in error.message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (to_csv(TABLE), "declared as gzip and is not"),
        (b"", "declared as gzip and is not"),
        (gzip.compress(to_csv(TABLE))[:-30], "too early"),
        (gzip.compress(to_csv(TABLE))[:-8] + bytes(8), "CRC"),
        (gzip.compress(to_csv(TABLE)) + b"garbage", "Not a gzipped file"),
    ],
)
def test_a_broken_gzip_file_is_refused(content: bytes, words: str) -> None:
    error = refused(content, gzipped=True)
    assert (error.status, error.code) == (400, "invalid_gzip")
    assert words in error.message


def test_a_form_larger_than_a_chunk_is_unpacked_in_place() -> None:
    table = [{**track, "track_name": f"a\r\n--{number}\r\n--y"} for number, track in enumerate(varied(2000))]
    content = to_csv(table, lineterminator="\r\n")
    part = b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\n' + content
    assert len(content) > 4 * 64 * 1024
    assert read(part + b"\r\n--x--\r\n", boundary="x") == table
    assert read(part.replace(content, gzip.compress(content)) + b"\r\n--x--\r\n", boundary="x") == table


def test_a_form_has_exactly_one_file() -> None:
    part = b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\n' + to_csv(TABLE) + b"\r\n"
    assert read(part + b"--x--\r\n", boundary="x") == TABLE
    for content, words in (
        (part, "closing"),
        (part + part + b"--x--\r\n", "more than one"),
        (b"hello", "boundary"),
        (b"--x\r\n" + b"A: b\r\n" * 100, "header"),
    ):
        error = refused(content, boundary="x")
        assert (error.status, error.code) == (400, "invalid_form")
        assert words in error.message.lower()


@pytest.mark.parametrize(
    ("content", "limits", "words"),
    [
        (to_csv(TABLE), {"max_rows": 29}, "more than 29 rows"),
        (to_csv([]) + b"\n" * 100, {"max_rows": 29}, "more than 29 rows"),
        (to_csv(TABLE), {"MAX_ROW_BYTES": 100}, "longer than 100 bytes"),
        (to_csv([]) + b"1," * 5 * MIB, {}, "longer than 65536 bytes"),
        (to_csv([row()]).replace(b"rock", b'"\n",' * 30_000 + b"x"), {}, "longer than 65536 bytes"),
        (to_csv([row(artists="a" * 4097)]), {}, "longer than 4096 characters"),
        (to_csv([row(artists='"' + "a\n" * 3000)]), {}, "longer than 4096 characters"),
        (to_csv(varied(300)), {"MAX_CSV_BYTES": 30_000}, "larger than the 30000 bytes"),
        (gzip.compress(to_csv(varied(300))), {"MAX_CSV_BYTES": 30_000}, "larger than the 30000 bytes"),
        (gzip.compress(b"".join(generated(8 * MIB)), 9), {"MAX_RATIO": 20}, "20 times"),
        (
            gzip.compress(to_csv([])) + gzip.compress(b"".join(generated(MIB))) * 8,
            {"MAX_RATIO": 20},
            "20 times",
        ),
    ],
)
def test_every_limit_refuses(
    content: bytes, limits: dict[str, int], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in limits.keys() - {"max_rows"}:
        monkeypatch.setattr(csv_lines, name, limits[name])
    error = refused(content, max_rows=limits.get("max_rows", 1_000_000))
    assert error.status == 413
    assert words in error.message


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not keep to RLIMIT_DATA")
def test_checking_has_a_memory_limit() -> None:
    code = (
        "from serving.uploads import worker; from registry.storage.settings import StorageSettings;"
        "worker._limit_process(256 << 20);"
        "worker.run = lambda *_: bytearray(300 << 20);"
        "print(worker._result(None, StorageSettings(), print)['refused'][:2])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[413, 'dataset_too_large']"


class Wine(BaseModel):
    """A contract with what that of tracks has not."""

    colour: Literal["red", "white"]
    grade: Annotated[int, Field(ge=0)] | None
    price: int | float
    note: str = ""


WINES = Dataset(name="wines", description="", source="", row=Wine, features=Wine)


def test_other_contracts_are_read_by_their_types() -> None:
    assert columns_of(WINES) == (
        Column("colour", "text", required=True),
        Column("grade", "integer", required=True),
        Column("price", "number", required=True),
        Column("note", "text", required=False),
    )
    content = b"price,colour,grade\n5,red,\n4.5,white,3\n"
    assert read(content, dataset=WINES) == [
        {"colour": "red", "grade": None, "price": 5.0},
        {"colour": "white", "grade": 3, "price": 4.5},
    ]
    assert refused(content.replace(b"red", b"rose"), dataset=WINES).details[1].field == "2.colour"


def test_a_contract_that_no_csv_can_hold_is_said() -> None:
    class Odd(BaseModel):
        tags: list[str]

    with pytest.raises(ValueError, match="tags"):
        columns_of(WINES.model_copy(update={"row": Odd}))


def test_a_dataset_that_no_csv_can_hold_is_not_taken() -> None:
    class Odd(BaseModel):
        tags: list[str]

    def spec(row: type[BaseModel]) -> ModelSpec:
        return get_model("genre").model_copy(update={"dataset": TRACKS.model_copy(update={"row": row})})

    for specs, words in (
        ([spec(Odd)], "tags"),
        ([spec(Track), spec(TrackFeatures)], "different contracts"),
        ([], "no dataset ''"),
    ):
        with pytest.raises(UploadError, match=words) as caught:
            Uploads(specs, StorageSettings(), lambda _: "", lambda _: None).choose(None)
        assert (caught.value.status, caught.value.code) == (404, "unknown_dataset")
