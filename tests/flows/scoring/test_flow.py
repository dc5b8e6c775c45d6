"""`greenroom score` from S3 to S3 with the version in Production, killed at random points and run again.

`make kill-score KILLS=20` kills it as often as that; here it is once.
"""

import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from uuid import uuid4

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catalog.loader import get_model
from flows.scoring import manifest
from flows.scoring import plan as plans
from flows.scoring.flow import pin_version, prepare_plan
from flows.scoring.plan import PLAN, SUCCESS
from flows.scoring.storage import S3Store, open_store
from registry.client.tracking_client import TrackingClient
from registry.errors import EvidenceBytesError, NotFoundError
from registry.model_format.onnx_model import OnnxModel
from tests.conftest import Stack
from tests.flows.support.scoring import DECLARE, GENRE, expected, tracks
from tests.ports import free_port
from tests.serving.support.onnx_parts import classifier, publish
from tests.waiting import until

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("SCORE_KILLS", "1"))
# More partitions for more kills: a run is killed between any two of them.
ROWS, GROUP = (3_000 if KILLS > 5 else 1_200), 100
CONSTANTS = {"flows.scoring.plan.PARTITION_ROWS": GROUP}


@pytest.fixture(scope="module")
def name() -> str:
    return f"scored-{uuid4().hex[:8]}"


@pytest.fixture(scope="module")
def one(stack: Stack, name: str) -> OnnxModel:
    """A small classifier, in Production."""
    proto = classifier(GENRE.features)
    publish(stack, {name: proto})
    return OnnxModel(proto.SerializeToString())


@pytest.fixture(scope="module")
def settings(stack: Stack, name: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What a command is told."""
    declared = tmp_path_factory.mktemp("catalogue") / "scored.py"
    declared.write_text(DECLARE.format(name=name))
    return {
        "GREENROOM_CATALOG_PATH": str(declared),
        "GREENROOM_SCORE_WORKERS": "1",
    }


@pytest.fixture
def at_home(stack: Stack, settings: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GREENROOM_HOME", str(stack.home))
    monkeypatch.setenv("GREENROOM_MLFLOW_PORT", str(stack.ports["MLFLOW"]))
    monkeypatch.setenv("GREENROOM_CATALOG_PATH", settings["GREENROOM_CATALOG_PATH"])


@pytest.fixture
def base(at_home: None) -> S3Store:
    """A prefix of the test's own."""
    found = open_store(f"s3://greenroom/tests/score/{uuid4().hex}")
    assert isinstance(found, S3Store)
    return found


def upload(where: S3Store, frames: dict[str, pd.DataFrame], group: int = GROUP) -> None:
    for key, frame in frames.items():
        file = io.BytesIO()
        pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), file, row_group_size=group)
        file.seek(0)
        assert where.put_new(key, file)


def results(where: S3Store) -> pd.DataFrame:
    """Every row of every partition, whatever wrote it."""
    tables = [
        pq.read_table(io.BytesIO(where.read(one.name) or b""))
        for one in where.list()
        if one.name.endswith(".parquet")
    ]
    found: pd.DataFrame = pa.concat_tables(tables).to_pandas()
    return found.sort_values(["source", "row"], ignore_index=True)


def test_rows_of_a_bucket_are_scored_each_once_and_the_broken_ones_marked(
    stack: Stack, name: str, one: OnnxModel, settings: dict[str, str], base: S3Store
) -> None:
    good, bad = tracks(250, 1), tracks(100, 2)
    bad.loc[[3, 4], "tempo"] = 1e9
    upload(base, {"in/a.parquet": good, "in/day=2/b.parquet": bad})
    source, to = f"{base.uri}/in", f"{base.uri}/out"
    variables = {**settings, "GREENROOM_SCORE_WORKERS": "2"}
    done = stack.greenroom("score", name, source, "--to", to, constants=CONSTANTS, **variables)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert f"350 rows scored by {name} version 1, 2 of them without an answer; 4 partitions" in done.stdout
    assert "2 rows: tempo: Input should be less than or equal to 300" in done.stdout

    found = results(open_store(to))  # type: ignore[arg-type]
    assert found["source"].tolist() == ["a.parquet"] * 250 + ["day=2/b.parquet"] * 100
    assert found["track_id"].tolist() == [*good["track_id"], *bad["track_id"]]
    answered = found["reason"].isna()
    assert list(found.index[~answered]) == [253, 254]
    rows = pd.concat([good, bad], ignore_index=True)[answered]
    labels, shares = expected(one, rows)
    assert found["prediction"][answered].tolist() == labels
    written = found.loc[answered, [f"probability_{label}" for label in one.description.classes]]
    np.testing.assert_array_equal(written.to_numpy(), shares)
    assert found[["model", "version", "digest"]].drop_duplicates().to_numpy().tolist() == [
        [name, 1, one.digest]
    ]
    manifest = json.loads(open_store(to).read(SUCCESS) or b"")
    assert (manifest["rows"], manifest["rejected"], manifest["digest"]) == (350, 2, one.digest)


