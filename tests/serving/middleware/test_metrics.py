"""The numbers of /metrics move as they should, parse, and stay few."""

from typing import Any

import numpy as np
import pytest

from serving.ids import new_id
from serving.inference.response import PredictionResponse
from serving.middleware.metrics import Metrics, note_answer
from serving.tasks.base import ModelOutputs
from serving.tasks.registry import TASKS
from tests.serving.support.predictor_process import Published, Running, Start
from tests.serving.support.scraped import Scraped

TYPES = {
    "greenroom_request_seconds": "histogram",
    "greenroom_requests": "counter",
    "greenroom_requests_rejected": "counter",
    "greenroom_rows_predicted": "counter",
    "greenroom_requests_in_flight": "gauge",
    "greenroom_queue_length": "gauge",
    "greenroom_model_swaps": "counter",
    "greenroom_model_loads_refused": "counter",
    "greenroom_served_version": "gauge",
    "greenroom_served_from_cache": "gauge",
}


@pytest.fixture(scope="module")
def measured(start: Start, published: Published) -> Running:
    """A predictor of this file's own, so that its numbers are these tests'."""
    running = start(published.url, GREENROOM_TRUSTED_KEYS=published.trusted)
    running.loaded()
    return running


def scrape(running: Running) -> Scraped:
    got = running.get("/metrics")
    assert got.status_code == 200
    assert got.headers["content-type"].startswith("text/plain; version=")
    return Scraped(got.text)


def test_every_metric_has_its_type(measured: Running) -> None:
    assert scrape(measured).types.items() >= TYPES.items()
    assert scrape(measured).get("process_resident_memory_bytes") > 0


def test_predictions_are_counted_and_timed(
    measured: Running, names: dict[str, str], track: dict[str, object]
) -> None:
    model = names["genre"]
    before = scrape(measured)
    for _ in range(5):
        assert measured.post(model, json=track).status_code == 200
    for _ in range(2):
        assert measured.post(model, json={}).status_code == 422
    assert measured.post(model, json=[track] * 40).status_code == 200
    after = scrape(measured)

    def moved(name: str, **labels: str) -> float:
        return after.get(name, **labels) - before.get(name, **labels)

    assert moved("greenroom_requests_total", model=model, key="(none)") == 8
    assert moved("greenroom_rows_predicted_total", model=model) == 45
    timed = {"model": model, "version": "1"}
    assert moved("greenroom_request_seconds_count", **timed, status="2xx") == 6
    assert moved("greenroom_request_seconds_count", **timed, status="4xx") == 2
    assert moved("greenroom_request_seconds_count", **timed, status="5xx") == 0
    assert moved("greenroom_request_seconds_bucket", **timed, status="2xx", le="1.0") == 6
    assert moved("greenroom_request_seconds_bucket", **timed, status="2xx", le="5e-05") == 0
    assert 6 * 50e-6 < moved("greenroom_request_seconds_sum", **timed, status="2xx") < 5
    assert after.get("greenroom_requests_in_flight") == 0
    assert after.get("greenroom_queue_length") == 0


def test_a_model_that_is_not_served_counts_as_5xx_of_no_version(
    measured: Running, names: dict[str, str], track: dict[str, object]
) -> None:
    assert measured.post(names["orphan"], json=track).status_code == 503
    seen = scrape(measured)
    labels = {"model": names["orphan"], "version": "(none)", "status": "5xx"}
    assert seen.get("greenroom_request_seconds_count", **labels) == 1
    assert seen.get("greenroom_rows_predicted_total", model=names["orphan"]) == 0
    assert seen.get("greenroom_served_version", model=names["orphan"]) == 0


def test_names_that_callers_make_up_are_one_series(measured: Running) -> None:
    measured.post("made-up", json={})
    before = scrape(measured)
    for number in range(50):
        assert measured.post(f"made-up-{number}/x", json={}).status_code == 404
    after = scrape(measured)
    assert len(after) == len(before)
    for seen, count in ((before, 1), (after, 51)):
        assert seen.get("greenroom_requests_total", model="(unknown)", key="(none)") == count


