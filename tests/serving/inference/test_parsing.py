"""Bad input is refused by name, and nothing a caller sends makes the predictor fail."""

import json
import socket
import time
from collections.abc import Callable
from typing import Any

import httpx
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.http_errors import ErrorBody
from tests.serving.support.onnx_parts import json_of
from tests.serving.support.predictor_process import Published, Running, Start


def put(name: str, value: str) -> Callable[[dict[str, Any]], str]:
    """Return an edit that sets a field to some JSON text, which need not be valid."""
    return lambda track: json.dumps({**track, name: "@@"}).replace('"@@"', value)


def refused(answer: httpx.Response, status: int, code: str) -> ErrorBody:
    assert answer.status_code == status, answer.text
    body = ErrorBody.model_validate(json_of(answer.text))
    assert body.error.code == code
    assert body.error.details
    assert "Traceback" not in answer.text
    return body


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("danceability", "1.0001"),
        ("danceability", "-0.0001"),
        ("danceability", "NaN"),
        ("danceability", "Infinity"),
        ("danceability", "-Infinity"),
        ("danceability", "1e999"),
        ("danceability", '"0.5"'),
        ("danceability", "true"),
        ("danceability", "null"),
        ("danceability", "[0.5]"),
        ("danceability", "{}"),
        ("danceability", "9" * 400),
        ("key", "10.5"),
        ("key", "true"),
        ("key", '"10"'),
        ("key", "12"),
        ("key", "-1"),
        ("mode", "2"),
        ("duration_ms", "1e400"),
        ("duration_ms", "9" * 400),
        ("duration_ms", "999"),
        ("loudness", "6.1"),
        ("tempo", "0"),
        ("time_signature", "null"),
        ("explicit", "1"),
        ("explicit", '"true"'),
        ("explicit", "NaN"),
    ],
)
def test_a_bad_value_is_refused_by_name(
    predictor: Running, names: dict[str, str], track: dict[str, Any], field: str, value: str
) -> None:
    answer = predictor.post(
        names["genre"], content=put(field, value)(track), headers={"content-type": "application/json"}
    )
    body = refused(answer, 422, "invalid_input")
    assert {detail.field for detail in body.error.details} == {field}
    assert field in body.error.message


def test_every_missing_and_every_extra_field_is_named(
    predictor: Running, names: dict[str, str], track: dict[str, Any]
) -> None:
    sent = {"dancability" if name == "danceability" else name: value for name, value in track.items()}
    del sent["tempo"]
    body = refused(predictor.post(names["genre"], json=sent), 422, "invalid_input")
    assert {detail.field for detail in body.error.details} == {"dancability", "danceability", "tempo"}


def test_a_feature_the_model_does_not_read_is_refused(
    predictor: Running, names: dict[str, str], track: dict[str, Any]
) -> None:
    body = refused(predictor.post(names["energy"], json=track), 422, "invalid_input")
    assert [detail.field for detail in body.error.details] == ["energy"]


@pytest.mark.parametrize("written", ['"key"', '"\\u006bey"', '"key" '])
@pytest.mark.parametrize("value", [10, 3])
def test_a_field_that_is_there_twice_is_refused_by_name(
    predictor: Running, names: dict[str, str], track: dict[str, Any], written: str, value: int
) -> None:
    """Whichever of the two were taken, it would be the wrong one for somebody."""
    twice = f"{json.dumps(track)[:-1]}, {written}: {value}}}"
    for content, field in ((twice, "key"), (f"[{json.dumps(track)}, {twice}]", "1.key")):
        answer = predictor.post(names["genre"], content=content, headers={"content-type": "application/json"})
        body = refused(answer, 422, "invalid_input")
        assert [detail.field for detail in body.error.details] == [field]


@pytest.mark.parametrize("content", ["null", '"track"', "3", "true", "NaN"])
def test_what_is_not_an_object_is_refused(predictor: Running, names: dict[str, str], content: str) -> None:
    answer = predictor.post(names["genre"], content=content, headers={"content-type": "application/json"})
    assert refused(answer, 422, "invalid_input").error.details[0].field == "body"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b" ",
        b"{",
        b"{'danceability': 1}",
        b'{"danceability": 0.5,}',
        b"\xff\xfe{}",
        b'{"danceability": "\xff"}',
        b"\xef\xbb\xbf{}",
        b"danceability=0.5",
        b'{"\\ud800": 1}',
        b"[" * 30_000,
        b'{"danceability":' * 4_000,
        b'{"extra": ' + b"[" * 30_000 + b"]" * 30_000 + b"}",
        b"\x00",
        b'{"key": ' + b"9" * 5_000 + b"}",
    ],
)
def test_what_is_not_json_is_refused(predictor: Running, names: dict[str, str], content: bytes) -> None:
    answer = predictor.post(names["genre"], content=content, headers={"content-type": "application/json"})
    refused(answer, 400, "invalid_json")