def test_over_the_limit_is_exit_code_1_and_can_be_allowed(
    stack: Stack, name: str, one: OnnxModel, settings: dict[str, str], base: S3Store
) -> None:
    upload(base, {"in/a.parquet": tracks(100).assign(tempo=0.0)})
    command = ("score", name, f"{base.uri}/in", "--to", f"{base.uri}/out")
    # The first time on somebody else's cluster, whose workers have the same settings.
    done, seen = _on_a_cluster(stack, command, settings)
    assert done.returncode == 1, done.stdout + done.stderr
    assert seen, "no task came to the cluster"
    assert "100 of 100 rows break the contract" in done.stderr
    assert open_store(f"{base.uri}/out").find(SUCCESS) is None
    done = stack.greenroom(*command, "--max-rejected", "1", **settings)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 partitions, 1 of them there before" in done.stdout


def _on_a_cluster(
    stack: Stack, command: tuple[str, ...], settings: dict[str, str]
) -> tuple["subprocess.CompletedProcess[str]", bool]:
    """Run a command with a scheduler's address; return how it ended, and whether a worker there did work."""
    address = f"tcp://127.0.0.1:{free_port()}"
    log = stack.home / "logs" / "dask-of-a-test.log"
    host, port = "127.0.0.1", address.rpartition(":")[2]
    scratch = ("--nthreads", "1", "--local-directory", str(log.parent))
    with log.open("wb") as output:
        begun = [
            subprocess.Popen(
                [sys.executable, "-m", f"distributed.cli.dask_{kind}", *arguments, "--no-dashboard"],
                env={**stack.environment, **settings},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
            for kind, arguments in (
                ("scheduler", ("--host", host, "--port", port)),
                ("worker", (address, *scratch)),
            )
        ]
        try:
            done = stack.greenroom(*command, **{**settings, "GREENROOM_DASK_SCHEDULER": address})
        finally:
            for process in begun:
                os.killpg(process.pid, signal.SIGTERM)
                process.wait(30)
    return done, "Receive client connection: PrefectDaskClient" in log.read_text()


def test_what_cannot_be_scored_is_exit_code_2_and_writes_nothing(
    stack: Stack, name: str, settings: dict[str, str], base: S3Store
) -> None:
    upload(base, {"in/a.parquet": tracks(10).drop(columns=["tempo"])})
    done = stack.greenroom("score", name, f"{base.uri}/in", "--to", f"{base.uri}/out", **settings)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "lacks the columns tempo" in done.stderr
    assert list(open_store(f"{base.uri}/out").list()) == []


class Job:
    """The command, in a session of its own, so that all its processes can be found and killed."""

    def __init__(self, stack: Stack, arguments: tuple[str, ...], settings: dict[str, str]) -> None:
        command = [sys.executable, "-m", "tests.constants", json.dumps(CONSTANTS), "score", *arguments]
        environment = {**stack.environment, **settings}
        self.process = subprocess.Popen(
            command,
            env=environment,
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def members(self) -> list[psutil.Process]:
        """Every process of the session that lives."""
        found = []
        for process in psutil.process_iter():
            try:
                if os.getsid(process.pid) == self.process.pid and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (psutil.Error, OSError):
                continue
        return found

    def kill(self, *, leader_alone: bool) -> None:
        """Kill it, with no chance to clean up, and wait until nothing of it is left."""
        if leader_alone:
            self.process.kill()
        else:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(30)
        if self.process.stdout:
            self.process.stdout.close()
        until(lambda: not self.members(), lambda: f"survived: {[one.cmdline() for one in self.members()]}")


def consistent(where: S3Store) -> int:
    """Hold what is there against the plan; return how many partitions there are."""
    if where.find(PLAN) is None:
        assert list(where.list()) == []
        return 0
    plan, plan_digest = plans.existing_plan(where) or pytest.fail("no plan")
    done = manifest.finished_partitions(where, plan, plan_digest)
    names = {one.name for one in where.list()} - {PLAN, SUCCESS}
    assert names == {plans.partition_name(part) for part in done}
    if where.find(SUCCESS):
        assert manifest.read_manifest(where, plan, plan_digest) is not None
    return len(done)


def test_killed_at_random_points_and_run_again_each_row_is_there_once(
    stack: Stack, name: str, one: OnnxModel, settings: dict[str, str], base: S3Store
) -> None:
    frame = tracks(ROWS)
    upload(base, {"in/a.parquet": frame})
    parts = ROWS // GROUP
    draw = random.Random(int(os.environ.get("SCORE_KILL_SEED", "7")))
    seen: list[str] = []
    for kill in range(KILLS):
        if kill % 5 == 0:
            where = open_store(f"{base.uri}/out-{kill}")
            assert isinstance(where, S3Store)
        arguments = (name, f"{base.uri}/in", "--to", where.uri)
        # Any moment from the first thing that is written to the last, and now and then before it.
        have = len(list(where.list()))
        goal = draw.randrange(have, parts + 2) if draw.random() < 0.8 else 0
        job = Job(stack, arguments, settings)
        until(
            lambda: job.process.poll() is not None or len(list(where.list())) >= goal,  # noqa: B023
            "it does not go on",
            seconds=300,
        )
        time.sleep(draw.uniform(0, 8 if goal == 0 else 0.4))
        job.kill(leader_alone=kill % 3 == 1)
        there = consistent(where)
        seen.append(f"{there} of {parts}")
        if kill % 5 == 4 or kill == KILLS - 1:
            done = stack.greenroom("score", *arguments, constants=CONSTANTS, **settings)
            assert done.returncode == 0, done.stdout + done.stderr
            assert f"{parts} partitions, {there} of them there before" in done.stdout
            assert consistent(where) == parts
            found = results(where)
            assert found["row"].tolist() == list(range(ROWS))
            assert found["prediction"].tolist() == expected(one, frame)[0]
    print("partitions there after each kill:", ", ".join(seen))  # noqa: T201 - for `make kill-score`


def test_a_job_goes_on_with_the_version_that_it_began_with(
    stack: Stack, name: str, one: OnnxModel, base: S3Store
) -> None:
    upload(base, {"in/a.parquet": tracks(100)})
    spec = get_model(name)
    first = prepare_plan.fn(spec, f"{base.uri}/in", f"{base.uri}/out", (), 100)
    assert (first[0].version, first[0].digest) == (1, one.digest)
    # Twice the same training would be the same file: the features come in another order.
    other = publish(stack, {name: classifier(tuple(reversed(GENRE.features)))})[name]
    assert prepare_plan.fn(spec, f"{base.uri}/in", f"{base.uri}/out", (), 100) == first
    assert pin_version.fn(spec, first[0].version).digest == one.digest
    assert pin_version.fn(spec, None).version == other.number == 2

    with TrackingClient() as client:
        uri = client.get("model-versions/get-download-uri", {"name": name, "version": 2})["artifact_uri"]
        client.put_artifact(uri, "model.onnx", classifier(GENRE.features[:3]).SerializeToString())
    with pytest.raises(EvidenceBytesError, match="exchanged"):
        pin_version.fn(spec, None)
    with pytest.raises(EvidenceBytesError, match="exchanged"):
        prepare_plan.fn(spec, f"{base.uri}/in", f"{base.uri}/another", (), 100)
    assert list(open_store(f"{base.uri}/another").list()) == []
    absent = spec.model_copy(update={"name": f"{name}-absent"})
    with pytest.raises(NotFoundError, match="no version in Production"):
        pin_version.fn(absent, None)
