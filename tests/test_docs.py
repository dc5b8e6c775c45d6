"""README, CONTRIBUTING and docs/: their paths exist, the tree is whole, README is short."""

import re
from pathlib import Path

import pytest

from tests.conftest import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
ROOMS = ("catalog", "registry", "checks", "flows", "serving", "infra")
_PATH = re.compile(rf"(?<![\w./-])(?:{'|'.join(ROOMS)}|tests|bench|docs|\.github)/[\w./*-]*[\w/*]")
_LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)\)")
_BRANCH = re.compile(r"^((?:│   |    )*)[├└]── ([\w.]+)/(?= |$)")
# A file that a person makes.
_WRITTEN = {"infra/k8s/secrets.production.yaml"}


def missing(page: Path, text: str) -> list[str]:
    """Paths and links of a page that lead nowhere."""
    paths = [
        path for path in _PATH.findall(text) if path not in _WRITTEN and not any(ROOT.glob(path.rstrip("/")))
    ]
    links = [link for link in _LINK.findall(text) if not (page.parent / link).exists()]
    return sorted({*paths, *links})


def folders(text: str) -> set[str]:
    """Folders that a tree of a page shows."""
    shown, above = set(), []
    for line in text.splitlines():
        if branch := _BRANCH.match(line):
            above = [*above[: len(branch[1]) // 4], branch[2]]
            shown.add("/".join(above))
    return shown


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_path_and_link_of_a_page_exists(page: Path) -> None:
    assert not missing(page, page.read_text("utf-8"))


def test_path_that_does_not_exist_is_refused() -> None:
    text = "`flows/steps.py`, [gone](docs/gone.md), `flows/settings.py`, tests/infra/test_nothing_*.py, https://x/docs/y"
    assert missing(ROOT / "README.md", text) == [
        "docs/gone.md",
        "flows/steps.py",
        "tests/infra/test_nothing_*.py",
    ]


@pytest.mark.parametrize("page", ["README.md", "docs/architecture.md"])
def test_tree_shows_every_room_and_nothing_else(page: str) -> None:
    shown = folders((ROOT / page).read_text("utf-8"))
    packages = {
        file.parent.relative_to(ROOT).as_posix()
        for room in ROOMS[:-1]
        for file in (ROOT / room).rglob("__init__.py")
    }
    # Folders below an inner room belong to that room.
    inner = {package for package in packages if package.count("/") < 2}
    assert inner <= shown
    assert not [folder for folder in shown if not (ROOT / folder).is_dir()]


def test_readme_has_at_most_900_words() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").split()) <= 900
