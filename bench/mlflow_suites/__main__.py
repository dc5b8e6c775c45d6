"""`make mlflow-suites TREE=…`: MLflow's own tests of its registry, plain and against the guard.

`TREE` is a source tree of MLflow of the version that is installed here: its tests are not in the wheel. One
of another version may need `PYTEST_ADDOPTS=--noconftest`. Prints how many of each file's tests pass with
MLflow's own store, with the guard, and with the guard where the gate has let every version pass. What fails
with the guard alone is named.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.__main__ import ROOT, SERVICES, free_port

SUITES = (
    "tests/store/model_registry/test_sqlalchemy_store.py",
    "tests/tracking/test_model_registry.py",
    "tests/tracking/test_client_webhooks.py",
)
MODES = ("stock", "guard", "granted")


def main() -> None:
    """Run the suites and print Markdown; exit code 2 when no test could be run."""
    parser = argparse.ArgumentParser(prog="python -m bench.mlflow_suites", description=__doc__)
    parser.add_argument("tree", type=Path, help="folder of MLflow's source, with its tests/")
    parser.add_argument("suites", nargs="*", default=SUITES, help="files of tests, below the folder")
    options = parser.parse_args()
    suites = [suite for suite in options.suites if (options.tree / suite).is_file()]
    if not suites:
        sys.exit(f"{options.tree} has none of {', '.join(options.suites)}: name a source tree of MLflow.")
    with tempfile.TemporaryDirectory(prefix="greenroom-suites-") as folder, _database(Path(folder)) as guard:
        rows = []
        for suite in suites:
            passed = {mode: _run(options.tree, suite, mode, guard) for mode in MODES}
            rows.append((suite, passed))
    sys.stdout.write(
        "| MLflow's tests | stock | with the guard | every version passed |\n|---|---:|---:|---:|\n"
    )
    for suite, passed in rows:
        counts = " | ".join(str(len(passed[mode])) for mode in MODES)
        sys.stdout.write(f"| `{suite}` | {counts} |\n")
    for suite, passed in rows:
        for mode in MODES[1:]:
            for name in sorted(passed["stock"] - passed[mode]):
                sys.stdout.write(f"{mode}: {suite}::{name}\n")
    if not any(passed["stock"] for _, passed in rows):
        sys.exit(2)


def _run(tree: Path, suite: str, mode: str, guard: dict[str, str]) -> set[str]:
    """Return the names of the tests of a file that pass."""
    plugin = [] if mode == "stock" else ["-p", "bench.mlflow_suites.plugin"]
    variables = {} if mode == "stock" else {**guard, "SUITES_MODE": mode}
    done = subprocess.run(
        # Without the settings of either project's pytest, and without xdist: there is one database.
        [
            *(sys.executable, "-m", "pytest", "-q", "-rA", "-c", os.devnull, "--rootdir", str(tree)),
            *("-p", "no:cacheprovider", "-n", "0", *plugin, suite),
        ],
        cwd=tree,
        env={**os.environ, **variables, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    outcomes = re.findall(r"^(PASSED|FAILED|ERROR) \S+?::(.+?)(?: - .*)?$", done.stdout, re.MULTILINE)
    if not outcomes:
        sys.exit(f"{suite} could not be run:\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
    return {name for outcome, name in outcomes if outcome == "PASSED"}


@contextmanager
def _database(folder: Path) -> Iterator[dict[str, str]]:
    """Start a stack and yield the variables with which MLflow's store finds the guarded database."""
    os.environ["GREENROOM_HOME"] = str(folder / "home")
    os.environ["GREENROOM_LOCAL_WORKER"] = "false"
    ports = {name: free_port() for name in SERVICES}
    os.environ.update({f"GREENROOM_{name}_PORT": str(port) for name, port in ports.items()})
    greenroom = str(Path(sys.executable).parent / "greenroom")
    try:
        subprocess.run([greenroom, "up", "--no-train"], check=True, stdout=subprocess.DEVNULL)
        lines = (folder / "home" / "stack.env").read_text().splitlines()
        known = dict(line.split("=", 1) for line in lines)
        where = f"127.0.0.1:{ports['POSTGRES']}/mlflow"
        yield {
            "GREENROOM_DATABASE_URL": f"postgresql://mlflow:{known['GREENROOM_MLFLOW_DB_PASSWORD']}@{where}",
            "SUITES_ADMIN": f"postgresql://postgres:{known['GREENROOM_POSTGRES_PASSWORD']}@{where}",
            # As `mlflow server --registry-store-uri greenroom://` tells its workers.
            "_MLFLOW_SERVER_REGISTRY_STORE": "greenroom://",
        }
    finally:
        subprocess.run([greenroom, "down"], check=False, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
