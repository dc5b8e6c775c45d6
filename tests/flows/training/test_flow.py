"""The main job on real parts, with a model from outside the music domain: train, gate, promote, serve."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from mlflow import MlflowClient
from selenium import webdriver
from selenium.webdriver.support.ui import WebDriverWait

from registry.client import audit_log
from registry.client.registry import MODEL_FILE, Registry, digest_of
from registry.client.tracking_client import TrackingClient
from registry.settings import RegistrySettings
from tests.conftest import ROOT, Stack
from tests.evidence import key_settings
from tests.flows.support.tumour_rows import tumours
from tests.warm_commands import warm_python

pytestmark = pytest.mark.slow

SUPPORT = ROOT / "tests" / "flows" / "support"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the declaration and its table: all that adding a model takes."""
    found = tmp_path_factory.mktemp("models")
    shutil.copy(SUPPORT / "tumours.py", found)
    tumours().to_parquet(found / "tumours.parquet")
    return found


@pytest.fixture(scope="module")
def trained(stack: Stack, folder: Path) -> tuple[Stack, str]:
    """The toy model trained and promoted, and what the command printed."""
    done = stack.greenroom("train", "tumour", "--promote", GREENROOM_CATALOG_PATH=str(folder))
    assert done.returncode == 0, done.stdout + done.stderr
    return stack, done.stdout


def client(stack: Stack) -> MlflowClient:
    """MLflow's own client: what a data scientist would see."""
    return MlflowClient(tracking_uri=stack.tracking_url, registry_uri=stack.tracking_url)


def test_every_step_says_what_it_did(trained: tuple[Stack, str]) -> None:
    steps = [line.split()[3] for line in trained[1].splitlines() if " s  tumour" in line]
    before = ["ingest", "validate", "features", "split", "train", "train", "train"]
    assert steps[:10] == [*before, "evaluate", "calibrate", "convert"]
    assert steps[10:] == ["measure", "log", "card", "register", "gate", "promote"]


def test_production_version_is_served(trained: tuple[Stack, str], folder: Path) -> None:
    stack, _ = trained
    # It stays so, for the tests of other rooms too: they do not mind, and going back is one more restart.
    stack.variables["GREENROOM_CATALOG_PATH"] = str(folder)
    done = stack.greenroom("up", "--no-train")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "restarting" in done.stdout
    sick = {"radius": 22.0, "texture": 25.0, "smoothness": 0.12, "concavity": 0.35}
    answer = httpx.post(f"{stack.serving_url}/api/predict/tumour", json=sick)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["model"], body["version"], body["prediction"]) == ("tumour", 1, "malignant")
    assert body["probabilities"]["malignant"] > 0.9
    refused = httpx.post(f"{stack.serving_url}/api/predict/tumour", json={**sick, "radius": -1})
    assert refused.status_code == 422
    assert "radius" in refused.text
    assert f"curl -s {stack.serving_url}/api/predict/tumour" in done.stdout
    explained = httpx.post(f"{stack.serving_url}/api/explain/tumour", json=sick).json()
    assert (explained["version"], explained["prediction"]) == (1, "malignant")
    assert explained["background_rows"] == 32
    total = explained["base_value"] + sum(one["contribution"] for one in explained["contributions"])
    assert total == pytest.approx(body["probabilities"]["malignant"], abs=1e-6)


def test_mlflow_holds_what_a_data_scientist_compares(trained: tuple[Stack, str]) -> None:
    mlflow = client(trained[0])
    version = mlflow.get_model_version("tumour", "1")
    assert version.current_stage == "Production"
    assert version.tags["greenroom.gate"] == "passed"
    parent = mlflow.get_run(version.run_id)
    children = mlflow.search_runs(
        [parent.info.experiment_id], f"tags.mlflow.parentRunId = '{version.run_id}'"
    )
    assert {run.info.run_name for run in children} == {"logistic-regression", "random-forest", "naive-bayes"}
    for run in children:
        for side in ("cv", "train", "test"):
            assert 0.5 < run.data.metrics[f"{side}_balanced_accuracy"] <= 1
        assert run.data.params["estimator"].startswith("sklearn.")
    assert {i.dataset.name for i in parent.inputs.dataset_inputs} == {"tumours-training", "tumours-held-out"}
    assert parent.data.tags["check.TrainTestSamplesMix"] == "passed"
    assert "check.SimpleModelComparison" in parent.data.metrics
    assert parent.data.tags["mlflow.source.git.commit"]


