"""Several models at once, by the command line: two are promoted, one is refused, one cannot be trained.

Those that are promoted are the catalogue's clustering and similarity, under other names: from their training
to their answers, through the same gate, registry and predictor as any other.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from mlflow import MlflowClient

from flows.training.outcome import TrainingOutcome, TrainingResult, exit_code
from flows.training.parallel import train_in_parallel
from tests.conftest import Stack
from tests.stack_predictor import own_predictor, served
from tests.waiting import until

SOUNDS, KIN, REFUSED, BROKEN = "zz-clusters", "zz-similar", "zz-refused", "zz-broken"
_AS = """
from catalog.models.{base} import MODEL as BASE

MODEL = BASE.model_copy(update={{"name": "{name}", {change}}})
"""
# Only Greenroom's own check, so that DeepChecks need not start.
_STRICT = """
from catalog.models.clusters import MODEL as BASE
from catalog.spec import GatePolicy

own = next(c for c in BASE.gate.checks if c.check == "ClusterSilhouette")
policy = GatePolicy(checks=(own.model_copy(update={"condition_params": {"threshold": 0.9}}),))
MODEL = BASE.model_copy(
    update={"name": "zz-refused", "gate": policy, "candidates": BASE.candidates[:1]}
)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("several")
    for name, base, change in (
        (SOUNDS, "clusters", '"candidates": BASE.candidates[:2]'),
        (KIN, "similar", ""),
        (
            BROKEN,
            "clusters",
            '"dataset": BASE.dataset.model_copy(update={"source": "/nowhere/tracks.parquet"})',
        ),
    ):
        (found / f"{base}_{name[3:]}.py").write_text(_AS.format(base=base, name=name, change=change))
    (found / "strict.py").write_text(_STRICT)
    return found


@pytest.fixture(scope="module")
def trained(stack: Stack, folder: Path) -> tuple[Stack, str]:
    """All four trained by one command, and what it printed."""
    names = (SOUNDS, BROKEN, REFUSED, KIN)
    done = stack.greenroom("train", *names, "--promote", GREENROOM_CATALOG_PATH=str(folder), COLUMNS="160")
    assert done.returncode == 2, done.stdout + done.stderr
    return stack, done.stdout


@pytest.fixture(scope="module")
def serving(
    trained: tuple[Stack, str], folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The address of a predictor with their catalogue."""
    home = tmp_path_factory.mktemp("predictor") / "home"
    with own_predictor(trained[0], home, (SOUNDS, KIN), GREENROOM_CATALOG_PATH=str(folder)) as url:
        yield url


def client(stack: Stack) -> MlflowClient:
    return MlflowClient(tracking_uri=stack.tracking_url, registry_uri=stack.tracking_url)


def row_of(output: str, model: str) -> list[str]:
    """The cells of a model's row in the table that the command ends with."""
    lines = output[output.rindex("Trained") :].splitlines()
    return [cell.strip() for cell in next(line for line in lines if line.startswith(model)).split("│")]


@pytest.mark.slow
def test_the_table_names_each_outcome(trained: tuple[Stack, str]) -> None:
    _, output = trained
    assert row_of(output, SOUNDS)[1:3] == ["promoted", "1"]
    assert row_of(output, SOUNDS)[3].startswith("silhouette 0.2")
    assert row_of(output, KIN)[1:3] == ["promoted", "1"]
    assert row_of(output, KIN)[3].startswith("agreement_at_10 0.4")
    score, naive = row_of(output, SOUNDS)[3:5]
    low, high = (float(end) for end in score.split("(")[1].removesuffix(")").split(" to "))
    assert low <= float(score.split()[1]) <= high
    assert float(naive) < low
    refused, broken = row_of(output, REFUSED), row_of(output, BROKEN)
    assert refused[1:3] == ["refused", "1"]
    assert "ClusterSilhouette failed: the mean silhouette" in refused[5]
    assert broken[1:5] == ["failed", "-", "-", "-"]
    assert "DataError" in broken[5]
    assert "there is no file" in broken[5]


@pytest.mark.slow
def test_what_failed_or_was_refused_is_in_no_stage(trained: tuple[Stack, str]) -> None:
    mlflow = client(trained[0])
    assert mlflow.get_model_version(REFUSED, "1").current_stage == "None"
    assert not mlflow.search_registered_models(f"name = '{BROKEN}'")
    for name in (SOUNDS, KIN):
        assert mlflow.get_model_version(name, "1").current_stage == "Production"


@pytest.mark.slow
def test_runs_hold_candidates_metrics_reports_and_pictures(trained: tuple[Stack, str]) -> None:
    mlflow = client(trained[0])
    for name, candidates, metrics, picture in (
        (SOUNDS, 2, {"test_silhouette", "check.ClusterSilhouette", "check.ClusterStability"}, "clusters.png"),
        (
            KIN,
            2,
            {"test_agreement_at_10", "check.NeighbourRecall", "check.NeighbourStability"},
            "neighbours.png",
        ),
    ):
        run = mlflow.get_run(mlflow.get_model_version(name, "1").run_id)
        assert metrics <= set(run.data.metrics)
        assert run.data.tags["greenroom.gate"] == "passed"
        parent = f"tags.mlflow.parentRunId = '{run.info.run_id}'"
        assert len(mlflow.search_runs([run.info.experiment_id], parent)) == candidates
        reports = {Path(one.path).name for one in mlflow.list_artifacts(run.info.run_id, "gate")}
        assert {
            "verdict.json",
            "data_integrity.html",
            "train_test_validation.html",
            "test.parquet",
        } <= reports
        assert picture in {Path(one.path).name for one in mlflow.list_artifacts(run.info.run_id, "pictures")}
        assert run.inputs.dataset_inputs
        if name == KIN:
            assert run.data.metrics["check.NeighbourRecall"] == 1.0


@pytest.mark.slow
def test_the_predictor_answers_with_them(serving: str) -> None:
    sound = {
        **{"acousticness": 0.95, "danceability": 0.3, "energy": 0.05, "instrumentalness": 0.0},
        **{"loudness": -20.0, "speechiness": 0.03, "valence": 0.3},
    }
    answer = httpx.post(f"{serving}/api/cluster?model={SOUNDS}", json=sound).json()
    assert (answer["model"], answer["version"]) == (SOUNDS, 1)
    assert "acoustic" in answer["label"]
    track = {"track_id": "5sICkBXVmaCQk5aISGR3x1", "k": 3}
    found = httpx.post(f"{serving}/api/similar?model={KIN}", json=track).json()
    assert (found["model"], found["version"]) == (KIN, 1)
    assert len(found["neighbours"]) == 3
    unknown = httpx.post(f"{serving}/api/similar?model={KIN}", json={"track_id": "nobody's"})
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "unknown_id")


