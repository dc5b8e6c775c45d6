"""`make bench-serving`: the predictor beside its peers: one machine, one model, one load generator.

Installs the peers into separate environments in the cache folder (GREENROOM_BENCH_CACHE, by default
`greenroom-bench` in the user's cache folder), starts a private local stack, and prints Markdown for
docs/benchmarks.md. Each server gets the same row in its own format and has one worker process. The
servers take turns, and a server that is not measured is paused. A run with an error gives no number.
"""

import argparse
import os
import pickle
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import httpx
import orjson

from bench.serving import greenroom_server, wrk
from bench.serving.models import FIVE, Forest, declare, exported, forest, records
from bench.serving.processes import StartError
from bench.serving.servers import ECHO, PEERS, Peer, Server, installed
from bench.serving.targets import NO_MODEL, OURS, Beside, targets
from catalog.loader import load_catalog

CONNECTIONS = (1, 16, 64)
# Requests per second.
_SLOW = 500


@dataclass(frozen=True)
class Plan:
    """How long and how often."""

    seconds: int
    warm_up: int
    repeats: int
    starts: int
    lists: int


def main() -> None:
    """Measure and print Markdown; exit code 1 when Greenroom itself could not be measured."""
    arguments = _arguments()
    quick = arguments.quick
    plan = Plan(
        seconds=arguments.seconds or (2 if quick else 4),
        warm_up=1,
        repeats=arguments.repeats or (1 if quick else 3),
        starts=1 if quick else 3,
        lists=10 if quick else 40,
    )
    cache = cache_folder()
    if os.getloadavg()[0] > 0.5:
        _say(f"Load average {os.getloadavg()[0]:.1f}: other work runs here, and the numbers will show it.")
    with tempfile.TemporaryDirectory(prefix="greenroom-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        generator = wrk.find(cache)
        _say("Fitting the models, or taking them from the cache")
        model = forest(cache / "models")
        _say("Starting the stack, registering five models")
        of = stack.enter_context(greenroom_server.house(folder, declare(folder / "catalog")))
        with of.client() as client:
            for five in FIVE:
                greenroom_server.publish(client, five, exported(five, cache / "models"))
        servers, absent = _started(stack, of, folder, model, cache)
        loads = _loads(servers, generator, plan, absent)
        beside = _beside(of, folder, model, generator, plan)
    _print(plan, loads, absent, beside)
    sys.exit(len(loads.get(OURS, {})) < len(CONNECTIONS))


def cache_folder() -> Path:
    """Return where environments and fitted models are kept between runs."""
    given = os.environ.get("GREENROOM_BENCH_CACHE")
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = Path(given).expanduser() if given else base / "greenroom-bench"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.serving", description=__doc__)
    parser.add_argument("--seconds", type=int, help="of each run (default 4)")
    parser.add_argument("--repeats", type=int, help="of each run; the median counts (default 3)")
    parser.add_argument("--quick", action="store_true", help="one short run each, to see that all works")
    return parser.parse_args()


def _ready(of: greenroom_server.House, folder: Path, plan: Plan) -> tuple[float, float]:
    """Return the median seconds from process start until all five are served: from registry, from cache.

    From the cache means that no tracking server answers, as in an outage.
    """
    taken: tuple[list[float], list[float]] = ([], [])
    for turn in range(plan.starts):
        cache = folder / f"cache-{turn}"
        for times, settings in ((taken[0], {}), (taken[1], {"GREENROOM_TRACKING_URI": "http://127.0.0.1:9"})):
            started = greenroom_server.predictor(of, cache, models=len(FIVE), **settings)
            times.append(started.ready_after)
            time.sleep(0.5)  # the last model may not be in the cache yet
            started.running.stop()
    return statistics.median(taken[0]), statistics.median(taken[1])


def _started(
    stack: ExitStack, of: greenroom_server.House, folder: Path, model: Forest, cache: Path
) -> tuple[list[Server], dict[str, str]]:
    """Return the servers, each paused, and for the others the reason why they did not start."""
    servers: list[Server] = []
    absent: dict[str, str] = {}

    def add(name: str, begin: Callable[[], Server]) -> None:
        _say(f"Starting {name}")
        try:
            server = begin()
        except (StartError, OSError) as error:
            absent[name] = str(error)
            _say(f"  not measured: {error}")
            return
        stack.callback(server.running.stop)
        server.running.pause()
        servers.append(server)

    for name, command in (
        (OURS, greenroom_server.PREDICTOR),
        (NO_MODEL, (sys.executable, "-m", "bench.serving.no_model")),
    ):
        add(name, partial(_ours, of, folder, model, name, command))
    for number, peer in enumerate((*PEERS, ECHO)):
        add(peer.name, partial(_peer, peer, cache / "environments", folder / f"peer-{number}", model))
    return servers, absent


def _peer(peer: Peer, environments: Path, folder: Path, model: Forest) -> Server:
    python = installed(peer, environments) if peer.packages else Path(sys.executable)
    return peer.start(python, folder, model)


def _ours(
    of: greenroom_server.House, folder: Path, model: Forest, name: str, command: tuple[str, ...]
) -> Server:
    started = greenroom_server.predictor(of, folder / "cache-ours", models=len(FIVE), command=command)
    server = Server(
        name,
        started.running,
        f"{started.url}/api/predict/genre",
        orjson.dumps(model.row),
        lambda answer: str(answer["prediction"]),
    )
    if name == OURS and (said := server.ask()) != model.label:
        started.running.stop()
        raise StartError(f"it predicts {said}, scikit-learn {model.label}")
    return server


def _loads(
    servers: list[Server], generator: str, plan: Plan, absent: dict[str, str]
) -> dict[str, dict[int, wrk.Load]]:
    """Return the medians by server and connections. Servers take turns: a slow minute affects all of them."""
    runs: dict[str, dict[int, list[wrk.Load]]] = {server.name: {} for server in servers}
    for turn in range(plan.repeats):
        for connections in CONNECTIONS:
            for server in servers:
                failed = f"{server.name} at {connections} connections"
                if failed in absent:
                    continue
                _say(f"Run {turn + 1} of {plan.repeats}, {connections} connections: {server.name}")
                try:
                    found = _run(server, generator, connections, plan)
                except wrk.LoadError as error:
                    absent[failed] = f"a run with errors is no number: {error}"
                    _say(f"  {absent[failed]}")
                    continue
                runs[server.name].setdefault(connections, []).append(found)
    return {
        name: {
            connections: wrk.median(found)
            for connections, found in by.items()
            if f"{name} at {connections} connections" not in absent
        }
        for name, by in runs.items()
    }


def _run(server: Server, generator: str, connections: int, plan: Plan) -> wrk.Load:
    with _awake(server):
        ask = partial(wrk.run, generator, server.url, server.body, connections=connections)
        rate = 0.0
        with suppress(wrk.LoadError):  # the slowest servers answer nothing in a second
            rate = ask(seconds=plan.warm_up).per_second
        _settle(server)
        before = server.running.cpu()
        # A slow server answers all connections at once and needs a longer run.
        found = ask(seconds=plan.seconds * (1 if rate > _SLOW else 2))
        taken = server.running.cpu() - before
    return replace(found, cpu=taken / found.requests * 1e6)


def _settle(server: Server) -> None:
    """Wait until a server has finished the requests of the warm-up, 10 s at most."""
    for _ in range(40):
        before = server.running.cpu()
        time.sleep(0.25)
        if server.running.cpu() - before < 0.05:
            return


@contextmanager
def _awake(server: Server) -> Iterator[None]:
    server.running.resume()
    try:
        yield
    finally:
        server.running.pause()


def _beside(of: greenroom_server.House, folder: Path, model: Forest, generator: str, plan: Plan) -> Beside:
    """Measure lists, and memory after load on all five models, with a separate predictor."""
    _say("Lists of 1,000 rows, and memory after load on five models")
    rows = records(model.rows)
    started = greenroom_server.predictor(of, folder / "cache-ours", models=len(FIVE))
    try:
        for name in FIVE:
            features = load_catalog()[FIVE[name][0]].features
            row = orjson.dumps({feature: rows[0][feature] for feature in features})
            url = f"{started.url}/api/predict/{name}"
            wrk.run(generator, url, row, connections=64, seconds=plan.warm_up)
        with httpx.Client(base_url=started.url, timeout=60) as http:
            over_http = _median(partial(_post, http, orjson.dumps(rows)), plan.lists)
        resident, proportional = started.running.megabytes()
    finally:
        started.running.stop()
    ready = _ready(of, folder, plan)
    times = max(5, plan.lists // 4)
    one_job = pickle.loads(model.pickled_one_job.read_bytes())  # noqa: S301 - this command wrote it
    return Beside(
        http_1000=over_http,
        sklearn_as_fitted=_median(partial(model.pipeline.predict, model.rows), times),
        sklearn_one_job=_median(partial(one_job.predict, model.rows), times),
        ready_from_registry=ready[0],
        ready_from_cache=ready[1],
        resident=resident,
        proportional=proportional,
    )


def _post(http: httpx.Client, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    answer = http.post("/api/predict/genre", content=body, headers=headers)
    if answer.status_code != 200:
        raise wrk.LoadError(f"a list was answered {answer.status_code}: {answer.text[:200]}")


def _median(ask: Callable[[], object], times: int) -> float:
    """Return the median seconds of several calls; the first three warm up."""
    taken = []
    for _ in range(times + 3):
        began = time.perf_counter()
        ask()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[3:])


def _print(plan: Plan, loads: dict[str, dict[int, wrk.Load]], absent: dict[str, str], beside: Beside) -> None:
    write = sys.stdout.write
    write(f"\nMedians of {plan.repeats} runs of {plan.seconds} s, one worker process each; p50, p99 in ms; ")
    write("CPU is the server's, in µs per request at 16 connections.\n\n")
    for heading in ("| server |", "|---|"):
        cells = [
            f" {count} conn. /s | p50 | p99 |" if heading != "|---|" else "---:|---:|---:|"
            for count in CONNECTIONS
        ]
        write(heading + "".join(cells) + (" CPU |\n" if heading != "|---|" else "---:|\n"))
    for name, by in loads.items():
        cells = [
            f" {by[n].per_second:,.0f} | {by[n].p50:.2f} | {by[n].p99:.2f} |" if n in by else " - | - | - |"
            for n in CONNECTIONS
        ]
        write(f"| {name} |" + "".join(cells) + (f" {by[16].cpu:,.0f} |\n" if 16 in by else " - |\n"))
    for name, why in absent.items():
        write(f"\nNot measured: {name}, because {why}\n")
    write("\n| beside the load | |\n|---|---:|\n")
    for what, number in (
        ("1,000 rows over HTTP, one connection, ms", f"{beside.http_1000 * 1000:.1f}"),
        ("scikit-learn in process, n_jobs as fitted (-1), ms", f"{beside.sklearn_as_fitted * 1000:.1f}"),
        ("scikit-learn in process, n_jobs=1, ms", f"{beside.sklearn_one_job * 1000:.1f}"),
        ("process start to five models ready, from the registry, s", f"{beside.ready_from_registry:.2f}"),
        ("the same from the cache, no registry, s", f"{beside.ready_from_cache:.2f}"),
        ("resident memory after load, five models, MB", f"{beside.resident:.0f}"),
        ("proportional (PSS), MB", f"{beside.proportional:.0f}" if beside.proportional else "-"),
    ):
        write(f"| {what} | {number} |\n")
    write("\n| target | measured | reached |\n|---|---|---|\n")
    for target in targets(loads, beside, tuple(peer.name for peer in PEERS)):
        write(target.row() + "\n")


def _say(text: str) -> None:
    """Write progress to standard error: only the table goes to standard output."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    main()
