"""What the serving benchmark makes of what it measured: no timings here."""

from dataclasses import replace

import pandas as pd
import pytest

from bench.serving.memory_growth import Sample, flat, slope
from bench.serving.models import records
from bench.serving.servers import ECHO, PEERS
from bench.serving.targets import NO_MODEL, OURS, Beside, Target, targets
from bench.serving.wrk import Load, LoadError, median, parse
from catalog.spotify_tracks import TrackFeatures

OUTPUT = """\
Running 4s test @ http://127.0.0.1:8901/api/predict/genre
  1 threads and 16 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     6.16ms    1.20ms  12.72ms   80.00%
    Req/Sec     2.46k   160.93     2.63k    52.50%
  Latency Distribution
     50%  561.00us
     75%    6.90ms
     90%    7.12ms
     99%    1.20s
  9862 requests in 4.00s, 4.93MB read
{errors}Requests/sec:   2465.63
Transfer/sec:      1.23MB
"""
BEST = "MLServer, adaptive batching"
PEER_NAMES = tuple(peer.name for peer in PEERS)
BESIDE = Beside(
    http_1000=0.02,
    sklearn_as_fitted=0.06,
    sklearn_one_job=0.03,
    ready_from_registry=1.5,
    ready_from_cache=1.0,
    resident=220.0,
    proportional=180.0,
)


def load(per_second: float, p99: float = 10.0) -> dict[int, Load]:
    return {count: Load(100, per_second, 1.0, p99) for count in (1, 16, 64)}


LOADS = {
    OURS: load(6000.0),
    NO_MODEL: load(7000.0, p99=6.0),
    "mlflow models serve": load(50.0),
    "mlflow models serve, n_jobs as fitted": load(30.0),
    BEST: load(800.0),
}


def verdicts(found: list[Target]) -> list[bool]:
    return [target.reached for target in found]


def test_reads_what_wrk_prints() -> None:
    found = parse(OUTPUT.format(errors=""))
    assert (found.requests, found.per_second) == (9862, 2465.63)
    assert (found.p50, found.p99) == pytest.approx((0.561, 1200.0))


@pytest.mark.parametrize(
    ("output", "why"),
    [
        (OUTPUT.format(errors="  Non-2xx or 3xx responses: 3\n"), "Non-2xx or 3xx responses: 3"),
        (OUTPUT.format(errors="  Socket errors: connect 0, read 1, write 0, timeout 0\n"), "read 1"),
        (OUTPUT.format(errors="").replace("9862 requests", "0 requests"), "not one answer"),
        ("unable to connect to 127.0.0.1:1", "not what wrk"),
    ],
)
def test_a_run_with_errors_is_no_number(output: str, why: str) -> None:
    with pytest.raises(LoadError, match=why):
        parse(output)


def test_the_median_is_of_each_number() -> None:
    runs = [Load(10, 100.0, 3.0, 9.0, 5.0), Load(20, 300.0, 1.0, 7.0, 6.0), Load(30, 200.0, 2.0, 8.0, 4.0)]
    assert median(runs) == Load(60, 200.0, 2.0, 8.0, 5.0)


def test_targets_are_held_against_the_faster_competitor() -> None:
    found = targets(LOADS, BESIDE, PEER_NAMES)
    assert verdicts(found) == [True] * 7
    assert found[0].measured == "120.00 × mlflow models serve"
    assert found[1].measured == f"7.50 × {BEST}"
    # n_jobs=1 is the faster one in process, so 40 ms do not do.
    assert not targets(LOADS, replace(BESIDE, http_1000=0.04), PEER_NAMES)[4].reached


def test_limits_are_no_peers() -> None:
    assert targets({**LOADS, ECHO.name: load(40_000.0)}, BESIDE, PEER_NAMES)[1].reached


def test_targets_that_are_missed_say_so() -> None:
    slow = {**LOADS, OURS: load(2000.0, p99=13.0)}
    worse = replace(BESIDE, ready_from_cache=3.1, resident=251.0)
    found = targets(slow, worse, PEER_NAMES)
    assert verdicts(found) == [False, False, False, False, True, False, False]
    assert "**no**" in found[0].row()


@pytest.mark.parametrize("missing", [OURS, NO_MODEL, "mlflow models serve"])
def test_what_was_not_measured_is_not_reached(missing: str) -> None:
    loads = {name: runs for name, runs in LOADS.items() if not name.startswith(missing)}
    affected = {OURS: (0, 1, 2, 3), NO_MODEL: (2, 3), "mlflow models serve": (0,)}[missing]
    found = targets(loads, BESIDE, PEER_NAMES)
    for index in affected:
        assert not found[index].reached
        assert "not measured" in found[index].row()


def test_one_server_missing_at_one_number_of_connections_is_not_measured() -> None:
    partly = {count: run for count, run in LOADS[NO_MODEL].items() if count != 16}
    found = targets({**LOADS, NO_MODEL: partly}, BESIDE, PEER_NAMES)
    assert verdicts(found)[2:4] == [False, False]


def soaked(growth: float = 0.0, threads: float = 0.0, files: float = 0.0) -> list[Sample]:
    """300 s at 2,000 requests per second, with a swap's peak every ten; growth in MB per 100,000 requests."""
    return [
        Sample(
            requests=second * 2000,
            megabytes=200 + growth * second * 2000 / 100_000 + (30 if second % 10 == 0 else 0),
            files=100 + int(files * second),
            threads=9 + int(threads * second),
        )
        for second in range(300)
    ]


IDLE = Sample(0, 190.0, 36, 9)


def test_a_flat_run_is_flat_in_spite_of_peaks() -> None:
    assert all(finding.holds for finding in flat(soaked(growth=0.5), IDLE, IDLE))


@pytest.mark.parametrize(
    ("samples", "after", "broken"),
    [
        (soaked(growth=1.5), IDLE, 0),
        (soaked(files=0.1), IDLE, 1),
        (soaked(threads=0.05), IDLE, 2),
        (soaked(), replace(IDLE, files=50), 3),
    ],
)
def test_what_grows_is_not_flat(samples: list[Sample], after: Sample, broken: int) -> None:
    holds = [finding.holds for finding in flat(samples, IDLE, after)]
    assert holds == [index != broken for index in range(4)]


def test_too_few_samples_prove_nothing() -> None:
    assert [finding.holds for finding in flat(soaked()[:5], IDLE, IDLE)] == [False]


def test_the_slope_is_the_median_of_all_pairs() -> None:
    assert slope([(x, 2.0 * x) for x in range(1000)]) == pytest.approx(2.0)
    assert slope([*((x, 1.0 * x) for x in range(9)), (9.0, 500.0)]) == pytest.approx(1.0)
    assert slope([]) == 0.0


def test_rows_are_what_the_contract_takes() -> None:
    example = TrackFeatures.model_json_schema()["examples"][0]
    table = pd.DataFrame([example]).astype("float64")
    assert records(table) == [TrackFeatures.model_validate(example).model_dump()]
