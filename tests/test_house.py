"""How the rooms are furnished: few modules in each folder, and one line that says what a folder is for."""

import ast
from collections import Counter

import pytest

from tests.conftest import ROOT

MOST = 12
TOP = ("catalog", "registry", "checks", "flows", "serving", "infra", "bench")
# Started by their path with another interpreter, whose packages they use; nothing imports them.
PROGRAMS = {"checks/worker", "serving/models/pyfunc_worker"}
MODULES = sorted(
    file for top in TOP for file in (ROOT / top).rglob("*.py") if "__pycache__" not in file.parts
)
FOLDERS = sorted({file.parent.relative_to(ROOT).as_posix() for file in MODULES})
PACKAGES = [folder for folder in FOLDERS if (ROOT / folder).joinpath("__init__.py").exists()]


def test_no_folder_of_code_or_tests_holds_too_much() -> None:
    counted = [
        file for file in [*MODULES, *(ROOT / "tests").rglob("test_*.py")] if file.name != "__init__.py"
    ]
    held = Counter(str(file.parent.relative_to(ROOT)) for file in counted)
    assert {folder: count for folder, count in held.items() if count > MOST} == {}


@pytest.mark.parametrize("package", PACKAGES)
def test_a_room_says_in_one_line_what_it_is_for(package: str) -> None:
    said = ast.get_docstring(ast.parse((ROOT / package / "__init__.py").read_text()))
    assert said
    assert "\n" not in said


def test_every_folder_of_the_rooms_is_a_package_or_a_program() -> None:
    inner = {folder for folder in FOLDERS if folder.split("/")[0] not in {"infra", "bench"}}
    assert inner - set(PACKAGES) == PROGRAMS
