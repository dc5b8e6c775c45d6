"""Results of one partition are what the predictor would answer to each row; broken rows are marked."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catalog.loader import get_model
from catalog.spec import ModelSpec
from checks.data import cleaning, sources
from checks.errors import DataError
from flows.modeling import candidates, onnx_export
from flows.scoring import manifest, partition
from flows.scoring import plan as plans
from flows.scoring.partition import Scorer, write_partition
from flows.scoring.plan import PinnedVersion, make_plan
from flows.scoring.storage import LocalStore
from registry.model_format.onnx_model import OnnxModel
from tests.flows.support.scoring import expected, model, plan_of, tracks, write
from tests.serving.support.onnx_parts import divides_by_zero, regression


@pytest.fixture(scope="module")
def one() -> OnnxModel:
    return model()


def results(one: OnnxModel, frame: pd.DataFrame, folder: Path, **options: Any) -> pd.DataFrame:
    """Score a frame in one partition and return what was written."""
    write(frame, folder / "in" / "rows.parquet", 30)
    out = LocalStore(folder / "out")
    plan, plan_digest = plans.write_plan(out, plan_of(one, folder / "in", rows=10**6, **options))
    write_partition(Scorer(plan, one), out, plan_digest, 0)
    table: pd.DataFrame = pq.read_table(folder / "out" / "part-00000.parquet").to_pandas()
    return table


def test_each_row_has_what_the_model_says_of_it(one: OnnxModel, tmp_path: Path) -> None:
    frame = tracks(200)
    found = results(one, frame, tmp_path)
    labels, shares = expected(one, frame)
    assert found["prediction"].tolist() == labels
    written = found[[f"probability_{name}" for name in one.description.classes]].to_numpy()
    np.testing.assert_array_equal(written, shares)
    assert found["row"].tolist() == list(range(200))
    assert found["track_id"].tolist() == frame["track_id"].tolist()
    assert set(found["source"]) == {"rows.parquet"}
    about = found[["model", "version", "digest"]].drop_duplicates().to_numpy().tolist()
    assert about == [["genre", 3, one.digest]]
    assert found["reason"].isna().all()


def test_batches_and_blocks_change_nothing(
    one: OnnxModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = results(one, tracks(100), tmp_path / "whole")
    monkeypatch.setattr(partition, "_BATCH", 17)
    monkeypatch.setattr(partition, "_BLOCK", 5)
    pd.testing.assert_frame_equal(results(one, tracks(100), tmp_path / "parts"), whole)


def test_broken_rows_are_marked_and_the_others_scored(one: OnnxModel, tmp_path: Path) -> None:
    frame = tracks(6)
    frame["key"] = frame["key"].astype("Int64")
    frame.loc[1, "tempo"] = 1000.0
    frame.loc[2, "energy"] = np.nan
    frame.loc[4, "key"] = pd.NA
    found = results(one, frame, tmp_path)
    assert found["reason"].notna().tolist() == [False, True, True, False, True, False]
    assert found["reason"][1].startswith("tempo: ")
    assert found["reason"][4] == "key: Input should be a valid integer"
    answered = found[found["reason"].isna()]
    whole = frame[found["reason"].isna()].astype({"key": "int64"})
    assert answered["prediction"].tolist() == expected(one, whole)[0]
    assert found.loc[[1, 2, 4], "prediction"].isna().all()
    assert found.loc[[1, 2, 4], "probability_rock"].isna().all()
    assert found["row"].tolist() == list(range(6))
    note = manifest.check_partition(
        LocalStore(tmp_path / "out"),
        *plans.existing_plan(LocalStore(tmp_path / "out")),  # type: ignore[misc]
        0,
        LocalStore(tmp_path / "out").find("part-00000.parquet"),  # type: ignore[arg-type]
    )
    assert (note.rows, note.rejected, sum(note.reasons.values())) == (6, 3, 3)


def test_a_partition_of_broken_rows_alone_is_written(one: OnnxModel, tmp_path: Path) -> None:
    found = results(one, tracks(3).assign(tempo=0.0), tmp_path)
    assert found["prediction"].isna().all()
    assert len(found) == 3


def test_the_same_rows_make_the_same_bytes(one: OnnxModel, tmp_path: Path) -> None:
    """Where an S3 server ignores conditions, a second try must not change what is there."""
    write(tracks(100), tmp_path / "in" / "a.parquet", 40)
    plan = plan_of(one, tmp_path / "in", rows=10**6)
    outs = [LocalStore(tmp_path / name) for name in ("one", "two")]
    for out in outs:
        write_partition(Scorer(plan, one), out, "sha256:0", 0)
    assert outs[0].read("part-00000.parquet") == outs[1].read("part-00000.parquet")


def test_a_second_try_leaves_what_is_there(one: OnnxModel, tmp_path: Path) -> None:
    write(tracks(10), tmp_path / "in" / "a.parquet", 40)
    plan, out = plan_of(one, tmp_path / "in"), LocalStore(tmp_path / "out")
    first = write_partition(Scorer(plan, one), out, "sha256:0", 0)
    assert write_partition(Scorer(plan, one), out, "sha256:0", 0) == first


def test_metadata_of_the_file_names_the_version(one: OnnxModel, tmp_path: Path) -> None:
    results(one, tracks(3), tmp_path)
    said = pq.read_schema(tmp_path / "out" / "part-00000.parquet").metadata
    assert (said[b"greenroom.model"], said[b"greenroom.version"]) == (b"genre", b"3")
    assert said[b"greenroom.digest"].decode() == one.digest


@pytest.mark.parametrize("name", ["energy", "clusters"])
def test_other_tasks(name: str, tmp_path: Path) -> None:
    spec: ModelSpec = get_model(name)
    rows = sources.read_table(spec.dataset)
    matrix = cleaning.features(rows, spec)
    target = rows[spec.target] if spec.target else None
    pipeline = candidates.build(spec, spec.candidates[0]).fit(matrix, target)
    one = OnnxModel(onnx_export.export(spec, pipeline, matrix))
    frame = tracks(50)
    frame.loc[7, "loudness"] = 99.0
    write(frame, tmp_path / "in" / "a.parquet", 40)
    pinned = PinnedVersion(1, one.digest, spec.task, one.description.classes)
    plan = make_plan(spec, pinned, str(tmp_path / "in"), keep=(), rows=1000)
    write_partition(Scorer(plan, one), LocalStore(tmp_path / "out"), "sha256:0", 0)
    found = pq.read_table(tmp_path / "out" / "part-00000.parquet").to_pandas()
    said, _ = one.predict(cleaning.features(frame, spec).to_numpy(np.float32))
    column = "cluster" if name == "clusters" else "prediction"
    assert np.isnan(found[column][7])
    keep = found.index != 7
    np.testing.assert_array_equal(found[column][keep], said.reshape(-1)[keep])
    if name == "clusters":
        assert found["label"][keep].tolist() == [one.description.classes[place] for place in said[keep]]


def energy_of(proto: Any, folder: Path) -> manifest.FinishedPartition:
    """Score five rows with a made-up model of `energy`."""
    spec = get_model("energy")
    one = OnnxModel(proto.SerializeToString())
    write(tracks(5), folder / "in" / "a.parquet", 40)
    pinned = PinnedVersion(1, one.digest, spec.task, ())
    plan = make_plan(spec, pinned, str(folder / "in"), keep=(), rows=1000)
    return write_partition(Scorer(plan, one), LocalStore(folder / "out"), "sha256:0", 0)


def test_a_model_that_answers_no_number_is_marked(tmp_path: Path) -> None:
    features = get_model("energy").features
    done = energy_of(regression(features, {"tempo": float("inf")}, 0.0), tmp_path)
    assert done.rejected == 5
    assert "no finite number" in next(iter(done.reasons))


def test_a_model_that_does_not_answer_row_by_row_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="gives 1 answers to 5 rows"):
        energy_of(divides_by_zero(get_model("energy").features), tmp_path)
    assert not (tmp_path / "out").exists()


def test_memory_is_that_of_a_batch(one: OnnxModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One row group of many rows is read, answered and written piece by piece."""
    monkeypatch.setattr(partition, "_BATCH", 1_000)
    frame = tracks(20_000)
    write(frame, tmp_path / "in" / "a.parquet", 20_000)
    plan = plan_of(one, tmp_path / "in")
    sizes = [batch.num_rows for batch in Scorer(plan, one).batches(plan.parts[0].pieces)]
    assert sizes == [1_000] * 20
    before = pa.total_allocated_bytes()
    most = 0
    for _ in Scorer(plan, one).batches(plan.parts[0].pieces):
        most = max(most, pa.total_allocated_bytes() - before)
    assert most < 20_000 * len(frame.columns) * 8
