"""What MLflow's own files beside an ONNX file may say: `MLmodel` and the environment that it names.

Who loads a version with MLflow runs what `MLmodel` names, and installs what the environment lists. So they
say what MLflow's ONNX flavour writes, and nothing else: no other loader, no code, no package from elsewhere.
"""

import json
import re
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any

import yaml

from registry.errors import ModelFormatError
from registry.model_format.mlflow_folder import CONDA, EXAMPLES, MLMODEL, MODEL_FILE, PYTHON_ENV, REQUIREMENTS

# Bytes; examples hold some rows, a signature one line per column.
_MAX_BYTES = 1_000_000
_MLMODEL_KEYS = frozenset(
    {
        *("artifact_path", "flavors", "is_signature_from_type_hint", "metadata", "mlflow_version"),
        *("model_id", "model_size_bytes", "model_uuid", "prompts", "run_id"),
        *("saved_input_example_info", "signature", "type_hint_from_example", "utc_time_created"),
    }
)
_PROVIDERS = ("CPUExecutionProvider", "CUDAExecutionProvider")
# What a version may ask to be installed: what MLflow's ONNX flavour needs or infers.
_PACKAGES = frozenset(
    {
        *("mlflow", "mlflow-skinny", "onnx", "onnxruntime", "numpy", "pandas", "scipy", "protobuf"),
        *("scikit-learn", "skl2onnx", "cloudpickle", "psutil", "pyarrow", "defusedxml"),
    }
)
_BUILD_PACKAGES = frozenset({"pip", "setuptools", "wheel"})
_VERSIONS = r"(?:(?:[=<>!~]=|[<>])[0-9][0-9a-z.*+!-]*(?:,(?:[=<>!~]=|[<>])[0-9][0-9a-z.*+!-]*)*)?"
_REQUIREMENT = re.compile(rf"([a-z0-9]+(?:[._-][a-z0-9]+)*){_VERSIONS}", re.IGNORECASE)
_PYTHON = re.compile(r"[0-9]+(\.[0-9]+){0,2}")


def check_file(path: str, content: bytes) -> None:
    """Raise `ModelFormatError` unless one of MLflow's files says what a served version may say.

    `path` is a file of the closed list (registry/model_format/mlflow_folder.py); of the ONNX file itself
    nothing is asked here.
    """
    if path == MODEL_FILE:
        return
    check = _CHECKS.get(path)
    if check is None:
        raise ModelFormatError(f"A served version holds no file {path!r}.")
    if len(content) > _MAX_BYTES:
        raise ModelFormatError(f"The {path} of the version is larger than {_MAX_BYTES:,} bytes.")
    try:
        check(content.decode())
    except (UnicodeDecodeError, yaml.YAMLError, ValueError, RecursionError) as error:
        problem = getattr(error, "problem", None) or str(error)
        raise ModelFormatError(
            f"The {path} of the version is not what MLflow's ONNX flavour writes: {problem}. Log the model "
            "again with `mlflow.onnx.log_model` (docs/evidence.md)."
        ) from error


def check_mlmodel(content: bytes) -> None:
    """Raise `ModelFormatError` unless `MLmodel` names the ONNX flavour alone, without code or options."""
    check_file(MLMODEL, content)


def _mlmodel(text: str) -> None:
    description = _mapping(_yaml(text), "it")
    _only(description, _MLMODEL_KEYS, "it")
    flavors = _mapping(description.get("flavors"), "flavors")
    if set(flavors) != {"onnx", "python_function"}:
        raise ValueError(f"its flavors are {_listed(flavors)}, not onnx and python_function")
    onnx = _mapping(flavors["onnx"], "the flavor onnx")
    _only(onnx, {"code", "data", "onnx_session_options", "onnx_version", "providers"}, "the flavor onnx")
    _equal(onnx, {"data": MODEL_FILE, "code": None, "onnx_session_options": None}, "the flavor onnx")
    providers = onnx.get("providers")
    if not isinstance(providers, list | None) or any(name not in _PROVIDERS for name in providers or []):
        raise ValueError(f"it names other providers than {_listed(_PROVIDERS)}")
    pyfunc = _mapping(flavors["python_function"], "python_function")
    _only(pyfunc, {"code", "data", "env", "loader_module", "python_version"}, "python_function")
    _equal(pyfunc, {"data": MODEL_FILE, "code": None, "loader_module": "mlflow.onnx"}, "python_function")
    environment = _mapping(pyfunc.get("env"), "the environment")
    _only(environment, {"conda", "virtualenv"}, "the environment")
    _equal(environment, {"conda": CONDA, "virtualenv": PYTHON_ENV}, "the environment")
    examples = description.get("saved_input_example_info")
    if examples is not None:
        paths = {key: value for key, value in _mapping(examples, "the example").items() if "path" in str(key)}
        if not set(paths.values()) <= set(EXAMPLES):
            raise ValueError(f"it names the examples {_listed(map(str, paths.values()))}")


