"""From an uploaded CSV of real tracks to a version that says which rows it learned from."""

from pathlib import Path

import httpx
import pandas as pd
import pytest
from mlflow import MlflowClient

from catalog.loader import get_model
from catalog.models.energy import MODEL
from catalog.spotify_tracks import TRACKS
from checks.data import cleaning, sources, splits, validation
from checks.data.uploads import contract_of, read_uploaded, trained_on
from checks.errors import DataError
from checks.frames import checked_frame, frame_digest
from registry.client.registry import Registry
from registry.client.tracking_client import TrackingClient
from registry.errors import StorageUnavailableError
from registry.evidence.statement import TABLE
from registry.settings import RegistrySettings
from tests.conftest import Stack
from tests.evidence import key_settings
from tests.ports import free_port

pytestmark = pytest.mark.slow

_DECLARE = """
from catalog.models.energy import MODEL as BASE
from catalog.spec import GatePolicy

QUICK = [check for check in BASE.gate.checks if check.check == "SimpleModelComparison"]
MODEL = BASE.model_copy(
    update={
        "name": "energy-uploaded",
        "candidates": BASE.candidates[:1],
        "gate": GatePolicy(checks=tuple(QUICK)),
    }
)
"""
# Another domain: its dataset is another one.
_WINE = """
from pydantic import BaseModel
from catalog.models.energy import MODEL as BASE

class Wine(BaseModel):
    energy: float
    tempo: float

DATASET = BASE.dataset.model_copy(
    update={"name": "wines", "row": Wine, "features": Wine, "unique_by": (), "group": None}
)
MODEL = BASE.model_copy(
    update={"name": "wine", "dataset": DATASET, "features": ("tempo",), "skewed": (), "one_hot": ()}
)
"""


@pytest.fixture(scope="module")
def tracks() -> pd.DataFrame:
    """Two thirds of the real tracks: not the rows that the declared table has."""
    table = sources.read_table(TRACKS)[list(TRACKS.row.model_fields)]
    return table[table.index % 3 > 0].reset_index(drop=True)


@pytest.fixture(scope="module")
def dataset_id(stack: Stack, tracks: pd.DataFrame) -> str:
    content = tracks.to_csv(index=False).encode()
    answer = httpx.post(
        f"{stack.serving_url}/api/upload-dataset",
        params={"dataset": TRACKS.name},
        files={"file": ("tracks.csv", content)},
        timeout=60,
    )
    assert answer.status_code in (200, 201), answer.text
    assert answer.json()["rows"] == len(tracks)
    return str(answer.json()["id"])


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("catalogue")
    (folder / "energy_uploaded.py").write_text(_DECLARE)
    (folder / "wine.py").write_text(_WINE)
    return str(folder)


@pytest.fixture
def at_home(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GREENROOM_HOME", str(stack.home))


def test_a_model_learns_from_the_rows_that_were_uploaded(
    stack: Stack, tracks: pd.DataFrame, dataset_id: str, catalogue: str
) -> None:
    done = stack.greenroom(
        *("train", "energy-uploaded", "--dataset", dataset_id), GREENROOM_CATALOG_PATH=catalogue
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(tracks):,} rows of spotify_by_genre, uploaded as {dataset_id}" in done.stdout

    rows, _ = cleaning.clean(validation.validate(tracks, MODEL.dataset)[0], MODEL, read=len(tracks))
    frame = cleaning.features(rows, MODEL).assign(energy=rows["energy"])
    train, test = splits.split(rows, MODEL)
    digests = {
        side: frame_digest(checked_frame(MODEL, frame.iloc[positions], side))
        for side, positions in (("train", train), ("test", test))
    }
    with TrackingClient(RegistrySettings(tracking_uri=stack.tracking_url)) as tracking:
        registry = Registry(tracking)
        version = registry.version("energy-uploaded", 1)
        assert registry.verdict(version).dataset_digests == digests
        evidence = registry.evidence(version, key_settings(stack))
        signed = {side: evidence.configuration[f"dataset/{side}"][TABLE] for side in digests}
        assert {side: f"sha256:{value}" for side, value in signed.items()} == digests
        assert evidence.data
        assert (evidence.data.source, evidence.data.declared) == (dataset_id, False)

    mlflow = MlflowClient(tracking_uri=stack.tracking_url, registry_uri=stack.tracking_url)
    run = mlflow.get_run(mlflow.get_model_version("energy-uploaded", "1").run_id)
    assert run.data.params["dataset"] == dataset_id
    assert run.data.params["rows_read"] == str(len(tracks))
    logged = {logged_input.dataset.name: logged_input.dataset for logged_input in run.inputs.dataset_inputs}
    assert set(logged) == {"spotify_by_genre-training", "spotify_by_genre-held-out"}
    for name, side in (("spotify_by_genre-training", "train"), ("spotify_by_genre-held-out", "test")):
        assert logged[name].digest == digests[side].removeprefix("sha256:")[:36]
        assert dataset_id.removeprefix("sha256:") in logged[name].source
    url = f"{stack.prefect_url}/api/flow_runs/filter"
    runs = httpx.post(url, json={"limit": 50}, auth=stack.prefect_login).json()
    (flow_run,) = [flow_run for flow_run in runs if flow_run["name"] == "train-energy-uploaded"]
    assert flow_run["parameters"]["dataset"] == dataset_id


def test_a_model_of_another_dataset_is_refused(stack: Stack, dataset_id: str, catalogue: str) -> None:
    done = stack.greenroom("train", "wine", "--dataset", dataset_id, GREENROOM_CATALOG_PATH=catalogue)
    assert done.returncode == 2
    assert "holds rows of 'spotify_by_genre'" in done.stderr
    assert "wine (wines)" in done.stderr


@pytest.mark.parametrize(
    ("dataset", "words"),
    [(f"sha256:{0:064}", "There is no dataset sha256:0"), ("latest", "'latest' is no dataset id")],
)
def test_an_id_that_does_not_exist_is_an_error(stack: Stack, dataset: str, words: str) -> None:
    done = stack.greenroom("train", "energy", "--dataset", dataset)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.usefixtures("at_home")
def test_the_flow_refuses_by_itself(
    dataset_id: str, catalogue: str, tracks: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever starts the flow without the command gets the same answers."""
    monkeypatch.setenv("GREENROOM_CATALOG_PATH", catalogue)
    assert contract_of(dataset_id) == "spotify_by_genre"
    pd.testing.assert_frame_equal(
        sources.read_table(trained_on(MODEL, dataset_id).dataset)[list(tracks)], tracks, check_dtype=False
    )
    with pytest.raises(DataError, match="this model learns from 'wines'"):
        read_uploaded(trained_on(get_model("wine"), dataset_id).dataset)
    with pytest.raises(DataError, match="no dataset id"):
        trained_on(MODEL, "sha256:..")
    monkeypatch.setenv("GREENROOM_S3_PORT", str(free_port()))
    with pytest.raises(StorageUnavailableError):
        read_uploaded(trained_on(MODEL, dataset_id).dataset)


def test_without_keys_for_storage_it_says_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GREENROOM_HOME", str(tmp_path))
    with pytest.raises(DataError, match="GREENROOM_S3_ACCESS_KEY"):
        contract_of(f"sha256:{0:064}")
