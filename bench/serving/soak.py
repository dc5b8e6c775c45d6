"""`make bench-soak`: the predictor under constant load through swaps and outages; exit code 1 if not flat.

64 clients send single rows, lists, bad input, slow bodies, and bodies that they never finish. Meanwhile two
versions of a model take turns in Production, each promoted through the registry with fresh evidence, and the
tracking server is stopped and continued. Memory, open files and threads are sampled every second;
bench/serving/memory_growth.py has the rules.
"""

import argparse
import asyncio
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import orjson
import psutil

from bench.serving import greenroom_server
from bench.serving.__main__ import cache_folder
from bench.serving.load import Caller, Tally, call
from bench.serving.memory_growth import Finding, Sample, flat
from bench.serving.models import FIVE, declare, exported, forest, records
from registry.client.registry import Registry

CALLERS = 64
MODEL = "genre"
# Requests per second that a small product sends on average; the run's length in hours is computed from it.
ORDINARY_RATE = 50
_SWAP_EVERY, _OUTAGE_EVERY, _OUTAGE = 8.0, 40.0, 10.0


@dataclass
class Events:
    """The swaps and outages of the run."""

    swaps: list[float] = field(default_factory=list)
    late: int = 0
    outages: int = 0


def main() -> None:
    """Run, print a table, and exit with 1 if something was not flat or a good request failed."""
    parser = argparse.ArgumentParser(prog="python -m bench.serving.soak", description=__doc__)
    parser.add_argument("--seconds", type=int, default=360, help="of load (default 360)")
    seconds = parser.parse_args().seconds
    cache = cache_folder()
    with tempfile.TemporaryDirectory(prefix="greenroom-soak-") as name:
        folder = Path(name)
        # The forest's evidence and rows; a logistic regression is the version that it takes turns with.
        rows = [orjson.dumps(row) for row in records(forest(cache / "models").rows)]
        with greenroom_server.house(folder, declare(folder / "catalog")) as of:
            with of.client() as client:
                for five in FIVE:
                    greenroom_server.publish(client, five, exported(five, cache / "models"))
                greenroom_server.publish(client, MODEL, exported("bench-logistic", cache / "models"))
            # A timeout as in the tests of outages: a stopped server holds the connection.
            predictor = greenroom_server.predictor(
                of, folder / "cache", models=len(FIVE), GREENROOM_TRACKING_TIMEOUT="2"
            )
            try:
                findings = _soak(of, predictor, rows, seconds)
            finally:
                predictor.running.stop()
    sys.exit(not all(finding.holds for finding in findings))


def _soak(
    of: greenroom_server.House, predictor: greenroom_server.Predictor, rows: list[bytes], seconds: int
) -> list[Finding]:
    tally, events, samples = Tally(), Events(), list[Sample]()
    process = psutil.Process(predictor.running.process.pid)
    # One request and one page first: lazy loading is no leak.
    httpx.post(
        f"{predictor.url}/api/predict/{MODEL}", content=rows[0], headers={"Content-Type": "application/json"}
    )
    before = _sample(process, tally)
    deadline = time.monotonic() + seconds

    def stopped() -> bool:
        return time.monotonic() > deadline

    url = httpx.URL(f"{predictor.url}/api/predict/{MODEL}")
    callers = [Caller(url, rows, seed, tally) for seed in range(CALLERS)]

    async def beside() -> None:
        trouble = asyncio.create_task(asyncio.to_thread(_trouble, of, predictor, events, stopped))
        while not stopped():
            await asyncio.sleep(1)
            if not stopped():  # then the callers are leaving
                samples.append(_sample(process, tally))
        await trouble

    asyncio.run(call(callers, stopped, beside()))
    time.sleep(3)  # the predictor learns that the callers have gone
    after = _sample(process, tally)
    findings = [*flat(samples, before, after), *_answers(tally, events)]
    _print(tally, events, samples, findings, seconds)
    return findings


def _sample(process: psutil.Process, tally: Tally) -> Sample:
    with process.oneshot():
        return Sample(
            tally.answered, process.memory_info().rss / 1e6, process.num_fds(), process.num_threads()
        )


def _trouble(
    of: greenroom_server.House,
    predictor: greenroom_server.Predictor,
    events: Events,
    stopped: Callable[[], bool],
) -> None:
    """Swap versions every few seconds; stop and continue the tracking server at intervals."""
    next_outage = time.monotonic() + _OUTAGE_EVERY / 2
    while not stopped():
        if time.monotonic() > next_outage:
            _outage(of, stopped)
            events.outages += 1
            next_outage = time.monotonic() + _OUTAGE_EVERY
        with of.client() as client:
            registry = Registry(client)
            served = predictor.serving()[MODEL]
            other = next(version for version in registry.versions(MODEL) if version.number != served)
            greenroom_server.promote(registry, other)
        began = time.monotonic()
        while predictor.serving().get(MODEL) != other.number and time.monotonic() < began + 30:
            time.sleep(0.05)
        taken = time.monotonic() - began
        events.swaps.append(taken)
        events.late += taken > 30
        _pause(_SWAP_EVERY, stopped)


def _outage(of: greenroom_server.House, stopped: Callable[[], bool]) -> None:
    processes = of.tracking_server()
    try:
        for process in processes:
            os.kill(process.pid, signal.SIGSTOP)
        _pause(_OUTAGE, stopped)
    finally:
        for process in processes:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGCONT)


def _pause(seconds: float, stopped: Callable[[], bool]) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and not stopped():
        time.sleep(0.1)


def _answers(tally: Tally, events: Events) -> list[Finding]:
    failed, wrong = sum(tally.failed.values()), sum(tally.wrong.values())
    return [
        Finding("no good request fails", f"{failed} {dict(tally.failed) or ''}".strip(), failed == 0),
        Finding(
            "every bad request is refused with 400 or 422",
            f"{wrong} not {dict(tally.wrong) or ''}",
            wrong == 0,
        ),
        Finding("every promotion is served within 30 s", f"{events.late} not", events.late == 0),
        Finding("both versions answered", str(dict(tally.versions)), len(tally.versions) == 2),
    ]


def _print(
    tally: Tally, events: Events, samples: list[Sample], findings: list[Finding], seconds: int
) -> None:
    write = sys.stdout.write
    hours = tally.answered / ORDINARY_RATE / 3600
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in tally.sent.most_common())
    swap = statistics.median(events.swaps) if events.swaps else 0.0
    megabytes = [sample.megabytes for sample in samples]
    write(
        f"\n{tally.answered:,} answered requests in {seconds} s over {CALLERS} connections ({kinds}): what "
        f"{ORDINARY_RATE} requests per second send in {hours:.1f} hours. {len(events.swaps)} swaps "
        f"(promotion to served: median {swap:.2f} s), {events.outages} outages of {_OUTAGE:g} s.\n\n"
    )
    write("| at | requests | resident, MB | open files | threads |\n|---|---:|---:|---:|---:|\n")
    for tenth in range(11):
        place = min(len(samples) - 1, tenth * len(samples) // 10)
        one = samples[place]
        write(f"| {place + 1} s | {one.requests:,} | {one.megabytes:.0f} | {one.files} | {one.threads} |\n")
    write(f"\nMost memory: {max(megabytes):.0f} MB.\n\n| rule | found | holds |\n|---|---|---|\n")
    for finding in findings:
        write(f"| {finding.rule} | {finding.found} | {'yes' if finding.holds else '**no**'} |\n")


if __name__ == "__main__":
    main()
