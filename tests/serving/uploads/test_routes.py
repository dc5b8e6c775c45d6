"""Uploads on a real predictor and a real S3 server: what is stored, and what is refused."""

import gzip
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import httpx
import pyarrow.parquet as pq
import pytest

from registry.errors import DatasetDamagedError, DatasetMissingError
from registry.storage.bucket import Bucket
from registry.storage.datasets import dataset_key, fetch_dataset
from serving.http_errors import ErrorBody
from tests.serving.support.uploading import (
    COLUMNS,
    CSV,
    GZIP,
    MIB,
    PATH,
    TABLE,
    Launch,
    Uploading,
    form,
    generated,
    packed,
    raw,
    row,
    rows,
    to_csv,
    wide,
)
from tests.waiting import until


@pytest.fixture(scope="module")
def tight(launch: Launch) -> Uploading:
    """With limits that a test can reach."""
    return launch({"receiver.MAX_LAG": 0.5, "routes.MAX_BYTES": 3 * MIB, "routes.MAX_ROWS": 1000})


# What is taken


def test_every_form_stores_the_same_rows_under_one_id(usual: Uploading, tmp_path: Any) -> None:
    table = rows(30, "forms")
    content = to_csv(table)
    first = usual.post(**form(content))
    assert first.status_code == 201, first.text
    body = first.json()
    assert (body["dataset"], body["rows"], body["created"]) == ("spotify_by_genre", 30, True)
    assert set(body["columns"]) == set(COLUMNS)
    assert "energy" in body["models"]
    assert body["next"] == f"greenroom train --dataset {body['id']}"
    for options in (
        form(gzip.compress(content), "rows.csv.gz"),
        raw(content),
        raw(content, {"Content-Type": "text/csv; charset=utf-8"}),
        raw(gzip.compress(content), {**CSV, "Content-Encoding": "gzip"}),
        packed(content),
        {**raw(content), "params": {"dataset": "spotify_by_genre"}},
    ):
        again = usual.post(**options)
        assert (again.status_code, again.json()) == (200, {**body, "created": False}), again.text

    assert fetch_dataset(usual.bucket, body["id"], tmp_path / "rows") == "spotify_by_genre"
    kept = pq.read_table(tmp_path / "rows").to_pylist()
    assert kept == table
    usual.is_clean()


def test_the_id_is_of_the_rows_not_of_how_they_are_written(usual: Uploading) -> None:
    table = rows(2)
    respelled = [{**track, "valence": "2.5e-1"} for track in table]
    ids = [
        usual.post(**raw(content)).json()["id"]
        for content in (
            to_csv(table),
            b"\xef\xbb\xbf" + to_csv(respelled, columns=COLUMNS[::-1]),
            to_csv(table[::-1]),
        )
    ]
    assert ids[0] == ids[1] != ids[2]


# What is refused for what it says


def test_a_bad_file_stores_nothing(usual: Uploading) -> None:
    table = [row(), row(artists='=HYPERLINK("http://x")', loudness=-5), row(track_name=" '@SUM(1)", energy=2)]
    message = usual.refuses(422, "invalid_rows", **form(to_csv(table)))
    assert message.startswith("3 problems in 3 rows of the dataset 'spotify_by_genre' (")
    problems = {
        d["field"]: d["problem"] for d in usual.post(**form(to_csv(table))).json()["error"]["details"]
    }
    assert set(problems) == {"artists", "track_name", "energy", "3.artists", "4.track_name", "4.energy"}
    assert "formula" in problems["3.artists"]
    usual.refuses(422, "invalid_header", **form(to_csv(TABLE).replace(b"valence", b"mood", 1)))
    usual.refuses(422, "invalid_csv", **form(to_csv(TABLE).decode().encode("utf-16")))
    usual.refuses(422, "no_rows", **form(b""))
    usual.refuses(400, "invalid_gzip", **raw(gzip.compress(to_csv(TABLE))[:-30], GZIP))
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    usual.refuses(400, "invalid_form", content=b"--x\r\n\r\n" + to_csv(TABLE), headers=kind)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "application/json"},
        {"Content-Type": "multipart/form-data"},
        {"Content-Type": "text/csv; charset=latin-1"},
        {"Content-Type": "text/csv", "Content-Encoding": "br"},
    ],
)
def test_another_kind_of_body_is_refused(usual: Uploading, headers: dict[str, str]) -> None:
    usual.refuses(415, "unsupported_media_type", **raw(to_csv(TABLE), headers))


def test_a_page_of_another_site_is_refused(usual: Uploading) -> None:
    options = form(to_csv(TABLE))
    for headers in ({"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": "null"}):
        usual.refuses(403, "cross_origin", **options, headers=headers)
    own = {"Origin": usual.predictor.url, "Sec-Fetch-Site": "same-origin"}
    assert usual.post(**options, headers=own).is_success


def test_an_unknown_dataset_is_refused(usual: Uploading) -> None:
    message = usual.refuses(404, "unknown_dataset", **form(to_csv(TABLE)), params={"dataset": "wines"})
    assert "spotify_by_genre" in message


# What is refused for what it costs


def test_a_large_upload_is_refused_by_its_declared_length(tight: Uploading) -> None:
    host, port = tight.predictor.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        head = (
            f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: text/csv\r\nContent-Length: {2 << 30}\r\n\r\n"
        )
        connection.sendall(head.encode())
        answer = b""
        while not answer.endswith(b"}"):
            answer += connection.recv(65536)
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert b"dataset_too_large" in answer
        # What is sent all the same is dropped, and the connection closed.
        connection.sendall(bytes(100_000))
        assert connection.recv(65536) == b""
    tight.is_clean()


