"""What MLflow's files beside the ONNX file may say: what MLflow writes, and no more."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from registry.errors import EvidenceFilesError, ModelFormatError
from registry.evidence.rules import VersionRef, require_closed_files
from registry.model_format.mlflow_folder import CLOSED_LIST, MODEL_FILE, artifact_of, beyond_closed_list
from registry.model_format.mlmodel import check_file, check_mlmodel
from tests.evidence import MLMODEL
from tests.serving.support.onnx_parts import regression

REF = VersionRef("genre", 3, "models:/m-1")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a model as MLflow's own ONNX flavour writes them, as a training logs it."""
    import mlflow.onnx  # noqa: PLC0415 - seconds
    from mlflow.models import infer_signature  # noqa: PLC0415

    folder, rows = tmp_path_factory.mktemp("mlflow") / "model", np.zeros((3, 2), dtype=np.float32)
    mlflow.onnx.save_model(
        regression(("a", "b"), {"a": 1.0}, 0.0),
        folder,
        signature=infer_signature(rows, rows[:, 0]),
        input_example=rows,
        pip_requirements=["onnxruntime", "numpy"],
        metadata={"features": ["a", "b"], "target": "x"},
        onnx_execution_providers=["CPUExecutionProvider"],
        save_as_external_data=False,
    )
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_mlflow_writes_is_accepted(written: dict[str, bytes]) -> None:
    assert set(written) == CLOSED_LIST, "the closed list is what a training logs"
    require_closed_files(written, REF)
    for path, content in written.items():
        check_file(path, content)
    check_mlmodel(MLMODEL)


def test_without_example_requirements_or_signature_it_is_accepted_too(tmp_path: Path) -> None:
    import mlflow.onnx  # noqa: PLC0415

    mlflow.onnx.save_model(
        regression(("a",), {"a": 1.0}, 0.0), tmp_path / "m", pip_requirements=["onnxruntime"]
    )
    paths = [path for path in (tmp_path / "m").iterdir() if path.is_file()]
    require_closed_files([path.name for path in paths], REF)
    for path in paths:
        check_file(path.name, path.read_bytes())


def pyfunc(**changed: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda model: model["flavors"]["python_function"].update(changed)


MLMODELS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "another loader": (pyfunc(loader_module="evil"), "loader_module of python_function is 'evil'"),
    "mlflow's loader of pickles": (pyfunc(loader_module="mlflow.sklearn"), "loader_module"),
    "no loader": (lambda m: m["flavors"]["python_function"].pop("loader_module"), "loader_module"),
    "code": (pyfunc(code="code"), "the code of python_function is 'code'"),
    "code of the flavor": (lambda m: m["flavors"]["onnx"].update(code="code"), "the code of the flavor onnx"),
    "a model from code": (pyfunc(model_code_path="model.py"), "python_function has model_code_path"),
    "a config": (pyfunc(config={"a": 1}), "python_function has config"),
    "other data": (pyfunc(data="other.onnx"), "the data of python_function"),
    "data elsewhere": (
        lambda m: m["flavors"]["onnx"].update(data="../x.onnx"),
        "the data of the flavor onnx",
    ),
    "another environment": (pyfunc(env={"conda": "other.yaml"}), "the conda of the environment"),
    "an environment that is text": (pyfunc(env="conda.yaml"), "the environment is no mapping"),
    "an environment more": (
        pyfunc(env={"conda": "conda.yaml", "virtualenv": "python_env.yaml", "docker": "x"}),
        "the environment has docker",
    ),
    "a flavor more": (
        lambda m: m["flavors"].update(sklearn={"pickled_model": "model.pkl"}),
        "its flavors are onnx, python_function, sklearn",
    ),
    "a flavor less": (lambda m: m["flavors"].pop("onnx"), "its flavors are python_function"),
    "no flavors": (lambda m: m.pop("flavors"), "flavors is no mapping"),
    "options of the session": (
        lambda m: m["flavors"]["onnx"].update(onnx_session_options={"extra_session_config": {"x": "y"}}),
        "onnx_session_options",
    ),
    "another provider": (lambda m: m["flavors"]["onnx"].update(providers=["Evil"]), "other providers"),
    "a provider with options": (
        lambda m: m["flavors"]["onnx"].update(providers=[["CUDAExecutionProvider", {"a": 1}]]),
        "other providers",
    ),
    "external data": (
        lambda m: m["flavors"]["onnx"].update(save_as_external_data=True),
        "the flavor onnx has",
    ),
    "resources": (lambda m: m.update(resources={"api": []}), "it has resources"),
    "an auth policy": (lambda m: m.update(auth_policy={}), "it has auth_policy"),
    "an example elsewhere": (
        lambda m: m.update(saved_input_example_info={"artifact_path": "../x.json"}),
        "it names the examples",
    ),
}