@pytest.mark.slow
def test_the_other_commands_know_them(trained: tuple[Stack, str], folder: Path) -> None:
    stack, _ = trained
    catalogue = {"GREENROOM_CATALOG_PATH": str(folder)}
    gate = stack.greenroom("gate", KIN, "1", "--json", **catalogue)
    assert gate.returncode == 0, gate.stdout + gate.stderr
    checks = {one["check"]: one["status"] for one in json.loads(gate.stdout)["verdict"]["outcomes"]}
    assert checks["NeighbourRecall"] == checks["FeatureDrift"] == "passed"
    refused = stack.greenroom("gate", REFUSED, "1", **catalogue)
    assert refused.returncode == 1
    promoted = stack.greenroom("promote", REFUSED, "1", "--to", "Staging", **catalogue)
    assert promoted.returncode == 1
    assert "The gate refused zz-refused version 1" in promoted.stderr
    history = stack.greenroom("history", SOUNDS, **catalogue)
    assert history.returncode == 0, history.stdout + history.stderr
    assert "Production" in history.stdout


@pytest.mark.slow
def test_a_second_version_is_compared_with_the_first_and_takes_its_place(
    trained: tuple[Stack, str], serving: str, folder: Path
) -> None:
    stack, _ = trained
    catalogue = {"GREENROOM_CATALOG_PATH": str(folder)}
    done = stack.greenroom("train", SOUNDS, "--promote", **catalogue)
    assert done.returncode == 0, done.stdout + done.stderr
    gate = stack.greenroom("gate", SOUNDS, "2", "--json", **catalogue)
    outcomes = {one["check"]: one for one in json.loads(gate.stdout)["verdict"]["outcomes"]}
    assert outcomes["IncumbentComparison"]["status"] == "passed"
    assert outcomes["IncumbentComparison"]["value"] == 0.0  # the same rows and seed: the same model
    until(lambda: served(serving)[SOUNDS] == 2, "version 2 is not served")
    diff = stack.greenroom("diff", SOUNDS, "1", "2", **catalogue)
    assert diff.returncode == 0, diff.stdout + diff.stderr
    back = stack.greenroom("rollback", SOUNDS, "--reason", "a test", **catalogue)
    assert back.returncode == 0, back.stdout + back.stderr
    until(lambda: served(serving)[SOUNDS] == 1, "version 1 is not served again")


def outcome(stage: str = "Production", refusals: tuple[str, ...] = ()) -> TrainingOutcome:
    return TrainingOutcome("m", 1, "best", "r2", 0.5, not refusals, stage, refusals)


def test_how_it_ended_in_one_word_and_as_an_exit_code(tmp_path: Path) -> None:
    ended = {
        "promoted": TrainingResult("m", outcome()),
        "passed": TrainingResult("m", outcome("None")),
        "refused": TrainingResult("m", outcome("None", ("FeatureDrift failed: 0.4",))),
        "failed": TrainingResult("m", problem="DataError: no file"),
    }
    assert {word: one.result for word, one in ended.items()} == {word: word for word in ended}
    for one in ended.values():
        one.write(tmp_path / "told.json")
        assert TrainingResult.read(tmp_path / "told.json") == one
    assert exit_code([ended["promoted"], ended["passed"]]) == 0
    assert exit_code([ended["promoted"], ended["refused"]]) == 1
    assert exit_code([ended["refused"], ended["failed"]]) == 2


def test_a_process_that_dies_is_a_failure_of_its_model_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"
    written = json.dumps({"model": "well", "outcome": None, "problem": "said so"})
    python.write_text(
        "#!/bin/sh\n"
        'if [ "$3" = killed ]; then kill -9 $$; fi\n'
        'if [ "$3" = silent ]; then exit 3; fi\n'
        f"for told; do :; done; echo '{written}' > \"$told\"\n"
    )
    python.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(python))
    killed, silent, well = train_in_parallel(["killed", "silent", "well"], promote=True, jobs=2)
    assert (killed.result, silent.result, well.result) == ("failed", "failed", "failed")
    assert "signal SIGKILL" in killed.problem
    assert "exit code 3" in silent.problem
    assert well.problem == "said so"
