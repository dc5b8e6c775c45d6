"""Without a key that is known nobody gets in, and no key is to be found anywhere."""

import logging
import re
from hashlib import sha256

import httpx
import pytest
from click.testing import CliRunner
from pydantic import ValidationError

from serving.api_key_pairs import new_key, parse_pairs
from serving.cli import api_key
from serving.http_errors import ErrorBody
from serving.settings import ServingSettings
from tests.serving.middleware.test_concurrency import BODY, NOWHERE, answer, connect, settles
from tests.serving.support.onnx_parts import json_of
from tests.serving.support.predictor_process import Published, Running, Start
from tests.serving.support.scraped import Scraped
from tests.waiting import until

KEY, PAIR = new_key("shop")
OTHER, OTHER_PAIR = new_key("app.2")
HASH = PAIR.partition(":")[2]
OPEN = ("/healthz", "/docs", "/openapi.json")


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture(scope="module")
def keyed(start: Start) -> Running:
    """A predictor with two keys, at its most talkative; it serves nothing, which is a 503."""
    running = start(
        NOWHERE, GREENROOM_SERVING_API_KEYS=f"{PAIR}, {OTHER_PAIR}", GREENROOM_SERVING_LOG_LEVEL="debug"
    )
    running.loaded()
    return running


def refused(got: httpx.Response) -> str:
    assert got.status_code == 401, got.text
    assert got.headers["www-authenticate"] == 'Bearer realm="greenroom"'
    assert got.headers["x-content-type-options"] == "nosniff"
    assert ErrorBody.model_validate(json_of(got.text)).error.code == "unauthorized"
    return got.text


WRONG = [
    {},
    {"Authorization": "Bearer"},
    {"Authorization": KEY},
    {"Authorization": f"Basic {KEY}"},
    {"X-API-Key": ""},
    {"X-API-Key": f"Bearer {KEY}"},
    bearer(KEY[:-1]),
    bearer(KEY + "x"),
    bearer(KEY.swapcase()),
    bearer(f"shop:{KEY}"),
    bearer("shop"),
    # The setting's text opens nothing.
    bearer(HASH),
    bearer(PAIR),
    {"X-API-Key": HASH},
    {"Cookie": f"X-API-Key={KEY}"},
]


@pytest.mark.parametrize("headers", WRONG)
def test_a_missing_and_a_wrong_key_get_the_same_refusal(keyed: Running, headers: dict[str, str]) -> None:
    assert refused(keyed.get("/api/models", headers=headers)) == refused(keyed.get("/api/models"))
    refused(keyed.post("genre", json={}, headers=headers))
    refused(keyed.get("/metrics", headers=headers))


@pytest.mark.parametrize("key", [KEY, OTHER], ids=["first", "second"])
def test_a_right_key_opens_by_either_header(keyed: Running, key: str) -> None:
    with_others = {"Authorization": "Basic cHJveHk6cHJveHk=", "X-API-Key": key}
    for headers in (bearer(key), {"Authorization": f"bearer {key}"}, {"x-api-key": key}, with_others):
        assert keyed.get("/api/models", headers=headers).status_code == 200
        assert keyed.get("/metrics", headers=headers).status_code == 200
        got = keyed.post("genre", json={}, headers=headers)
        assert got.json()["error"]["code"] == "model_unavailable"


def test_a_key_is_not_taken_from_the_address(keyed: Running) -> None:
    refused(keyed.get("/api/models", params={"api_key": KEY}))
    assert "api_key" not in keyed.log.read_text()


def test_health_and_docs_are_open_and_all_else_is_shut(keyed: Running) -> None:
    for path in OPEN:
        assert keyed.get(path).status_code == 200
    assert keyed.get("/readyz").status_code == 503
    assert keyed.get("/").status_code == 307
    script = re.search(r'src="(/[^"]+\.js)"', keyed.get("/docs").text)
    assert script
    assert keyed.get(script[1]).status_code == 200

    page = keyed.get("/openapi.json").json()
    shut = [path for path in page["paths"] if path not in ("/healthz", "/readyz")]
    assert {"/api/models", "/api/predict/genre", "/metrics"} <= set(shut)
    for path in (*shut, "/api", "/api/", "//api/models", "/api%2Fmodels", "/API/models", "/nothing"):
        for method in ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS"):
            got = httpx.request(method, keyed.url + path)
            assert got.status_code == 401, (method, path)
    # The docs page knows what to ask for.
    assert set(page["components"]["securitySchemes"]) == {"bearer", "header"}
    assert page["paths"]["/api/predict/genre"]["post"]["security"] == [{"bearer": []}, {"header": []}]
    assert "security" not in page["paths"]["/healthz"]["get"]


def test_who_has_no_key_takes_nobodys_turn(start: Start) -> None:
    running = start(
        NOWHERE,
        GREENROOM_SERVING_API_KEYS=PAIR,
        GREENROOM_SERVING_MAX_CONCURRENCY="1",
        GREENROOM_SERVING_MAX_QUEUE="0",
    )
    for _ in range(5):
        with connect(running, BODY[:5]) as stranger:  # refused although its body never comes
            assert answer(stranger)[:2] == (401, "unauthorized")
    settles(running, working=0, waiting=0, headers=bearer(KEY))
    seen = Scraped(running.get("/metrics", headers=bearer(KEY)).text)
    assert seen.get("greenroom_requests_rejected_total", reason="no_key") == 5
    assert running.post("genre", json={}, headers=bearer(KEY)).json()["error"]["code"] != "overloaded"


