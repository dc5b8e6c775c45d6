"""Declarations are found, and what is wrong with one is said with its place."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from catalog.loader import CatalogError, UnknownModelError, get_model, load_catalog

Extra = Callable[..., None]

DECLARATION = """
from catalog.models.genre import MODEL as BASE

MODEL = BASE.model_copy(update={{"name": "{name}"}})
"""


@pytest.fixture
def declare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Extra:
    """Write files into a folder and name it in GREENROOM_CATALOG_PATH."""

    def write(**files: str) -> None:
        for name, content in files.items():
            (tmp_path / f"{name}.py").write_text(content)
        monkeypatch.setenv("GREENROOM_CATALOG_PATH", str(tmp_path))

    return write


@pytest.fixture(autouse=True)
def _no_extra_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GREENROOM_CATALOG_PATH", raising=False)


def test_models_that_come_with_greenroom_are_found() -> None:
    assert list(load_catalog()) == ["clusters", "energy", "genre", "popularity", "similar"]
    assert get_model("energy").target == "energy"


def test_a_folder_adds_models(declare: Extra) -> None:
    declare(mood=DECLARATION.format(name="mood"), _helper="raise RuntimeError('not a declaration')")
    assert list(load_catalog()) == ["clusters", "energy", "genre", "mood", "popularity", "similar"]


def test_several_files_are_separated_like_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The same file name twice: they must not be taken for one module.
    files = [tmp_path / folder / "model.py" for folder in ("one", "two")]
    for file in files:
        file.parent.mkdir()
        file.write_text(DECLARATION.format(name=file.parent.name))
    monkeypatch.setenv("GREENROOM_CATALOG_PATH", os.pathsep.join(["", *map(str, files)]))
    assert {"one", "two"} <= set(load_catalog())


def test_unknown_model_names_the_ones_there_are() -> None:
    with pytest.raises(UnknownModelError, match=r"no model 'gerne'.*energy, genre, popularity"):
        get_model("gerne")


def test_a_name_declared_twice_is_refused(declare: Extra) -> None:
    declare(again=DECLARATION.format(name="genre"))
    with pytest.raises(CatalogError, match=r"again\.py declares the model 'genre' a second time"):
        load_catalog()


def test_a_missing_path_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GREENROOM_CATALOG_PATH", "/nowhere/models")
    with pytest.raises(
        CatalogError, match="GREENROOM_CATALOG_PATH names /nowhere/models, which does not exist"
    ):
        load_catalog()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("x = 1", "defines no MODEL"),
        ("MODEL = 'genre'", "defines no MODEL"),
        ("def broken(:", "SyntaxError"),
        ("import nothing_of_that_name", "nothing_of_that_name"),
        ("raise RuntimeError('while declaring')", "RuntimeError: while declaring"),
        ("from catalog.spec import ModelSpec\nMODEL = ModelSpec(name='x')", "ValidationError"),
    ],
)
def test_a_file_that_is_no_declaration_is_named(declare: Extra, content: str, says: str) -> None:
    declare(faulty=content)
    with pytest.raises(CatalogError, match=r"faulty\.py") as refusal:
        load_catalog()
    assert says in str(refusal.value)


def test_a_file_that_is_not_python_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.txt").write_text("MODEL")
    monkeypatch.setenv("GREENROOM_CATALOG_PATH", str(tmp_path / "model.txt"))
    with pytest.raises(CatalogError, match="not a Python file"):
        load_catalog()


def test_a_broken_file_can_be_mended_in_the_same_process(declare: Extra) -> None:
    declare(later="raise RuntimeError")
    with pytest.raises(CatalogError):
        load_catalog()
    declare(later=DECLARATION.format(name="later-on"))
    assert "later-on" in load_catalog()
