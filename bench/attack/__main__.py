"""`make attack`: every way on a stack of its own; prints a table, and ends with 1 if one slipped through."""

import argparse
import random
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.attack import envelopes, honest, registry, routes, services, sql, storage
from bench.attack.runner import Result, Runner, tables
from bench.attack.servers import login_server, store_with_users, whole_stack
from bench.attack.ways import Kind, Way

KINDS: tuple[Kind, ...] = (
    *routes.KINDS,
    *registry.KINDS,
    *sql.KINDS,
    *envelopes.KINDS,
    *storage.KINDS,
    *services.KINDS,
)


def main() -> None:
    """Run what the command line names."""
    # So that what was started ends too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kinds", default="", help="only these kinds, with | between them")
    parser.add_argument("--share", type=float, default=1.0, help="the share of each kind's ways, 0 to 1")
    parser.add_argument("--seed", type=int, default=1, help="which ways a share has")
    arguments = parser.parse_args()
    wanted = {name.strip() for name in arguments.kinds.split("|") if name.strip()}
    if unknown := wanted - {kind.name for kind in KINDS}:
        parser.error(
            f"there is no kind {', '.join(sorted(unknown))}; there are {', '.join(k.name for k in KINDS)}"
        )
    kinds = [kind for kind in KINDS if not wanted or kind.name in wanted]
    with (
        tempfile.TemporaryDirectory(prefix="greenroom-attack-") as folder,
        whole_stack(Path(folder)) as target,
    ):
        honest.prepare(target)
        with login_server(target, Path(folder)), store_with_users(_made(Path(folder) / "users")) as users:
            target.s3_users = users
            runner = Runner(target)
            for kind in kinds:
                ways = sample(kind, arguments.share, arguments.seed)
                _tell(kind, len(ways), runner.run(ways))
    sys.stdout.write(f"\n{tables(runner.results)}\n")
    sys.exit(any(result.outcome == "slipped" for result in runner.results))


def sample(kind: Kind, share: float, seed: int) -> list[Way]:
    """Return a share of a kind's ways, at least one of each account; all of them for 1."""
    ways = list(kind.ways())
    if share >= 1:
        return ways
    chosen = random.Random(f"{seed} {kind.name}")  # noqa: S311 - which ways, no secret
    groups: dict[str, list[Way]] = {}
    for way in ways:
        groups.setdefault(way.account, []).append(way)
    return [
        way for group in groups.values() for way in chosen.sample(group, max(1, round(len(group) * share)))
    ]


def all_ways() -> Iterator[Way]:
    """Yield every way of every kind."""
    for kind in KINDS:
        yield from kind.ways()


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _tell(kind: Kind, count: int, slipped: list[Result]) -> None:
    sys.stdout.write(f"{kind.name}: {count} ways, {len(slipped)} slipped\n")
    for result in slipped:
        sys.stdout.write(f"  SLIPPED {result.way.id}\n    {result.why[:1500]}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