@pytest.mark.parametrize(
    "content_type",
    [None, "text/plain", "application/x-www-form-urlencoded", "application/json; charset=utf-16", "\xff"],
)
def test_what_is_not_declared_as_json_is_refused(
    predictor: Running, names: dict[str, str], track: dict[str, Any], content_type: str | None
) -> None:
    headers = {} if content_type is None else {"content-type": content_type.encode("latin-1")}
    answer = predictor.post(names["genre"], content=json.dumps(track).encode(), headers=headers)
    refused(answer, 415, "unsupported_media_type")


def test_json_with_a_charset_is_taken(
    predictor: Running, names: dict[str, str], track: dict[str, Any]
) -> None:
    headers = {"content-type": "Application/JSON; charset=UTF-8"}
    answer = predictor.post(names["genre"], content=json.dumps(track).encode(), headers=headers)
    assert answer.status_code == 200, answer.text


def test_a_large_body_is_refused_whether_it_says_so_or_not(
    predictor: Running, names: dict[str, str], track: dict[str, Any]
) -> None:
    exact = json.dumps(track).encode().ljust(64 * 1024)
    headers = {"content-type": "application/json"}
    assert predictor.post(names["genre"], content=exact, headers=headers).status_code == 200
    refused(predictor.post(names["genre"], content=exact + b" ", headers=headers), 413, "body_too_large")
    refused(predictor.post(names["genre"], content=b" " * 3_000_000, headers=headers), 413, "body_too_large")

    chunked = predictor.post(names["genre"], content=iter([exact, b" "]), headers=headers)
    refused(chunked, 413, "body_too_large")


def test_thousands_of_wrong_fields_get_a_short_answer(predictor: Running, names: dict[str, str]) -> None:
    answer = predictor.post(names["genre"], json={f"{'x' * 200}{i}": 1 for i in range(250)})
    body = refused(answer, 422, "invalid_input")
    assert len(body.error.details) == 20
    assert "and 244 more" in body.error.message
    assert len(answer.text) < 8_000


def test_a_body_that_does_not_come_is_not_waited_for(
    start: Start, published: Published, names: dict[str, str]
) -> None:
    running = start(published.url, GREENROOM_TRUSTED_KEYS=published.trusted, limits={"BODY_TIMEOUT": 0.3})
    running.loaded()
    host, port = running.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        head = f"POST /api/predict/{names['genre']} HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n"
        connection.sendall(f"{head}Content-Type: application/json\r\n\r\n{{".encode())
        began = time.monotonic()
        answer = b"".join(iter(lambda: connection.recv(65536), b"")).decode()  # until it hangs up
        assert time.monotonic() - began < 5
    assert answer.startswith("HTTP/1.1 408")
    assert '"request_timeout"' in answer


def test_a_caller_that_hangs_up_leaves_no_traceback(predictor: Running, names: dict[str, str]) -> None:
    before = len(predictor.log.read_text())
    host, port = predictor.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        head = f"POST /api/predict/{names['genre']} HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n"
        connection.sendall(f"{head}Content-Type: application/json\r\n\r\n{{".encode())
        time.sleep(0.3)
    time.sleep(0.3)
    assert predictor.get("/healthz").status_code == 200
    assert "Traceback" not in predictor.log.read_text()[before:]


_RANGES = {"danceability": (0.0, 1.0), "loudness": (-60.0, 6.0), "tempo": (20.0, 300.0)}
_FEW = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@_FEW
@given(data=st.data(), field=st.sampled_from(sorted(_RANGES)))
def test_any_number_in_range_is_answered(
    predictor: Running, names: dict[str, str], track: dict[str, Any], data: st.DataObject, field: str
) -> None:
    low, high = _RANGES[field]
    value = data.draw(st.floats(low, high))
    answer = predictor.post(names["genre"], json={**track, field: value})
    assert answer.status_code == 200, answer.text
    assert sum(json_of(answer.text)["probabilities"].values()) == pytest.approx(1, abs=1e-5)


