"""`make bench`: the main job on this machine, from a clean clone, step by step.

Clones the committed checkout into a temporary folder, runs `make up` twice and `make down` on free ports
with its own home, and prints the table of docs/benchmarks.md. Packages come from uv's and pip's
caches if these exist; otherwise the first two steps measure the network.
"""

import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SERVICES = ("SERVING", "MLFLOW", "PREFECT", "GATE", "S3", "POSTGRES")


def main() -> None:
    """Run the main job and print Markdown."""
    with tempfile.TemporaryDirectory(prefix="greenroom-bench-") as folder:
        clone = Path(folder) / "greenroom"
        subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
        environment = {**os.environ, "GREENROOM_HOME": f"{folder}/home", "PYTHON": sys.executable}
        environment |= {f"GREENROOM_{name}_PORT": str(free_port()) for name in SERVICES}
        try:
            rows = _steps(clone, environment)
            again, _ = _timed(["make", "up"], clone, environment)
        finally:
            stop, _ = _timed(["make", "down"], clone, environment)
    rows += [("`make up` again", again), ("`make down`", stop)]
    sys.stdout.write("| step | seconds |\n|---|---:|\n")
    sys.stdout.writelines(f"| {name} | {seconds:.1f} |\n" for name, seconds in rows)


def _steps(clone: Path, environment: dict[str, str]) -> list[tuple[str, float]]:
    whole, output = _timed(["make", "up"], clone, environment)
    setup, services, found = 0.0, 0.0, []
    steps: dict[str, float] = {}
    for line in output.splitlines():
        if match := re.search(r"^  (.*) \.\.\. (\d+) s$", line):
            setup += float(match[2])
        elif match := re.search(r"^(\S.*?)\s+up on \S+\s+\(([\d.]+) s\)", line):
            found.append((f"  {match[1]}", float(match[2])))
            services = max(services, float(match[2]))
        elif match := re.search(r"^\s*([\d.]+) s  (\S+)\s+(\S+)", line):
            steps[match[3]] = steps.get(match[3], 0.0) + float(match[1])
    rows = [("set-up of both environments, packages cached", setup), *found]
    rows += [(f"  {name}, all models together", seconds) for name, seconds in steps.items()]
    return [*rows, ("**`make up`, from a clean clone to the table**", whole)]


def _timed(command: list[str], folder: Path, environment: dict[str, str]) -> tuple[float, str]:
    began = time.monotonic()
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return time.monotonic() - began, done.stdout


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main()