def test_what_does_not_predict_is_not_timed(measured: Running) -> None:
    before = scrape(measured)
    for path in ("/healthz", "/readyz", "/api/models", "/docs", "/nothing"):
        measured.get(path)
    after = scrape(measured)
    for name in ("greenroom_requests_total", "greenroom_request_seconds_count"):
        assert after.having(name) == before.having(name)


def test_models_that_were_loaded_and_refused_show(measured: Running, names: dict[str, str]) -> None:
    seen = scrape(measured)
    assert seen.get("greenroom_served_version", model=names["genre"]) == 1
    assert seen.get("greenroom_model_swaps_total", model=names["genre"]) == 1
    assert seen.get("greenroom_served_from_cache", model=names["genre"]) == 0
    for kind in ("undescribed", "exchanged", "overridden"):
        model = names[kind]
        assert seen.get("greenroom_served_version", model=model) == (1 if kind == "overridden" else 0)
        refused = seen.having("greenroom_model_loads_refused_total", model=model)
        assert sum(refused.values()) == (0 if kind == "overridden" else 1), kind


def test_model_states_can_be_set() -> None:
    metrics, other = Metrics(["genre"]), Metrics(["genre"])
    metrics.swapped("genre", 3)
    metrics.cache_state("genre", "cache")
    metrics.refused_load("genre", "no_evidence")
    metrics.refused_load("not-in-the-catalogue", "no_evidence")
    seen = Scraped(metrics.text().decode())
    assert seen.get("greenroom_model_swaps_total", model="genre") == 1
    assert seen.get("greenroom_served_version", model="genre") == 3
    assert seen.get("greenroom_served_from_cache", model="genre") == 1
    refused = "greenroom_model_loads_refused_total"
    assert seen.get(refused, model="genre", reason="no_evidence") == 1
    assert seen.get(refused, model="(unknown)", reason="no_evidence") == 1
    # Each app has its own.
    assert Scraped(other.text().decode()).get("greenroom_served_version", model="genre") == 0

    metrics.swapped("genre", 4)
    metrics.swapped("genre", 4)  # the same, as when the registry is back and confirms what the cache had
    metrics.cache_state("genre", "registry")
    seen = Scraped(metrics.text().decode())
    assert seen.get("greenroom_served_version", model="genre") == 4
    assert seen.get("greenroom_model_swaps_total", model="genre") == 2
    assert seen.get("greenroom_served_from_cache", model="genre") == 0
    metrics.swapped("genre", None)
    seen = Scraped(metrics.text().decode())
    assert seen.get("greenroom_served_version", model="genre") == 0
    assert seen.get("greenroom_model_swaps_total", model="genre") == 2


def test_the_version_that_answered_counts_whatever_is_served_now() -> None:
    metrics = Metrics(["genre"])
    metrics.swapped("genre", 2)
    scope: dict[str, Any] = {"state": {"api_key_name": "shop"}}
    found = ModelOutputs(np.full(40, 0.5, dtype=np.float32), None, ())
    note_answer(
        scope,
        PredictionResponse(new_id(), "genre", 1, found, range(40), listed=True, task=TASKS["regression"]),
    )
    metrics.answered("genre", 200, 0.01, scope["state"])
    metrics.answered("genre", 503, 0.01, {})
    seen = Scraped(metrics.text().decode())
    count = "greenroom_request_seconds_count"
    assert seen.get(count, model="genre", version="1", status="2xx") == 1
    assert seen.get(count, model="genre", version="2", status="5xx") == 1
    assert seen.get("greenroom_rows_predicted_total", model="genre") == 40
    assert seen.get("greenroom_requests_total", model="genre", key="shop") == 1
