"""Reads the manifests: rendered overlays where there is kubectl or kustomize, and the files as they are."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent
OVERLAYS = ("staging", "production")

Document = dict[str, Any]

_PLACEHOLDER = re.compile(r"\{\{ (\w+) \}\}")


class RenderError(Exception):
    """An overlay could not be rendered; the message has what kustomize said."""


def renderer() -> list[str] | None:
    """Return the command that renders a folder: this environment's kubectl, else one that is installed."""
    own = Path(sys.executable).parent / "kubectl"
    if kubectl := (str(own) if own.exists() else shutil.which("kubectl")):
        return [kubectl, "kustomize"]
    kustomize = shutil.which("kustomize")
    return [kustomize, "build"] if kustomize else None


def rendered(folder: Path, command: list[str]) -> list[Document]:
    """Return all objects of an overlay; raises `RenderError`."""
    done = subprocess.run([*command, str(folder)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RenderError(f"{folder} cannot be rendered: {(done.stderr or done.stdout).strip()}")
    return [one for one in yaml.safe_load_all(done.stdout) if one]


def resources(folder: Path) -> list[Document]:
    """Return the objects of the files that a kustomization and those below it name as resources.

    Patches are left out: they are parts of objects.
    """
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    found: list[Document] = []
    for name in kustomization.get("resources", []):
        path = (folder / name).resolve()
        found += resources(path) if path.is_dir() else _documents(path)
    return found


def _documents(path: Path) -> list[Document]:
    return [one for one in yaml.safe_load_all(path.read_text()) if one]


def flow_run_job(image: str, namespace: str) -> Document:
    """Return the Job of a flow run: Prefect's base job template with its defaults.

    The placeholders whose variables have no default (labels, annotations, name) become what Prefect's worker
    makes of them at the least.
    """
    path = ROOT / "base" / "prefect" / "base-job-template.json"
    template = json.loads(path.read_text())
    values = {name: one.get("default") for name, one in template["variables"]["properties"].items()}
    values |= {"image": image, "namespace": namespace, "name": "run", "labels": {}, "annotations": {}}
    filled: Document = _filled(template["job_configuration"]["job_manifest"], values)
    filled["spec"]["template"]["spec"]["containers"][0]["args"] = ["prefect", "flow-run", "execute"]
    # Prefect asks for these two here, where Kubernetes does not know them.
    for name in ("parallelism", "completions"):
        del filled["spec"]["template"]["spec"][name]
    return filled


def _filled(part: Any, values: dict[str, Any]) -> Any:
    if isinstance(part, dict):
        return {key: _filled(value, values) for key, value in part.items()}
    if isinstance(part, list):
        return [_filled(value, values) for value in part]
    if not isinstance(part, str):
        return part
    if whole := _PLACEHOLDER.fullmatch(part):
        return values[whole[1]]
    return _PLACEHOLDER.sub(lambda found: str(values[found[1]]), part)


def pods(documents: list[Document]) -> dict[str, Document]:
    """Return the pod templates (metadata and spec) of everything that makes pods, by KIND/NAME."""
    return {
        f"{one['kind']}/{one['metadata'].get('name') or one['metadata']['generateName']}": one["spec"][
            "template"
        ]
        for one in documents
        if one["kind"] in ("Deployment", "Job", "StatefulSet", "DaemonSet")
    }
