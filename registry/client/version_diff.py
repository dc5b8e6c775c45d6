"""Champion and challenger side by side: what their runs say of metrics, checks, data and parameters."""

from dataclasses import dataclass
from typing import Any

from registry.client.registry import Registry, Version
from registry.errors import NotFoundError
from registry.names import Stage

SECTIONS = ("version", "metrics", "checks", "data", "parameters")


@dataclass(frozen=True)
class DiffLine:
    """One thing that both versions have, or one of them; None where it is not there."""

    section: str
    name: str
    a: str | None
    b: str | None

    @property
    def differs(self) -> bool:
        """Whether the two are not the same."""
        return self.a != self.b


def pair(registry: Registry, model: str, first: int | None, second: int | None) -> tuple[Version, Version]:
    """Return the two versions to compare: the ones named, else the one in Production and the newest other.

    Raises `NotFoundError` when there are no two.
    """
    versions = registry.versions(model)
    if first is not None:
        a = registry.version(model, first)
    else:
        champion = next((v for v in versions if v.stage is Stage.PRODUCTION), None)
        if champion is None:
            raise NotFoundError(
                f"{model} has no version in Production; name two: `greenroom diff {model} 1 2`."
            )
        a = champion
    if second is not None:
        return a, registry.version(model, second)
    others = [v for v in versions if v.number != a.number]
    if not others:
        raise NotFoundError(f"{model} has no other version than {a.number} to compare with.")
    return a, others[0]


def diff(registry: Registry, a: Version, b: Version) -> list[DiffLine]:
    """Return the lines of the comparison, by section."""
    left, right = _facts(registry, a), _facts(registry, b)
    lines = []
    for section in SECTIONS:
        names = sorted(left[section].keys() | right[section].keys())
        lines += [DiffLine(section, n, left[section].get(n), right[section].get(n)) for n in names]
    return lines


def _facts(registry: Registry, version: Version) -> dict[str, dict[str, str]]:
    run = registry.run(version)
    data: dict[str, Any] = run.get("data", {})
    tags = {t["key"]: str(t["value"]) for t in data.get("tags", [])}
    metrics = {m["key"]: m["value"] for m in data.get("metrics", [])}
    parameters = {p["key"]: str(p["value"]) for p in data.get("params", [])}
    datasets = {
        f"dataset {_context(used)}": f"{used['dataset']['name']} {used['dataset']['digest'][:12]}"
        for used in run.get("inputs", {}).get("dataset_inputs", [])
    }
    return {
        "version": {
            "stage": version.stage.value,
            "commit": _commit(version.tags.get("greenroom.commit", "")),
            "gate": version.tags.get("greenroom.gate", ""),
        },
        "metrics": {k: f"{v:.6g}" for k, v in metrics.items() if not k.startswith("check.")},
        "checks": {
            k.removeprefix("check."): v + (f" ({metrics[k]:.4g})" if k in metrics else "")
            for k, v in tags.items()
            if k.startswith("check.")
        },
        "data": {**datasets, **{k: v for k, v in parameters.items() if _of_data(k)}},
        "parameters": {k: v for k, v in parameters.items() if not _of_data(k)},
    }


def _commit(tag: str) -> str:
    """Return a commit in 12 digits, and whether the checkout differed from it."""
    commit, dirty, _ = tag.partition("-dirty")
    return commit[:12] + dirty


def _of_data(name: str) -> bool:
    return name == "dataset" or name.startswith("rows_")


def _context(used: dict[str, Any]) -> str:
    tags = {t["key"]: t["value"] for t in used.get("tags", [])}
    return str(tags.get("mlflow.data.context", "rows"))
