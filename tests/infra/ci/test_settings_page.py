"""The settings: each is declared, documented once, and known by the name under which files mention it."""

import re
import subprocess
from functools import cache
from pathlib import Path

import pytest
from click.testing import CliRunner
from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings

from infra.ci import settings_page
from registry import settings as registry_settings
from registry.settings import GreenroomSettings
from tests.conftest import ROOT

_NAME = re.compile(r"\bGREENROOM_[A-Z][A-Z0-9_]*")
# What a person reads or a machine runs. Decisions and CHANGELOG may speak of settings that are gone.
_SHIPPED = ("catalog", "registry", "checks", "flows", "serving", "infra", "bench", "docs", ".github")
_TOP = ("README.md", "CONTRIBUTING.md", ".env.example", "Makefile", "docker-compose.yml", "prefect.yaml")


def shipped() -> list[Path]:
    listed = subprocess.run(
        [
            "git",
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
            "--",
            *_SHIPPED,
            *_TOP,
            "Dockerfile*",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    names = [name for name in listed.split("\0") if name and not name.startswith("docs/decisions/")]
    return [
        ROOT / name
        for name in names
        if (ROOT / name).suffix not in {".png", ".parquet"} and (ROOT / name).is_file()
    ]


@cache
def known() -> frozenset[str]:
    retired = getattr(registry_settings, "_RETIRED", {})
    return frozenset({*settings_page.declared(), *settings_page.OTHERS, *retired})


def unknown(text: str) -> set[str]:
    """Names in a text that no settings class declares; one that ends with `_` is the beginning of others."""
    return {
        name
        for name in set(_NAME.findall(text)) - known()
        if not (name.endswith("_") and any(setting.startswith(name) for setting in known()))
    }


def test_every_setting_that_a_shipped_file_mentions_is_declared() -> None:
    wrong = {str(file.relative_to(ROOT)): unknown(file.read_text("utf-8")) for file in shipped()}
    assert not {file: names for file, names in wrong.items() if names}


def test_setting_that_nobody_declares_is_refused() -> None:
    assert unknown("GREENROOM_SERVING_PROT: 1, GREENROOM_S3_*, GREENROOM_SING_*") == {
        "GREENROOM_SERVING_PROT",
        "GREENROOM_SING_",
    }


def test_what_is_read_elsewhere_is_no_setting_and_is_read() -> None:
    assert not settings_page.OTHERS & settings_page.declared().keys()
    page = (settings_page.PAGE, Path(settings_page.__file__))
    mentioned = {
        name for file in shipped() if file not in page for name in _NAME.findall(file.read_text("utf-8"))
    }
    assert mentioned >= settings_page.OTHERS


def test_no_settings_class_is_left_out() -> None:
    def subclasses(kind: type[BaseSettings]) -> set[type[BaseSettings]]:
        return {kind, *(below for child in kind.__subclasses__() for below in subclasses(child))}

    listed = set(settings_page.classes())
    house = {
        kind for kind in subclasses(BaseSettings) if kind.__module__.split(".")[0] in settings_page.ROOMS
    }
    assert house == listed


def test_every_setting_has_a_description_and_stands_on_the_page_once() -> None:
    page = settings_page.page()
    for name, (_, field) in settings_page.declared().items():
        assert field.description, name
        assert page.count(f"\n| `{name}` |") == 1


def test_page_is_written_and_a_stale_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert CliRunner().invoke(settings_page.main, ["--check"]).exit_code == 0
    stale = tmp_path / "settings.md"
    stale.write_text(settings_page.page().replace("GREENROOM_HOME", "GREENROOM_HOUSE"))
    monkeypatch.setattr(settings_page, "PAGE", stale)
    refusal = CliRunner().invoke(settings_page.main, ["--check"])
    assert refusal.exit_code == 1
    assert "make settings-docs" in refusal.output


def test_no_secret_and_nothing_of_this_machine_is_on_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    class Settings(GreenroomSettings):
        """Settings of a test."""

        token: SecretStr = Field(default=SecretStr("hush"), description="GREENROOM_TOKEN: a | token.")

    monkeypatch.setattr(settings_page, "classes", lambda: [Settings])
    monkeypatch.setattr(settings_page, "ROOMS", {Settings.__module__.split(".")[0]: "of a test"})
    monkeypatch.setenv("GREENROOM_TOKEN", "hush hush")
    page = settings_page.page()
    assert "| `GREENROOM_TOKEN` | secret | not shown | a \\| token. |" in page
    assert "hush" not in page
    assert str(ROOT) not in page
    assert f"{Path.home()}/" not in page