def _requirements(text: str) -> None:
    for line in text.splitlines():
        if line.strip():
            _require_package(line.strip(), _PACKAGES)


def _conda(text: str) -> None:
    environment = _mapping(_yaml(text), "it")
    _only(environment, {"channels", "dependencies", "name"}, "it")
    _equal(environment, {"channels": ["conda-forge"]}, "it")
    for dependency in _list(environment.get("dependencies"), "dependencies"):
        if isinstance(dependency, Mapping):
            _only(dependency, {"pip"}, "a dependency")
            for line in _list(dependency.get("pip"), "pip"):
                _require_package(line, _PACKAGES)
        elif isinstance(dependency, str) and dependency.startswith("python="):
            _require_python(dependency.removeprefix("python="))
        else:
            _require_package(dependency, _BUILD_PACKAGES)


def _python_env(text: str) -> None:
    environment = _mapping(_yaml(text), "it")
    _only(environment, {"python", "build_dependencies", "dependencies"}, "it")
    _require_python(environment.get("python"))
    for line in _list(environment.get("build_dependencies", []), "build_dependencies"):
        _require_package(line, _BUILD_PACKAGES)
    _equal(environment, {"dependencies": [f"-r {REQUIREMENTS}"]}, "it")


def _example(text: str) -> None:
    json.loads(text)


_CHECKS: Mapping[str, Callable[[str], None]] = {
    MLMODEL: _mlmodel,
    REQUIREMENTS: _requirements,
    CONDA: _conda,
    PYTHON_ENV: _python_env,
    **dict.fromkeys(EXAMPLES, _example),
}


class _StrictLoader(yaml.SafeLoader):
    """YAML of plain values: no alias, no tag, no key twice; a date stays text."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise ValueError("it has an anchor or an alias")
        if getattr(event, "tag", None):
            raise ValueError("it has a tag")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        keys = [key.value for key, _ in node.value]
        if len(set(map(str, keys))) < len(keys) or "<<" in keys:
            raise ValueError("it has a key twice")
        return super().construct_mapping(node, deep=deep)


def _yaml(text: str) -> Any:
    return yaml.load(text, _StrictLoader)  # noqa: S506 - a SafeLoader


def _mapping(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{what} is no mapping")
    return value


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{what} is no list")
    return value


def _only(mapping: Mapping[str, Any], allowed: Iterable[str], what: str) -> None:
    if unknown := set(mapping) - set(allowed):
        raise ValueError(f"{what} has {_listed(map(str, unknown))}")


def _equal(mapping: Mapping[str, Any], wanted: Mapping[str, Any], what: str) -> None:
    for key, value in wanted.items():
        if mapping.get(key) != value:
            raise ValueError(f"the {key} of {what} is {str(mapping.get(key))[:100]!r}, not {value!r}")


def _require_package(line: Any, allowed: Iterable[str]) -> None:
    match = _REQUIREMENT.fullmatch(line) if isinstance(line, str) else None
    if match is None or match.group(1).lower().replace("_", "-").replace(".", "-") not in allowed:
        raise ValueError(f"it asks for {str(line)[:100]!r}, which is none of {_listed(allowed)}")


def _require_python(version: Any) -> None:
    if not _PYTHON.fullmatch(str(version)):
        raise ValueError(f"its Python is {str(version)[:100]!r}")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