def test_a_large_upload_is_refused_by_counting(tight: Uploading) -> None:
    before = tight.stored()
    answer = tight.post(content=generated(60 * MIB), headers=CSV)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "dataset_too_large")
    assert str(3 * MIB) in answer.text
    assert tight.stored() == before
    tight.is_clean()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (gzip.compress(b"".join(generated(MIB)), 1), "more than 1000 rows"),
        (to_csv([row(artists="a" * 66_000)]), "longer than 65536 bytes"),
        (to_csv([row(artists="a" * 4097)]), "longer than 4096 characters"),
        (gzip.compress(to_csv(wide(900, lambda: "a" * 4000))), "100 times"),
    ],
    ids=["rows", "row", "cell", "ratio"],
)
def test_what_is_in_the_file_is_limited(tight: Uploading, content: bytes, words: str) -> None:
    code = "compression_ratio" if words == "100 times" else "dataset_too_large"
    assert words in tight.refuses(413, code, **form(content))


def test_a_large_csv_in_a_small_gzip_file_is_refused(usual: Uploading) -> None:
    head, rows_of_8_mib = to_csv([]), wide(512, lambda: random.randbytes(250).hex() + "a" * 3500)
    member = gzip.compress(to_csv(rows_of_8_mib).removeprefix(head), 1)
    content = gzip.compress(head) + member * 33
    assert f"{256 * MIB} bytes that are accepted" in usual.refuses(413, "dataset_too_large", **form(content))


def test_slow_senders_are_refused(tight: Uploading, launch: Launch) -> None:
    def drip() -> Iterator[bytes]:
        for _ in range(100):
            yield b"a"
            time.sleep(0.1)

    assert "bytes a second" in tight.refuses(408, "request_timeout", content=drip(), headers=CSV)
    hasty = launch({"receiver.MAX_SECONDS": 0.3, "receiver.MIN_RATE": 1})
    assert "complete after 0.3 s" in hasty.refuses(408, "request_timeout", content=drip(), headers=CSV)
    assert hasty.post(**form(to_csv(TABLE))).is_success


def test_checking_has_a_time_limit(launch: Launch) -> None:
    hasty = launch({"runner.MAX_SECONDS": 0.05})
    assert "0.05 s" in hasty.refuses(413, "too_much_work", **form(to_csv(TABLE)))
    until(lambda: not hasty.workers())


def test_one_upload_at_a_time(tight: Uploading) -> None:
    busy: list[httpx.Response] = []

    def slow() -> Iterator[bytes]:
        content = to_csv(TABLE)
        yield content[:100]
        deadline = time.monotonic() + 5
        while not busy and time.monotonic() < deadline:
            answer = tight.post(**form(content))
            if answer.status_code == 503:
                busy.append(answer)
        # Others are answered meanwhile.
        assert tight.predictor.get("/healthz").is_success
        yield content[100:]

    assert tight.post(content=slow(), headers=CSV).is_success
    assert busy[0].headers["retry-after"] == "5"
    assert ErrorBody.model_validate(busy[0].json()).error.code == "upload_busy"


def test_api_keys_guard_it(launch: Launch) -> None:
    guarded = launch(serving_api_keys=f"ann:{sha256(b'the key').hexdigest()}")
    guarded_post = {**raw(to_csv(TABLE))}
    assert guarded.post(**guarded_post).status_code == 401
    answer = guarded.post(**raw(to_csv(TABLE), {**CSV, "X-API-Key": "the key"}))
    assert answer.is_success, answer.text
    assert "uploaded by ann" in guarded.predictor.log.read_text()


def test_every_answer_is_documented(usual: Uploading) -> None:
    operation = usual.predictor.get("/openapi.json").json()["paths"][PATH]["post"]
    assert set(operation["requestBody"]["content"]) == {"multipart/form-data", "text/csv", "application/gzip"}
    documented = {int(status) for status in operation["responses"]}
    assert documented == {200, 201, 400, 403, 404, 408, 413, 415, 422, 500, 503}


def test_settings_that_make_no_sense_stop_the_start() -> None:
    environment = {**os.environ, "GREENROOM_S3_ENDPOINT_URL": "none", "GREENROOM_SERVING_PORT": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "serving"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "GREENROOM_S3_ENDPOINT_URL" in done.stderr


# What is stored


def test_what_is_stored_is_held_against_its_id(usual: Uploading, tmp_path: Any) -> None:
    dataset, other = (usual.post(**raw(to_csv(rows(5, seed)))).json()["id"] for seed in ("one", "other"))
    bucket: Bucket = usual.bucket
    with pytest.raises(DatasetMissingError, match="upload-dataset"):
        fetch_dataset(bucket, f"sha256:{0:064}", tmp_path / "rows")
    with pytest.raises(ValueError, match="no dataset id"):
        fetch_dataset(bucket, "sha256:../../mlflow", tmp_path / "rows")
    bucket.get(dataset_key(other), tmp_path / "other")
    (tmp_path / "junk").write_bytes(b"PAR1 or not")
    for content in (tmp_path / "other", tmp_path / "junk"):
        bucket.put(dataset_key(dataset), content)
        with pytest.raises(DatasetDamagedError, match="Upload the rows again"):
            fetch_dataset(bucket, dataset, tmp_path / "rows")
    assert usual.post(**raw(to_csv(rows(5, "one")))).json()["id"] == dataset
    assert fetch_dataset(bucket, dataset, tmp_path / "rows") == "spotify_by_genre"
