"""Grafana's dashboard and Prometheus' configuration speak of metrics and labels that the predictor has."""

import json
import re
from typing import Any

import pytest
import yaml

from serving.middleware.metrics import Metrics
from tests.conftest import ROOT

COMPOSE = ROOT / "infra" / "compose"
# Prometheus' own, and those of a predictor with several workers.
ELSEWHERE = {"up", "greenroom_worker_resident_memory_bytes"}
SUFFIX = re.compile(r"_(total|count|sum|bucket)$")


def expressions(dashboard: dict[str, Any]) -> list[str]:
    found = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    return [*found, *(one["expr"] for one in dashboard["annotations"]["list"])]


def unknown(expression: str, known: dict[str, set[str]]) -> set[str]:
    """Return the metrics of an expression that there are none of, and the labels that none of them has."""
    names = set(re.findall(r"\b(?:greenroom|process)_[a-z_]+|\bup\b", expression)) - ELSEWHERE
    wrong = {name for name in names if SUFFIX.sub("", name) not in known and name not in known}
    labels = {
        part.strip() for group in re.findall(r"by \(([^)]*)\)", expression) for part in group.split(",")
    }
    have = {label for name in names for label in known.get(SUFFIX.sub("", name), known.get(name, set()))}
    return wrong | (labels - have - {"le"})


@pytest.fixture(scope="module")
def known() -> dict[str, set[str]]:
    """Every metric of a predictor and its labels, from its own page after some events."""
    metrics = Metrics(["genre"])
    metrics.watch_queue(lambda: 0, lambda: 0)
    metrics.swapped("genre", 1)
    metrics.cache_state("genre", "registry")
    metrics.refused_load("genre", "no_evidence")
    metrics.rejected("no_key")
    metrics.answered("genre", 200, 0.001, {})
    found: dict[str, set[str]] = {}
    for line in metrics.text().decode().splitlines():
        if match := re.match(r"([a-z_]+)(?:\{([^}]*)\})? ", line):
            labels = set(re.findall(r'(\w+)="', match[2] or ""))
            found.setdefault(SUFFIX.sub("", match[1]), set()).update(labels)
    assert found["greenroom_requests"] == {"model", "key"}
    return found


def test_the_dashboard_asks_for_what_there_is(known: dict[str, set[str]]) -> None:
    asked = expressions(json.loads((COMPOSE / "grafana/dashboards/predictor.json").read_text()))
    assert len(asked) > 15
    assert {expression: wrong for expression in asked if (wrong := unknown(expression, known))} == {}


@pytest.mark.parametrize(
    "wrong",
    [
        "sum(greenroom_request_total)",
        "rate(greenroom_requests_total[5m]) + greenroom_queue",
        "process_memory_bytes",
        "sum by (version) (greenroom_requests_total)",
    ],
)
def test_a_metric_or_label_that_is_not_there_is_found(known: dict[str, set[str]], wrong: str) -> None:
    assert unknown(wrong, known)


def test_panels_use_the_data_source_that_is_provisioned() -> None:
    dashboard = json.loads((COMPOSE / "grafana/dashboards/predictor.json").read_text())
    sources = yaml.safe_load((COMPOSE / "grafana/provisioning/datasources/prometheus.yml").read_text())
    uids = {source["uid"] for source in sources["datasources"]}
    assert {
        target["datasource"]["uid"] for panel in dashboard["panels"] for target in panel["targets"]
    } == uids
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_prometheus_asks_the_predictor_of_the_compose_file() -> None:
    config = yaml.safe_load((COMPOSE / "prometheus.yml").read_text())
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    job = next(one for one in config["scrape_configs"] if one["job_name"] == "predictor")
    host, port = job["static_configs"][0]["targets"][0].split(":")
    assert compose["services"][host]["ports"][0].endswith(f":{port}")
    assert job["authorization"]["credentials_file"] in compose["services"]["prometheus"]["command"][0]
