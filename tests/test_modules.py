"""Every module is imported by a test, or CONTRIBUTING says which end-to-end test reaches it."""

import ast
import re
from collections.abc import Iterable
from pathlib import Path

from tests.conftest import ROOT

ROOMS = ("registry", "checks", "serving", "flows")
_ROW = re.compile(r"^\| (`tests/.*`) \| (`.*\.py`) \|$", re.MULTILINE)


def modules() -> set[str]:
    files = {file.relative_to(ROOT) for room in ROOMS for file in (ROOT / room).rglob("*.py")}
    return {str(file) for file in files if file.name != "__init__.py"}


def imported(tests: Iterable[Path]) -> set[str]:
    """Modules that test files import by name, as paths."""
    names = set()
    for file in tests:
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {f"{name.replace('.', '/')}.py" for name in names}


def listed() -> tuple[set[str], set[str]]:
    """The table of CONTRIBUTING: tests, and the modules that they reach."""
    rows = _ROW.findall((ROOT / "CONTRIBUTING.md").read_text("utf-8"))
    tests, reached = (
        {name for row in rows for name in re.findall("`(.+?)`", row[column])} for column in (0, 1)
    )
    return tests, reached


def test_every_module_is_imported_by_a_test_or_reached_end_to_end() -> None:
    _, reached = listed()
    unknown = sorted(modules() - imported((ROOT / "tests").rglob("*.py")) - reached)
    assert not unknown, f"Write a test, or add to the table of CONTRIBUTING.md: {unknown}"


def test_table_names_only_modules_that_no_test_imports_and_tests_that_exist() -> None:
    tests, reached = listed()
    stale = sorted(reached - modules() | reached & imported((ROOT / "tests").rglob("*.py")))
    assert not stale, f"Take out of the table of CONTRIBUTING.md: {stale}"
    assert not [test for test in tests if not (ROOT / test).exists()]


def test_import_is_known_by_each_of_its_forms(tmp_path: Path) -> None:
    file = tmp_path / "test_it.py"
    file.write_text(
        "import flows.a\nfrom flows.b import name\nfrom flows import c\ndef f():\n    from flows.d import x\n"
    )
    assert {"flows/a.py", "flows/b.py", "flows/c.py", "flows/d.py"} <= imported([file])
