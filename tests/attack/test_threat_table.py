"""The threat table of docs/promotion.md: each sentence names attacks or tests that hold it, which exist."""

import ast
import re
from dataclasses import dataclass

import pytest

from bench.attack.__main__ import KINDS
from bench.attack.ways import DETECTED
from tests.conftest import ROOT

PAGE = ROOT / "docs" / "promotion.md"
OUTCOMES = ["Prevented", "Detected", "Trusted", "Not covered"]
# How a sentence speaks of who tells, and what a way calls it.
TELLS = {
    "`greenroom verify`": "verify",
    "predictor": "predictor",
    "transition": "transition",
    "the audit ": "audit",
}


@dataclass(frozen=True)
class Row:
    outcome: str
    sentence: str
    holders: tuple[str, ...]

    @property
    def kinds(self) -> set[str]:
        return {name.removeprefix("attack: ") for name in self.holders if name.startswith("attack: ")}

    @property
    def tests(self) -> list[str]:
        return [name for name in self.holders if not name.startswith("attack: ")]


def rows(text: str) -> list[Row]:
    table = text.partition("## Threat model")[2].partition("\n## ")[0]
    outcome, found = "", []
    for line in table.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if not line.startswith("|") or len(cells) < 3 or cells[2] == "held by" or set(cells[2]) <= {"-", "|"}:
            continue
        outcome = cells[0].strip("| *") or outcome
        found.append(Row(outcome, cells[1], tuple(re.findall("`([^`]+)`", cells[2]))))
    return found


ROWS = rows(PAGE.read_text("utf-8"))
NAMES = {kind.name for kind in KINDS}


def missing(test: str) -> bool:
    """Whether a test, as a file or as one function of it, is not there."""
    path, _, function = test.partition("::")
    if not (ROOT / path).is_file() or not path.startswith("tests/"):
        return True
    tree = ast.parse((ROOT / path).read_text("utf-8"))
    names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    return bool(function) and function not in names


def test_the_table_has_its_four_parts() -> None:
    assert list(dict.fromkeys(row.outcome for row in ROWS)) == OUTCOMES
    assert len(ROWS) > 20


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.sentence[:60])
def test_every_sentence_is_held_by_attacks_or_tests_that_exist(row: Row) -> None:
    assert row.holders, "name an attack or a test"
    assert row.kinds - NAMES == set()
    assert [test for test in row.tests if missing(test)] == []


@pytest.mark.parametrize("row", [r for r in ROWS if r.outcome == "Detected"], ids=lambda r: r.sentence[:60])
def test_who_detects_is_asked_by_a_way(row: Row) -> None:
    tried = {
        way.by for kind in KINDS if kind.name in row.kinds for way in kind.ways() if way.outcome == DETECTED
    }
    told = {by for words, by in TELLS.items() if words in row.sentence}
    assert told
    assert told <= tried


def test_every_kind_of_attack_holds_a_sentence() -> None:
    assert NAMES - set().union(*(row.kinds for row in ROWS)) == set()


def test_a_row_without_holders_or_with_others_is_seen() -> None:
    (row,) = rows("## Threat model\n| | | held by |\n|---|---|---|\n| **Prevented** | All. | nobody |\n")
    assert (row.outcome, row.sentence, row.holders) == ("Prevented", "All.", ())
    assert missing("tests/attack/test_threat_table.py::test_of_nothing")
    assert missing("tests/attack/test_nothing.py")
    assert not missing("tests/attack/test_threat_table.py::test_every_kind_of_attack_holds_a_sentence")
