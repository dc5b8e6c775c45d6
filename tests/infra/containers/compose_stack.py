"""The real docker-compose.yml on a real Docker engine, under a name and on ports of its own."""

import json
import os
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from catalog.contract import request_model
from catalog.loader import load_catalog
from tests.conftest import ROOT, free_port
from tests.waiting import until

_IMAGES = ("PYTHON_IMAGE", "POSTGRES_IMAGE", "MINIO_IMAGE", "PROMETHEUS_IMAGE", "GRAFANA_IMAGE")
# A machine without an image registry has SeaweedFS behind MinIO's command line, which knows no users: there
# the stack runs with infra/compose/seaweedfs.yml.
_STAND_IN = os.environ.get("MINIO_IMAGE", "").startswith("local/")
_SEAWEEDFS = "greenroom-test-seaweedfs"
_SEAWEEDFS_IMAGE = """FROM {image}
RUN ln -s /opt/s3/bin/weed /usr/local/bin/weed \\
 && printf '#!/bin/sh\\nexec python3 -c "import sys, urllib.request as u; u.urlopen(sys.argv[-1])" "$@"\\n' \\
    > /usr/local/bin/wget \\
 && chmod 755 /usr/local/bin/wget
"""
_PORTS = ("SERVING", "MLFLOW", "PREFECT", "GRAFANA")
_PROFILES = ("--profile", "demo", "--profile", "tools", "--profile", "monitoring")


def engine_problem() -> str:
    """Return why there is no Docker engine to test with; empty if there is one."""
    if os.environ.get("COMPOSE_TEST") != "1":
        return "builds images and runs the whole stack in containers: make compose-test"
    if not shutil.which("docker"):
        return "there is no docker command here; make compose-test needs a Docker engine"
    asked = subprocess.run(["docker", "info"], capture_output=True, text=True, check=False)
    return f"no Docker engine answers: {asked.stderr.strip()[-200:]}" if asked.returncode else ""


def _compose() -> list[str]:
    two = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0
    return ["docker", "compose"] if two else ["docker-compose"]


