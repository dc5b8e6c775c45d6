"""`make lint-k8s`: checks rendered overlays and a flow run's Job against Kubernetes' schemas and policy.py.

Without kubectl and kustomize it checks only the files, against the schemas, and says so.
"""

import sys
from functools import cache
from typing import Any

import click
import kubernetes_validate
from kubernetes_validate import utils

from infra.k8s import policy
from infra.k8s.manifests import (
    OVERLAYS,
    ROOT,
    Document,
    RenderError,
    flow_run_job,
    pods,
    rendered,
    renderer,
    resources,
)

# The first with everything that is used here (a topology spread by pod-template-hash, by default).
OLDEST = (1, 30)

# The library reads a file of definitions anew for each object.
utils.schema_contents = cache(utils.schema_contents)


def versions() -> list[str]:
    """Return the Kubernetes versions that are supported, as far as there are schemas for them."""
    known = {tuple(int(part) for part in version.split(".")[:2]) for version in utils.all_versions()}
    return [f"{major}.{minor}" for major, minor in sorted(known) if (major, minor) >= OLDEST]


def schema_problems(document: Document, version: str) -> list[str]:
    """Return what a version's schema, which knows every field, finds wrong with an object."""
    try:
        kubernetes_validate.validate(document, version, strict=True)
    except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
        path = [str(part) for part in getattr(error, "path", ())]
        name = f"{document.get('kind')}/{document.get('metadata', {}).get('name')}"
        return [": ".join([f"{name} on {version}", ".".join(path), error.message])]
    return []


def _all_schema_problems(documents: list[Document]) -> list[str]:
    return [problem for version in versions() for d in documents for problem in schema_problems(d, version)]


def overlay_problems(documents: list[Document]) -> list[str]:
    """Return everything that is wrong with the objects of one overlay, the flow run's Job included."""
    register = pods(documents)["Job/prefect-register"]["spec"]["containers"][0]
    image = next(v["value"] for v in register["env"] if v["name"] == "FLOW_RUN_IMAGE")
    if image != register["image"]:
        return [f"flow runs would run {image}, not {register['image']}"]
    namespace = next(d["metadata"]["name"] for d in documents if d["kind"] == "Namespace")
    documents = [*documents, flow_run_job(image, namespace)]
    return _all_schema_problems(documents) + policy.problems(documents)


def main() -> int:
    """Check every overlay and print what is wrong; exit code 1 if anything is."""
    problems: list[str] = []
    command = renderer()
    for name in OVERLAYS:
        folder = ROOT / "overlays" / name
        try:
            documents: list[dict[str, Any]] = rendered(folder, command) if command else resources(folder)
        except RenderError as error:
            problems.append(str(error))
            continue
        if command:
            problems += overlay_problems(documents)
            how = f"{len(documents)} objects rendered, schemas and rules"
        else:
            problems += _all_schema_problems(documents)
            how = f"{len(documents)} objects as they are in the files, schemas alone"
        click.echo(f"infra/k8s/overlays/{name}: {how}, Kubernetes {versions()[0]} to {versions()[-1]}")
    if not command:
        click.echo("There is no kubectl and no kustomize here: install one to have the overlays rendered.")
    for problem in problems:
        click.secho(problem, fg="red", err=True)
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