@pytest.mark.parametrize("what", MLMODELS)
def test_an_mlmodel_that_says_more_is_refused(written: dict[str, bytes], what: str) -> None:
    change, says = MLMODELS[what]
    model = yaml.safe_load(written["MLmodel"])
    change(model)
    with pytest.raises(ModelFormatError, match=says):
        check_mlmodel(yaml.safe_dump(model).encode())


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "it is no mapping"),
        (b"flavors", "it is no mapping"),
        (b"[1]", "it is no mapping"),
        (b"\xff", "not what MLflow's ONNX flavour writes"),
        (b"a: &x 1\nb: *x\n", "an anchor or an alias"),
        (b"a: !!python/object/apply:os.system [x]\n", "a tag"),
        (b"a: !evil 1\n", "a tag"),
        (MLMODEL + b"flavors: {}\n", "a key twice"),
        (MLMODEL.replace(b"onnx: {data", b"onnx: {data: x.onnx, data"), "a key twice"),
        (MLMODEL + b"<<: {a: 1}\n", "a key twice|it has"),
        (MLMODEL + b"---\nflavors: {}\n", "expected a single document|but found another document"),
        (b"a: " + b"[" * 5_000, "not what MLflow's ONNX flavour writes"),
        (b"metadata: x" * 100_000, "larger than 1,000,000 bytes"),
    ],
)
def test_what_is_no_plain_yaml_is_refused(content: bytes, says: str) -> None:
    with pytest.raises(ModelFormatError, match=says):
        check_mlmodel(content)


@pytest.mark.parametrize(
    "line",
    [
        "evil",
        "numpy @ https://example.org/numpy.whl",
        "-e .",
        "-r other.txt",
        "--index-url https://example.org",
        "--extra-index-url=https://example.org",
        "https://example.org/numpy.whl",
        "git+https://example.org/numpy",
        "./numpy",
        "numpy==1.0 --hash=sha256:00",
        "numpy; python_version > '3'",
        "numpy[evil]",
        "numpy # fine",
        "numpy\\",
    ],
)
def test_a_package_from_elsewhere_is_refused(line: str) -> None:
    with pytest.raises(ModelFormatError, match="it asks for"):
        check_file("requirements.txt", f"mlflow==3.17.2\n{line}\n".encode())
    conda = {"channels": ["conda-forge"], "dependencies": ["python=3.11.7", {"pip": ["numpy", line]}]}
    with pytest.raises(ModelFormatError, match="it asks for"):
        check_file("conda.yaml", yaml.safe_dump(conda).encode())


@pytest.mark.parametrize(
    ("path", "content", "says"),
    [
        ("conda.yaml", {"channels": ["evil"], "dependencies": []}, "the channels of it"),
        ("conda.yaml", {"channels": ["conda-forge"], "dependencies": ["numpy"]}, "it asks for 'numpy'"),
        ("conda.yaml", {"channels": ["conda-forge"], "dependencies": [], "prefix": "/"}, "it has prefix"),
        ("conda.yaml", {"channels": ["conda-forge"]}, "dependencies is no list"),
        ("python_env.yaml", {"python": "3.11", "dependencies": ["-r other.txt"]}, "the dependencies of it"),
        ("python_env.yaml", {"python": "../bin", "dependencies": ["-r requirements.txt"]}, "its Python is"),
        (
            "python_env.yaml",
            {"python": "3.11", "build_dependencies": ["evil"], "dependencies": ["-r requirements.txt"]},
            "it asks for 'evil'",
        ),
        ("input_example.json", "{", "not what MLflow's ONNX flavour writes"),
        ("code/evil.py", "", "holds no file"),
    ],
)
def test_other_files_say_what_mlflow_writes(path: str, content: Any, says: str) -> None:
    text = content if isinstance(content, str) else yaml.safe_dump(content)
    with pytest.raises(ModelFormatError, match=says):
        check_file(path, text.encode())


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ([MODEL_FILE, "MLmodel", "code/evil.py"], r"code/evil\.py may not be there"),
        ([MODEL_FILE, "MLmodel", "model.pkl"], r"model\.pkl may not be there"),
        ([MODEL_FILE, "MLmodel", "model.onnx.data"], r"model\.onnx\.data may not be there"),
        ([MODEL_FILE, "MLmodel", "sub/MLmodel"], "sub/MLmodel may not be there"),
        ([MODEL_FILE, "MLmodel", "mlmodel"], "mlmodel may not be there"),
        ([MODEL_FILE, "MLmodel", "a", "b", "c", "d"], "and 1 more"),
        ([MODEL_FILE], "MLmodel is not there"),
        ([], "MLmodel is not there"),
        (["model.pkl"], "MLmodel is not there"),
    ],
)
def test_the_list_of_files_is_closed(files: list[str], says: str) -> None:
    with pytest.raises(EvidenceFilesError, match=says):
        require_closed_files(files, REF)


def test_a_pyfunc_version_has_the_files_that_its_model_needs() -> None:
    files = ["MLmodel", "model.pkl", "code/mine.py"]
    assert artifact_of(files) == "pyfunc"
    assert beyond_closed_list(files) == ([], [])
    assert artifact_of([*files, MODEL_FILE]) == "onnx", "and then the list is closed"
    assert beyond_closed_list([*files, MODEL_FILE]) == (["code/mine.py", "model.pkl"], [])