@dataclass
class ComposeStack:
    """One stack: its settings file, and how to talk to it."""

    folder: Path
    name: str = "greenroom-test"
    secrets: dict[str, str] = field(default_factory=dict)

    @property
    def env_file(self) -> Path:
        return self.folder / "compose.env"

    def prepare(self) -> None:
        """Make the settings file as a person does, with free ports and the machine's own base images.

        One that is there already, from an earlier run, stays.
        """
        if _STAND_IN:
            build = ["docker", "build", "-q", "-t", _SEAWEEDFS, "-"]
            recipe = _SEAWEEDFS_IMAGE.format(image=os.environ["MINIO_IMAGE"])
            subprocess.run(build, input=recipe, capture_output=True, text=True, check=True)
        if self.env_file.exists():
            self.set()
            return
        self._run(["make", "-s", "compose-env"], check=True)
        self.set(COMPOSE_PROJECT_NAME=self.name, **{f"GREENROOM_{p}_PORT": str(free_port()) for p in _PORTS})
        self.set(**{name: os.environ[name] for name in _IMAGES if name in os.environ})

    def set(self, **values: str) -> None:
        """Change settings; those in force are in `secrets` too."""
        lines = self.env_file.read_text().splitlines()
        known = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
        for name, value in values.items():
            lines = [f"{name}={value}" if line.startswith(f"{name}=") else line for line in lines]
        self.env_file.write_text("\n".join(lines) + "\n")
        self.secrets = {**known, **values}

    def make(self, *arguments: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        """Run a make target on this stack."""
        return self._run(["make", "-s", *arguments, f"COMPOSE={' '.join(self._command())}"], check=check)

    def compose(
        self, *arguments: str, check: bool = True, **options: Any
    ) -> "subprocess.CompletedProcess[str]":
        """Run a Compose command on this stack."""
        return self._run([*self._command(), *arguments], check=check, **options)

    def job(self, service: str, code: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        """Run Python in a one-shot container of a service, with that service's settings and networks."""
        return self.compose(
            *_PROFILES, "run", "--rm", "--no-deps", "-T", service, "python", "-c", code, check=check
        )

    def inside(self, service: str, *command: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        """Run a command in a service's running container."""
        return self.compose("exec", "-T", service, *command, check=check)

    def container(self, service: str) -> dict[str, Any]:
        """Return what the engine knows of a service's container."""
        number = self.compose(*_PROFILES, "ps", "-q", service).stdout.strip()
        found: dict[str, Any] = json.loads(docker("inspect", number))[0]
        return found

    def url(self, service: str, path: str = "") -> str:
        return f"http://127.0.0.1:{self.secrets[f'GREENROOM_{service.upper()}_PORT']}{path}"

    def predict(self, model: str = "energy") -> httpx.Response:
        """Ask for a prediction from this machine, with the app's key."""
        body = request_model(load_catalog()[model]).model_json_schema()["examples"][0]
        return httpx.post(
            self.url("serving", f"/api/predict/{model}"),
            json=body,
            headers={"X-API-Key": self.secrets["GREENROOM_APP_API_KEY"]},
            timeout=20,
            trust_env=False,
        )

    def mlflow(self, method: str, path: str, user: str, **options: Any) -> httpx.Response:
        """A request to MLflow's published port."""
        password = self.secrets[f"GREENROOM_MLFLOW_{user.upper()}_PASSWORD"]
        return httpx.request(
            method,
            self.url("mlflow", f"/api/2.0/mlflow/{path}"),
            auth=(user, password),
            timeout=60,
            trust_env=False,
            **options,
        )

    def crash(self, service: str) -> None:
        """Kill a container's main process as a crash does: `docker kill` would count as a wish of ours."""
        pid = self.container(service)["State"]["Pid"]
        image, code = self.secrets["GREENROOM_FLOWS_IMAGE"], f"import os; os.kill({pid}, 9)"
        # A container that sees the engine's processes: the engine may be in a virtual machine.
        alone = ("--rm", "--pid=host", "--user=0", "--network=none", "--cap-add=KILL", "--entrypoint=python")
        docker("run", *alone, image, "-c", code)

    def await_healthy(self, service: str, restarts: int, seconds: float = 120) -> None:
        """Wait until a container was restarted more often than before and is healthy."""

        def healed() -> bool:
            found = self.container(service)
            health = found["State"].get("Health", {}).get("Status")
            return bool(found["RestartCount"] > restarts and health == "healthy")

        until(healed, lambda: f"{service} did not heal: {self.container(service)['State']}", seconds)

    def throw_away(self) -> None:
        """Remove containers, networks and volumes."""
        self.compose(*_PROFILES, "down", "--volumes", "--remove-orphans", "--timeout", "5", check=False)

    def _command(self) -> list[str]:
        files = ("docker-compose.yml", *(["infra/compose/seaweedfs.yml"] if _STAND_IN else []))
        chosen = [part for file in files for part in ("-f", file)]
        return [*_compose(), *chosen, "--env-file", str(self.env_file), "-p", self.name]

    def _run(self, command: list[str], *, check: bool, **options: Any) -> "subprocess.CompletedProcess[str]":
        # Not the caller's own: Compose prefers the environment to the settings file.
        kept = {"SEAWEEDFS_IMAGE": _SEAWEEDFS} if _STAND_IN else {}
        kept |= {k: v for k, v in os.environ.items() if not k.startswith("GREENROOM_") and k not in _IMAGES}
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**kept, "GREENROOM_ENV_FILE": str(self.env_file), "GREENROOM_WAIT": "300"},
            capture_output=True,
            text=True,
            timeout=1800,
            check=False,
            **options,
        )
        assert not check or done.returncode == 0, (
            f"{command} ended with {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        )
        return done


def docker(*arguments: str) -> str:
    """Run a docker command and return what it printed."""
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=True).stdout