def test_runs_of_a_model_are_compared_and_filtered_by_the_same_names(trained: tuple[Stack, str]) -> None:
    """The names that docs/models.md promises, on the run, its children and the file's LoggedModel."""
    mlflow = client(trained[0])
    version = mlflow.get_model_version("tumour", "1")
    run = mlflow.get_run(version.run_id)
    found, tags = run.data.metrics, run.data.tags
    for name in ("test_balanced_accuracy", "default_forest_balanced_accuracy"):
        assert found[f"{name}_low"] <= found[name] <= found[f"{name}_high"]
    assert found["baseline_balanced_accuracy"] == 0.5
    gain = found["test_balanced_accuracy"] - found["default_forest_balanced_accuracy"]
    assert found["gain_over_default_forest"] == pytest.approx(gain)
    for side in ("test", "cv_uncalibrated", "cv_calibrated"):
        assert {f"{side}_{name}" for name in ("log_loss", "brier", "ece")} <= set(found)
    assert found["cv_calibrated_log_loss"] <= found["cv_uncalibrated_log_loss"]
    statuses = [status for name, status in tags.items() if name.startswith("check.")]
    assert found["checks_passed"] == statuses.count("passed")
    assert found["checks_failed"] == len(statuses) - statuses.count("passed")
    assert found["checks_refusing"] == 0
    asked = (
        "tags.`greenroom.model` = 'tumour' and tags.`greenroom.gate` = 'passed' and "
        f"tags.`greenroom.dataset` = '{version.tags['greenroom.dataset']}' and "
        f"tags.`greenroom.commit` = '{version.tags['greenroom.commit']}' and metrics.checks_refusing = 0"
    )
    assert version.run_id in {one.info.run_id for one in mlflow.search_runs([run.info.experiment_id], asked)}
    child = mlflow.search_runs(
        [run.info.experiment_id], f"tags.mlflow.parentRunId = '{version.run_id}'", max_results=1
    )[0]
    for tag in ("greenroom.model", "greenroom.dataset", "greenroom.commit"):
        assert child.data.tags[tag] == tags[tag]


def test_the_model_card_is_an_artifact_and_its_beginning_is_on_the_pages(
    trained: tuple[Stack, str], tmp_path: Path
) -> None:
    mlflow = client(trained[0])
    version = mlflow.get_model_version("tumour", "1")
    card = Path(mlflow.download_artifacts(version.run_id, "model-card.md", str(tmp_path))).read_text("utf-8")
    assert card.startswith(
        "# Model card: tumour\n\n> The gate let this model pass.\n\nWhether a tumour is malignant"
    )
    assert version.run_id in card
    assert version.tags["greenroom.dataset"] in card
    assert "there was no search" in card, "the tests' budget is 0"
    trials = Path(mlflow.download_artifacts(version.run_id, "search/trials.csv", str(tmp_path))).read_text()
    assert [line.split(",")[2] for line in trials.splitlines()[1:]] == ["declared"] * 3
    assert version.description in card
    assert "naive baseline" in version.description
    assert version.description.strip() in mlflow.get_run(version.run_id).data.tags["mlflow.note.content"]


def test_version_carries_signed_evidence_that_names_all_it_rests_on(trained: tuple[Stack, str]) -> None:
    stack, printed = trained
    with TrackingClient(RegistrySettings(tracking_uri=stack.tracking_url)) as tracking:
        registry = Registry(tracking)
        version = registry.version("tumour", 1)
        evidence = registry.evidence(version, key_settings(stack))
        verdict = registry.verdict(version)
        assert (evidence.model, evidence.version, evidence.source) == ("tumour", 1, version.source)
        assert evidence.files == registry.files(version)
        assert digest_of(evidence.files, MODEL_FILE) == verdict.model_digest
        assert {"MLmodel", "input_example.json"} <= set(evidence.files), "all files, not the model alone"
        assert evidence.report_digest == registry.report_digest(version, evidence.report_files)
        assert evidence.policy_digest == verdict.policy_digest
        assert evidence.incumbent is None, "there was no other version"
        rows = audit_log.history(tracking, "tumour")
    assert f"signed {evidence.digest[:19]}" in printed
    moves = [(row.action, row.to_stage) for row in rows if row.version == 1][:2]
    assert moves == [("staged", "Staging"), ("promoted", "Production")]
    assert {row.evidence for row in rows if row.action == "promoted"} == {evidence.digest}