def test_keys_are_in_no_answer_no_metric_and_no_log(keyed: Running) -> None:
    answers = [keyed.get("/api/models", headers=headers) for headers in (*WRONG, bearer(KEY))]
    answers += [keyed.post("genre", json={}, headers={"X-API-Key": OTHER}), keyed.get("/openapi.json")]
    metrics = keyed.get("/metrics", headers=bearer(KEY)).text
    until(lambda: "GET /api/models" in keyed.log.read_text())  # written when the answer is on its way
    log = keyed.log.read_text()
    for text in (metrics, log, *(got.text + str(got.headers) for got in answers)):
        for secret in (KEY, OTHER, HASH, OTHER_PAIR.partition(":")[2]):
            assert secret not in text
    seen = Scraped(metrics)
    assert seen.get("greenroom_requests_total", model="genre", key="app.2") >= 1
    assert seen.get("greenroom_requests_rejected_total", reason="wrong_key") >= 1


def test_a_key_predicts(
    start: Start, published: Published, names: dict[str, str], track: dict[str, object]
) -> None:
    running = start(published.url, GREENROOM_TRUSTED_KEYS=published.trusted, GREENROOM_SERVING_API_KEYS=PAIR)
    running.loaded()
    assert running.post(names["genre"], json=track, headers=bearer(KEY)).status_code == 200
    refused(running.post(names["genre"], json=track, headers=bearer(OTHER)))
    seen = Scraped(running.get("/metrics", headers=bearer(KEY)).text)
    assert seen.having("greenroom_requests_total", model=names["genre"]) == {
        frozenset({("model", names["genre"]), ("key", "shop")}): 1,
        frozenset({("model", names["genre"]), ("key", "(none)")}): 1,
    }


@pytest.mark.parametrize(
    ("settings", "status"),
    [
        ({}, 200),
        ({"HOST": "0.0.0.0"}, 401),  # noqa: S104 - that is the point
        ({"API_KEYS": PAIR}, 401),
        ({"METRICS": "false"}, 404),
    ],
)
def test_metrics_are_open_on_loopback_alone(start: Start, settings: dict[str, str], status: int) -> None:
    running = start(NOWHERE, **{f"GREENROOM_SERVING_{name}": value for name, value in settings.items()})
    assert running.get("/metrics").status_code == status
    assert running.get("/api/models").status_code == (401 if "API_KEYS" in settings else 200)


@pytest.mark.parametrize(
    ("setting", "place"),
    [
        (KEY, 1),
        ("shop", 1),
        (" ", 1),
        (",", 1),
        (f"{PAIR},", 2),
        (f"shop:{KEY}", 1),
        (f"{HASH}:shop", 1),
        (f"{PAIR};{OTHER_PAIR}", 1),
        (f":{HASH}", 1),
        (f"two words:{HASH}", 1),
        (f"shop:{HASH[:-1]}", 1),
        (f"shop:{HASH}0", 1),
        (f"{OTHER_PAIR},{PAIR[:-1]}g", 2),
        (f"{PAIR},shop:{OTHER_PAIR.partition(':')[2]}", 2),  # two keys of one name
        (f"{PAIR},twin:{HASH.upper()}", 2),  # one key of two names
    ],
    # The keys are others in every process, and names of tests must not be.
    ids=map(str, range(15)),
)
def test_a_malformed_setting_is_refused_by_its_place_alone(setting: str, place: int) -> None:
    with pytest.raises(ValidationError) as caught:
        ServingSettings(serving_api_keys=setting)
    message = caught.value.errors()[0]["msg"]
    assert f"entry {place} " in message
    for secret in (KEY, HASH, OTHER_PAIR.partition(":")[2], "shop"):
        assert secret not in message
        assert secret not in str(caught.value)


def test_a_predictor_with_a_malformed_setting_does_not_start(start: Start) -> None:
    with pytest.raises(AssertionError) as caught:
        start(NOWHERE, GREENROOM_SERVING_API_KEYS=f"{PAIR},shop2:{KEY}")
    said = str(caught.value)
    assert "GREENROOM_SERVING_API_KEYS" in said
    assert "entry 2 is not NAME:SHA256HEX" in said
    assert KEY not in said
    assert HASH not in said
    assert "Traceback" not in said


def test_settings_show_no_hash() -> None:
    settings = ServingSettings(serving_api_keys=PAIR)
    assert HASH not in repr(settings)
    assert HASH not in str(settings.model_dump())
    assert settings.api_keys == {"shop": sha256(KEY.encode()).digest()}
    assert parse_pairs("") == {}


def test_the_command_makes_a_key_that_works(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        done = CliRunner().invoke(api_key, ["band"])
    assert done.exit_code == 0
    key, pair = re.findall(r"^  (\S+)$", done.output, re.MULTILINE)
    assert done.output.count(key) == 1
    assert key not in caplog.text
    assert pair == f"band:{sha256(key.encode()).hexdigest()}"
    assert key not in CliRunner().invoke(api_key, ["band"]).output
    running = start(NOWHERE, GREENROOM_SERVING_API_KEYS=pair)
    assert running.get("/api/models", headers=bearer(key)).status_code == 200
    refused(running.get("/api/models", headers=bearer(KEY)))


@pytest.mark.parametrize("name", ["", "a:b", "a,b", "a b", "-a", "ä", "a" * 41, "a\n"])
def test_the_command_refuses_names_that_fit_no_pair(name: str) -> None:
    done = CliRunner().invoke(api_key, ["--", name])
    assert done.exit_code == 2
    assert "a name is" in done.output
