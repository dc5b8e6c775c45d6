"""Which declaration and which rows a version is judged by. Nothing that its run holds decides that alone.

Whoever writes to a run can write its parameters and its artifacts. So a run may only name a dataset by its
digest, and the evidence then says that somebody brought the rows.
"""

from dataclasses import dataclass
from typing import Any

from catalog.loader import UnknownModelError, get_model, load_catalog
from catalog.spec import ModelSpec
from catalog.table_declaration import DECLARATION_FILE, PlainDeclaration
from checks.data.uploads import trained_on
from checks.errors import GateInputError
from registry.client.registry import Registry, Version
from registry.errors import NotFoundError
from registry.evidence.verdict import DataOrigin
from registry.storage.datasets import is_dataset_id

# The parameter of a training's run that names its table (flows/training/mlflow_log.py).
_DATASET_PARAMETER = "dataset"
# The tag with the name of the person who submitted a model (flows/submission/flow.py): a claim.
_SUBMITTER = "greenroom.submitted_by"
_MLFLOW_USER = "mlflow.user"


@dataclass(frozen=True)
class Declared:
    """The declaration that a version is judged by, with its rows for a source, and where those come from.

    `declaration` is the file that was submitted with the model, None for a model of the catalogue.
    """

    spec: ModelSpec
    origin: DataOrigin
    declaration: bytes | None = None


def find_spec(registry: Registry, version: Version) -> ModelSpec:
    """Return the declaration of a version: the catalogue's, else the one that was submitted with the model.

    The gate's policy is the catalogue's, or that of the task; it is never read from a run. Raises
    `NotFoundError` when neither exists, `GateInputError` when the submitted one cannot be read, and what
    the registry raises.
    """
    return _find_spec(registry, version)[0]


def find_declared(registry: Registry, version: Version) -> Declared:
    """Return the declaration of a version with the rows that its run names; raises like `find_spec`."""
    run = registry.run(version)
    spec, declaration = _find_spec(registry, version)
    if version.model in load_catalog():
        dataset = _parameter(run, _DATASET_PARAMETER)
        if dataset is None or dataset == spec.dataset.source or not is_dataset_id(dataset):
            return Declared(spec, DataOrigin(source=spec.dataset.source, declared=True))
        spec = trained_on(spec, dataset)
    tags = {tag["key"]: tag["value"] for tag in run["data"].get("tags", [])}
    by = version.tags.get(_SUBMITTER) or tags.get(_SUBMITTER) or tags.get(_MLFLOW_USER)
    origin = DataOrigin(source=spec.dataset.source, declared=False, brought_by=by[:200] if by else None)
    return Declared(spec, origin, declaration)


def _find_spec(registry: Registry, version: Version) -> tuple[ModelSpec, bytes | None]:
    try:
        return get_model(version.model), None
    except UnknownModelError:
        return _submitted(registry, version)


def _submitted(registry: Registry, version: Version) -> tuple[ModelSpec, bytes]:
    try:
        content = registry.artifact(version, f"gate/{DECLARATION_FILE}")
    except NotFoundError as error:
        raise NotFoundError(
            f"The gate knows no declaration of {version.model!r}, nor was {version} submitted with a table "
            "of its own. Start the gate (`make up`) with a GREENROOM_CATALOG_PATH that names its file."
        ) from error
    try:
        spec = PlainDeclaration.model_validate_json(content).spec()
    except ValueError as error:
        raise GateInputError(
            f"The declaration in the run of {version} cannot be read: {error}. Submit the model again."
        ) from error
    if spec.name != version.model:
        raise GateInputError(f"The run of {version} declares {spec.name!r}. Submit the model again.")
    return spec, content


def _parameter(run: dict[str, Any], name: str) -> str | None:
    parameters = run["data"].get("params", [])
    return next((item["value"] for item in parameters if item["key"] == name), None)