def test_a_training_is_done_again_to_the_byte(
    trained: tuple[Stack, str], folder: Path, tmp_path: Path
) -> None:
    stack, mlflow = trained[0], client(trained[0])
    version = mlflow.get_model_version("tumour", "1")
    parameters = mlflow.get_run(version.run_id).data.params
    assert parameters["search_trials"] == "0"
    assert parameters["winner"] in ("logistic-regression", "random-forest", "naive-bayes")
    assert len([name for name in parameters if name.startswith("winner.")]) >= 2, (
        "the parameters that made it"
    )
    done = stack.greenroom("reproduce", "tumour", "1", GREENROOM_CATALOG_PATH=str(folder))
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert "tumour version 1 is the same to the byte: sha256:" in done.stdout
    declared = (folder / "tumours.py").read_text()
    changed = declared.replace('.LogisticRegression")', '.LogisticRegression", params={"C": 0.1})')
    changed = changed.replace('"min_samples_leaf": 10', '"min_samples_leaf": 9')
    changed = changed.replace('.GaussianNB")', '.GaussianNB", params={"var_smoothing": 0.1})')
    assert changed.count("params=") == 3
    (tmp_path / "tumours.py").write_text(changed)
    shutil.copy(folder / "tumours.parquet", tmp_path)
    done = stack.greenroom("reproduce", "tumour", "1", GREENROOM_CATALOG_PATH=str(tmp_path))
    assert done.returncode == 1, done.stdout + done.stderr
    assert "tumour version 1 is another file: signed sha256:" in done.stdout
    tumours().head(500).to_parquet(tmp_path / "tumours.parquet")
    done = stack.greenroom("reproduce", "tumour", "1", GREENROOM_CATALOG_PATH=str(tmp_path))
    assert done.returncode == 2, done.stdout + done.stderr
    assert "table or its declaration changed" in " ".join(done.stderr.split())
    done = stack.greenroom("reproduce", "tumour", "9", GREENROOM_CATALOG_PATH=str(folder))
    assert done.returncode == 2, done.stdout + done.stderr
    assert "has no version 9" in done.stderr
    assert len(mlflow.search_model_versions("name = 'tumour'")) == 1


def test_artifacts_hold_reports_pictures_and_both_forms_of_the_model(trained: tuple[Stack, str]) -> None:
    mlflow = client(trained[0])
    version = mlflow.get_model_version("tumour", "1")
    gate = {item.path: item.file_size for item in mlflow.list_artifacts(version.run_id, "gate")}
    assert {"gate/verdict.json", "gate/model_evaluation.html", "gate/data_integrity.html"} <= set(gate)
    assert all(size for size in gate.values())
    pictures = {item.path for item in mlflow.list_artifacts(version.run_id, "pictures")}
    assert pictures == {
        "pictures/calibration-curve.png",
        "pictures/confusion-matrix.png",
        "pictures/feature-importance.png",
        "pictures/learning-curve.png",
    }
    models = mlflow.search_logged_models([mlflow.get_run(version.run_id).info.experiment_id])
    forms = {model.name: model for model in models if model.source_run_id == version.run_id}
    assert set(forms) == {"model", "sklearn-model"}
    linked = {metric.key: metric for metric in forms["model"].metrics}
    assert linked["test_balanced_accuracy"].dataset_name == "tumours-held-out"
    assert linked["onnx_label_agreement"].value >= 0.995
    assert version.source == f"models:/{forms['model'].model_id}"


