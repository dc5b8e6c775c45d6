"""`make lint-k8s`: holds the manifests against Kubernetes' schemas, offline, and against the house rules.

What is checked: each overlay as kustomize renders it, and the Job of a flow run. Without kubectl and without
kustomize only the files themselves are, against the schemas, and it says so.
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
    found = {tuple(int(part) for part in one.split(".")[:2]) for one in utils.all_versions()}
    return [f"{major}.{minor}" for major, minor in sorted(found) if (major, minor) >= OLDEST]


def schema_problems(document: Document, version: str) -> list[str]:
    """Return what a version's schema, which knows every field, has to say against an object."""
    name = f"{document.get('kind')}/{document.get('metadata', {}).get('name')} on {version}"
    try:
        kubernetes_validate.validate(document, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{name}: {'.'.join(map(str, error.path))}: {error.message}"]
    except kubernetes_validate.SchemaNotFoundError as error:
        return [f"{name}: {error.message}"]
    return []


def overlay_problems(documents: list[Document]) -> list[str]:
    """Return everything that is wrong with the objects of one overlay, the flow run's Job included."""
    register = pods(documents)["Job/prefect-register"]["spec"]["containers"][0]
    given = {one["name"]: one.get("value") for one in register["env"]}
    if given["FLOW_RUN_IMAGE"] != register["image"]:
        return [f"flow runs would run {given['FLOW_RUN_IMAGE']}, not {register['image']}"]
    namespace = next(one["metadata"]["name"] for one in documents if one["kind"] == "Namespace")
    documents = [*documents, flow_run_job(register["image"], namespace)]
    found = [
        problem for version in versions() for one in documents for problem in schema_problems(one, version)
    ]
    return found + policy.problems(documents)


def main() -> int:
    """Check everything and say what was; exit code 1 if anything is wrong."""
    found: list[str] = []
    command = renderer()
    for name in OVERLAYS:
        folder = ROOT / "overlays" / name
        try:
            documents: list[dict[str, Any]] = rendered(folder, command) if command else resources(folder)
        except RenderError as error:
            found.append(str(error))
            continue
        if command:
            found += overlay_problems(documents)
            how = f"{len(documents)} objects rendered, schemas and rules"
        else:
            found += [p for version in versions() for one in documents for p in schema_problems(one, version)]
            how = f"{len(documents)} objects as they are in the files, schemas alone"
        click.echo(f"infra/k8s/overlays/{name}: {how}, Kubernetes {versions()[0]} to {versions()[-1]}")
    if not command:
        click.echo("There is no kubectl and no kustomize here: install one to have the overlays rendered.")
    for problem in found:
        click.secho(problem, fg="red", err=True)
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
