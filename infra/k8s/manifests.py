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
    return _documents(done.stdout)


def resources(folder: Path) -> list[Document]:
    """Return the objects of the files that a kustomization and those below it name as resources.

    Patches are left out: they are parts of objects.
    """
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    paths = [(folder / name).resolve() for name in kustomization.get("resources", [])]
    return [d for p in paths for d in (resources(p) if p.is_dir() else _documents(p.read_text()))]


def _documents(text: str) -> list[Document]:
    return [document for document in yaml.safe_load_all(text) if document]


def flow_run_job(image: str, namespace: str) -> Document:
    """Return the Job of a flow run: Prefect's base job template with its defaults.

    Variables without a default (labels, annotations, name) get the least that Prefect's worker gives them.
    """
    path = ROOT / "base" / "prefect" / "base-job-template.json"
    template = json.loads(path.read_text())
    values = {name: variable.get("default") for name, variable in template["variables"]["properties"].items()}
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
    return _PLACEHOLDER.sub(lambda match: str(values[match[1]]), part)


def pods(documents: list[Document]) -> dict[str, Document]:
    """Return the pod templates (metadata and spec) of everything that makes pods, by KIND/NAME."""
    return {
        f"{d['kind']}/{d['metadata'].get('name') or d['metadata']['generateName']}": d["spec"]["template"]
        for d in documents
        if d["kind"] in ("Deployment", "Job", "StatefulSet", "DaemonSet")
    }