def test_prefect_shows_the_flow_run(trained: tuple[Stack, str]) -> None:
    url = f"{trained[0].prefect_url}/api/flow_runs/filter"
    answer = httpx.post(url, json={"limit": 50}, auth=trained[0].prefect_login).json()
    states = {run["name"]: run["state_type"] for run in answer}
    assert states["train-tumour"] == "COMPLETED"


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[webdriver.Chrome]:
    """Chromium as Debian ships it."""
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not program or not driver:
        pytest.skip("needs chromium and chromedriver on this machine")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in (
        *("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-quic"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        *(f"--user-data-dir={tmp_path}", "--window-size=1500,900"),
    ):
        options.add_argument(flag)
    found = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        yield found
    finally:
        found.quit()


def test_people_see_runs_reports_and_flows(trained: tuple[Stack, str], browser: webdriver.Chrome) -> None:
    """What the two UIs show: the report opens with its figures, the flow run is there."""
    stack, _ = trained
    version = client(stack).get_model_version("tumour", "1")
    experiment = client(stack).get_run(version.run_id).info.experiment_id
    wait = WebDriverWait(browser, 60)
    page = f"{stack.tracking_url}/#/experiments/{experiment}/runs/{version.run_id}"
    browser.get(f"{page}/artifacts/gate/model_evaluation.html")
    wait.until(lambda b: b.find_elements("tag name", "iframe"))
    browser.switch_to.frame(browser.find_element("tag name", "iframe"))
    wait.until(lambda b: "Simple Model Comparison" in b.find_element("tag name", "body").text)
    wait.until(lambda b: b.find_elements("css selector", ".js-plotly-plot svg"))
    browser.switch_to.default_content()
    browser.get(f"{stack.tracking_url}/#/models/tumour/versions/1")
    wait.until(lambda b: "naive baseline" in b.find_element("tag name", "body").text)

    url = f"{stack.prefect_url}/api/flow_runs/filter"
    flows = httpx.post(url, json={"limit": 50}, auth=stack.prefect_login).json()
    run = next(run for run in flows if run["name"] == "train-tumour" and run["state_type"] == "COMPLETED")
    link = next(word for word in stack.greenroom("status").stdout.split() if word.startswith("file://"))
    browser.get(link)
    wait.until(lambda b: b.execute_script("return localStorage.getItem('prefect-password')"))
    browser.get(f"{stack.prefect_url}/runs/flow-run/{run['id']}")
    wait.until(lambda b: "Completed" in b.find_element("tag name", "body").text)
    assert "train-tumour" in browser.find_element("tag name", "body").text


def test_a_model_that_learned_nothing_is_registered_but_not_promoted(
    trained: tuple[Stack, str], folder: Path, tmp_path: Path
) -> None:
    """Shuffled labels: the gate refuses, and no command lets the version through."""
    stack, _ = trained
    shutil.copy(folder / "tumours.py", tmp_path)
    table = tumours()
    table["diagnosis"] = table["diagnosis"].sample(frac=1, random_state=3).to_numpy()
    table.to_parquet(tmp_path / "tumours.parquet")
    catalogue = str(tmp_path)
    done = stack.greenroom("train", "tumour", "--promote", GREENROOM_CATALOG_PATH=catalogue)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "REFUSED" in done.stdout
    assert "SimpleModelComparison failed" in done.stdout
    mlflow = client(stack)
    newest = max(mlflow.search_model_versions("name = 'tumour'"), key=lambda v: int(v.version))
    assert newest.current_stage == "None"
    assert newest.tags["greenroom.gate"] == "refused"
    assert "The gate refused this model: it is not for use." in newest.description
    assert "check.IncumbentComparison" in mlflow.get_run(newest.run_id).data.tags

    for stage in ("Staging", "Production"):
        refused = stack.greenroom(
            "promote", "tumour", newest.version, "--to", stage, GREENROOM_CATALOG_PATH=catalogue
        )
        assert refused.returncode == 1
        assert f"Greenroom refused: The gate refused tumour version {newest.version}" in refused.stderr
        assert "SimpleModelComparison" in refused.stderr
    gate = stack.greenroom("gate", "tumour", newest.version, GREENROOM_CATALOG_PATH=catalogue)
    assert gate.returncode == 1
    assert mlflow.get_model_version("tumour", "1").current_stage == "Production"


def finish(stack: Stack, name: str, catalogue: str) -> "subprocess.CompletedProcess[str]":
    """Do what `up` does about models, for one of them."""
    code = (
        "import sys; from infra.local import stack; from catalog import loader;"
        "only = {sys.argv[1]: loader.get_model(sys.argv[1])}; stack.load_catalog = lambda: only;"
        "assert stack.train_what_is_missing(print)"
    )
    environment = {**stack.environment, "GREENROOM_CATALOG_PATH": catalogue}
    return subprocess.run(
        [str(warm_python()), "-c", code, name], env=environment, capture_output=True, text=True, check=False
    )


def test_up_trains_nothing_twice(trained: tuple[Stack, str], folder: Path) -> None:
    """`up` with a catalogue of which every model has a version starts no training."""
    stack, _ = trained
    before = len(client(stack).search_model_versions("name = 'tumour'"))
    done = finish(stack, "tumour", str(folder))
    assert done.returncode == 0, done.stderr
    assert "Training" not in done.stdout
    assert len(client(stack).search_model_versions("name = 'tumour'")) == before


@pytest.fixture(scope="module")
def unsigned(
    trained: tuple[Stack, str], folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> "tuple[Stack, str, subprocess.CompletedProcess[str]]":
    """Another model, trained to be promoted where the gate's key is not at hand."""
    stack, _ = trained
    catalogue = tmp_path_factory.mktemp("unsigned")
    declared = (folder / "tumours.py").read_text().replace('name="tumour"', 'name="tumour-cut"')
    (catalogue / "tumours.py").write_text(declared)
    shutil.copy(folder / "tumours.parquet", catalogue)
    done = stack.greenroom(
        "train",
        "tumour-cut",
        "--promote",
        GREENROOM_CATALOG_PATH=str(catalogue),
        GREENROOM_GATE_KEY=str(catalogue / "nothing.pem"),
    )
    return stack, str(catalogue), done


def test_training_that_could_not_promote_does_not_end_well(
    unsigned: "tuple[Stack, str, subprocess.CompletedProcess[str]]",
) -> None:
    assert unsigned[2].returncode == 2


def test_training_that_was_cut_short_before_its_evidence_is_finished_by_up(
    unsigned: "tuple[Stack, str, subprocess.CompletedProcess[str]]",
) -> None:
    """Where the gate cannot sign, a version is registered and stays below; `up` asks the gate again."""
    stack, catalogue, done = unsigned
    assert "There is no gate key to sign with" in done.stdout + done.stderr
    found = client(stack).get_model_version("tumour-cut", "1")
    assert found.current_stage == "None"
    assert not {"greenroom.gate", "greenroom.evidence"} & set(found.tags)

    done = finish(stack, "tumour-cut", catalogue)
    assert done.returncode == 0, done.stderr
    assert "Training tumour-cut" in done.stdout
    assert len(client(stack).search_model_versions("name = 'tumour-cut'")) == 1
    found = client(stack).get_model_version("tumour-cut", "1")
    assert (found.current_stage, found.tags["greenroom.gate"]) == ("Production", "passed")


def test_training_again_is_compared_with_what_is_in_production(
    trained: tuple[Stack, str], folder: Path
) -> None:
    """The same data and seeds make an equal model, which takes the place of the first."""
    stack, _ = trained
    done = stack.greenroom("train", "tumour", "--promote", GREENROOM_CATALOG_PATH=str(folder))
    assert done.returncode == 0, done.stdout + done.stderr
    mlflow = client(stack)
    newest = max(mlflow.search_model_versions("name = 'tumour'"), key=lambda v: int(v.version))
    assert newest.current_stage == "Production"
    assert mlflow.get_model_version("tumour", "1").current_stage == "Archived"
    run = mlflow.get_run(newest.run_id).data
    assert run.tags["check.IncumbentComparison"] == "passed"
    assert run.metrics["check.IncumbentComparison"] == 0
    assert "| IncumbentComparison | required | passed |" in run.tags["mlflow.note.content"]
    with TrackingClient(RegistrySettings(tracking_uri=stack.tracking_url)) as tracking:
        registry = Registry(tracking)
        verdict = registry.verdict(registry.version("tumour", int(newest.version)))
        evidence = registry.evidence(registry.version("tumour", int(newest.version)), key_settings(stack))
        assert verdict.incumbent == evidence.incumbent == registry.identity(registry.version("tumour", 1))
        last = audit_log.history(tracking, "tumour")
    promoted = [row for row in last if row.action == "promoted"][-1]
    assert (promoted.version, promoted.incumbent) == (int(newest.version), 1)
    (compared,) = [o for o in verdict.outcomes if o.check == "IncumbentComparison"]
    assert "of version 1 in Production" in compared.reason
    shown = stack.greenroom(
        "gate", "tumour", newest.version, "--markdown", GREENROOM_CATALOG_PATH=str(folder)
    )
    assert shown.returncode == 0, shown.stderr
    assert "compared with version 1 in Production" in shown.stdout