@_FEW
@given(data=st.data(), field=st.sampled_from(sorted(_RANGES)))
def test_any_number_out_of_range_is_refused_by_name(
    predictor: Running, names: dict[str, str], track: dict[str, Any], data: st.DataObject, field: str
) -> None:
    low, high = _RANGES[field]
    value = data.draw(
        st.floats(max_value=low, exclude_max=True)
        | st.floats(min_value=high, exclude_min=True)
        | st.just(float("nan"))
    )
    # json.dumps writes NaN and Infinity, as many clients do.
    content = json.dumps({**track, field: value})
    answer = predictor.post(names["genre"], content=content, headers={"content-type": "application/json"})
    body = refused(answer, 422, "invalid_input")
    assert [detail.field for detail in body.error.details] == [field]


@_FEW
@given(content=st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_no_body_makes_the_predictor_fail(predictor: Running, names: dict[str, str], content: bytes) -> None:
    answer = predictor.post(names["genre"], content=content, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422)
    ErrorBody.model_validate(json_of(answer.text))


# Bodies of 10 MB, each of which another part of a parser would have to swallow whole.
_HUGE = {
    "nothing": lambda size: b" " * size,
    "nesting": lambda size: b"[" * size,
    "closed nesting": lambda size: b"[" * (size // 2) + b"]" * (size // 2),
    "a number": lambda size: b'{"tempo": 1' + b"0" * size + b"}",
    "a string": lambda size: b'{"tempo": "' + "\u00e4".encode() * (size // 2) + b'"}',
    "a name": lambda size: b'{"' + b"x" * size + b'": 1}',
    "fields": lambda size: b"{" + b'"key":1,' * (size // 8) + b'"key":1}',
    "numbers": lambda size: b"[" + b"1," * (size // 2) + b"1]",
    "objects": lambda size: b"[" + b"{}," * (size // 3) + b"{}]",
    "escapes": lambda size: b'["' + b"\\ud83d\\ude00" * (size // 12) + b'"]',
}


def test_huge_bodies_are_refused_and_cost_no_memory(predictor: Running, names: dict[str, str]) -> None:
    """10 MB, by their declared length and by counting; and the largest that is read, which is parsed.

    An object is read up to 64 KiB and a list up to 600 KiB or so, and what is read is dropped with the
    answer. So nothing may be left but what the allocator keeps of one that was parsed: 32 MiB are less than
    four of the 20 bodies of 10 MB.
    """
    process = psutil.Process(predictor.process.pid)
    headers = {"content-type": "application/json"}
    for made in _HUGE.values():  # the first ones make the threads and their arenas
        predictor.post(names["genre"], content=made(600_000), headers=headers)
    before = process.memory_info().rss
    for made in _HUGE.values():
        for content in (made(10_000_000), iter([made(10_000_000)]), made(600_000), made(60_000)):
            answer = huge(predictor, names["genre"], content)
            assert answer is None or answer.status_code in (400, 413, 422), answer.text
            if answer is not None:
                assert len(answer.content) < 8_000
                ErrorBody.model_validate(json_of(answer.text))
    assert process.memory_info().rss - before < 32 << 20
    assert predictor.get("/healthz").status_code == 200


def huge(predictor: Running, name: str, content: Any) -> httpx.Response | None:
    """Send a body; None where the connection was closed before the answer could be read."""
    try:
        return predictor.post(name, content=content, headers={"content-type": "application/json"})
    except (httpx.WriteError, httpx.ReadError):
        return None


_LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.integers(300, 5000).map(lambda digits: 10 ** min(digits, 4000))
)
_NESTED = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@_FEW
@given(data=st.data(), value=_NESTED)
def test_no_value_of_any_field_makes_the_predictor_fail(
    predictor: Running,
    names: dict[str, str],
    track: dict[str, Any],
    data: st.DataObject,
    value: Any,
) -> None:
    """A wrong type, NaN, a huge number, Unicode, in each field or under a name that is no field."""
    field = data.draw(st.sampled_from(sorted(track)) | st.text(max_size=8))
    text = json.dumps({**track, field: value}, ensure_ascii=data.draw(st.booleans()))
    content = text.encode("utf-8", "surrogatepass")
    answer = predictor.post(names["genre"], content=content, headers={"content-type": "application/json"})
    assert answer.status_code in (200, 400, 422), answer.text
    if answer.status_code == 200:
        assert isinstance(value, int | float)
        assert field in track
    else:
        ErrorBody.model_validate(json_of(answer.text))
