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
def onnx_model() -> OnnxModel:
    return model()


def results(onnx_model: OnnxModel, frame: pd.DataFrame, folder: Path, **options: Any) -> pd.DataFrame:
    """Score a frame in one partition and return what was written."""
    write(frame, folder / "in" / "rows.parquet", 30)
    out = LocalStore(folder / "out")
    plan, plan_digest = plans.write_plan(out, plan_of(onnx_model, folder / "in", rows=10**6, **options))
    write_partition(Scorer(plan, onnx_model), out, plan_digest, 0)
    table: pd.DataFrame = pq.read_table(folder / "out" / "part-00000.parquet").to_pandas()
    return table


def test_each_row_has_what_the_model_says_of_it(onnx_model: OnnxModel, tmp_path: Path) -> None:
    frame = tracks(200)
    scored = results(onnx_model, frame, tmp_path)
    labels, shares = expected(onnx_model, frame)
    assert scored["prediction"].tolist() == labels
    written = scored[[f"probability_{name}" for name in onnx_model.description.classes]].to_numpy()
    np.testing.assert_array_equal(written, shares)
    assert scored["row"].tolist() == list(range(200))
    assert scored["track_id"].tolist() == frame["track_id"].tolist()
    assert set(scored["source"]) == {"rows.parquet"}
    about = scored[["model", "version", "digest"]].drop_duplicates().to_numpy().tolist()
    assert about == [["genre", 3, onnx_model.digest]]
    assert scored["reason"].isna().all()


def test_batches_and_blocks_change_nothing(
    onnx_model: OnnxModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = results(onnx_model, tracks(100), tmp_path / "whole")
    monkeypatch.setattr(partition, "_BATCH", 17)
    monkeypatch.setattr(partition, "_BLOCK", 5)
    pd.testing.assert_frame_equal(results(onnx_model, tracks(100), tmp_path / "parts"), whole)


def test_broken_rows_are_marked_and_the_others_scored(onnx_model: OnnxModel, tmp_path: Path) -> None:
    frame = tracks(6)
    frame["key"] = frame["key"].astype("Int64")
    frame.loc[1, "tempo"] = 1000.0
    frame.loc[2, "energy"] = np.nan
    frame.loc[4, "key"] = pd.NA
    scored = results(onnx_model, frame, tmp_path)
    assert scored["reason"].notna().tolist() == [False, True, True, False, True, False]
    assert scored["reason"][1].startswith("tempo: ")
    assert scored["reason"][4] == "key: Input should be a valid integer"
    answered = scored[scored["reason"].isna()]
    whole = frame[scored["reason"].isna()].astype({"key": "int64"})
    assert answered["prediction"].tolist() == expected(onnx_model, whole)[0]
    assert scored.loc[[1, 2, 4], "prediction"].isna().all()
    assert scored.loc[[1, 2, 4], "probability_rock"].isna().all()
    assert scored["row"].tolist() == list(range(6))
    note = manifest.check_partition(
        LocalStore(tmp_path / "out"),
        *plans.existing_plan(LocalStore(tmp_path / "out")),  # type: ignore[misc]
        0,
        LocalStore(tmp_path / "out").find("part-00000.parquet"),  # type: ignore[arg-type]
    )
    assert (note.rows, note.rejected, sum(note.reasons.values())) == (6, 3, 3)


def test_a_partition_of_broken_rows_alone_is_written(onnx_model: OnnxModel, tmp_path: Path) -> None:
    scored = results(onnx_model, tracks(3).assign(tempo=0.0), tmp_path)
    assert scored["prediction"].isna().all()
    assert len(scored) == 3


def test_the_same_rows_make_the_same_bytes(onnx_model: OnnxModel, tmp_path: Path) -> None:
    """Where an S3 server ignores conditions, a second try must not change what is there."""
    write(tracks(100), tmp_path / "in" / "a.parquet", 40)
    plan = plan_of(onnx_model, tmp_path / "in", rows=10**6)
    outs = [LocalStore(tmp_path / name) for name in ("one", "two")]
    for out in outs:
        write_partition(Scorer(plan, onnx_model), out, "sha256:0", 0)
    assert outs[0].read("part-00000.parquet") == outs[1].read("part-00000.parquet")


def test_a_second_try_leaves_what_is_there(onnx_model: OnnxModel, tmp_path: Path) -> None:
    write(tracks(10), tmp_path / "in" / "a.parquet", 40)
    plan, out = plan_of(onnx_model, tmp_path / "in"), LocalStore(tmp_path / "out")
    first = write_partition(Scorer(plan, onnx_model), out, "sha256:0", 0)
    assert write_partition(Scorer(plan, onnx_model), out, "sha256:0", 0) == first


def test_metadata_of_the_file_names_the_version(onnx_model: OnnxModel, tmp_path: Path) -> None:
    results(onnx_model, tracks(3), tmp_path)
    metadata = pq.read_schema(tmp_path / "out" / "part-00000.parquet").metadata
    assert (metadata[b"greenroom.model"], metadata[b"greenroom.version"]) == (b"genre", b"3")
    assert metadata[b"greenroom.digest"].decode() == onnx_model.digest


@pytest.mark.parametrize("name", ["energy", "clusters"])
def test_other_tasks(name: str, tmp_path: Path) -> None:
    spec: ModelSpec = get_model(name)
    rows = sources.read_table(spec.dataset)
    matrix = cleaning.features(rows, spec)
    target = rows[spec.target] if spec.target else None
    pipeline = candidates.build(spec, spec.candidates[0]).fit(matrix, target)
    onnx_model = OnnxModel(onnx_export.export(spec, pipeline, matrix))
    frame = tracks(50)
    frame.loc[7, "loudness"] = 99.0
    write(frame, tmp_path / "in" / "a.parquet", 40)
    pinned = PinnedVersion(1, onnx_model.digest, spec.task, onnx_model.description.classes)
    plan = make_plan(spec, pinned, str(tmp_path / "in"), keep=(), rows=1000)
    write_partition(Scorer(plan, onnx_model), LocalStore(tmp_path / "out"), "sha256:0", 0)
    scored = pq.read_table(tmp_path / "out" / "part-00000.parquet").to_pandas()
    answers, _ = onnx_model.predict(cleaning.features(frame, spec).to_numpy(np.float32))
    column = "cluster" if name == "clusters" else "prediction"
    assert np.isnan(scored[column][7])
    keep = scored.index != 7
    np.testing.assert_array_equal(scored[column][keep], answers.reshape(-1)[keep])
    if name == "clusters":
        assert scored["label"][keep].tolist() == [
            onnx_model.description.classes[place] for place in answers[keep]
        ]


def energy_of(proto: Any, folder: Path) -> manifest.FinishedPartition:
    """Score five rows with a made-up model of `energy`."""
    spec = get_model("energy")
    onnx_model = OnnxModel(proto.SerializeToString())
    write(tracks(5), folder / "in" / "a.parquet", 40)
    pinned = PinnedVersion(1, onnx_model.digest, spec.task, ())
    plan = make_plan(spec, pinned, str(folder / "in"), keep=(), rows=1000)
    return write_partition(Scorer(plan, onnx_model), LocalStore(folder / "out"), "sha256:0", 0)


def test_a_model_that_answers_no_number_is_marked(tmp_path: Path) -> None:
    features = get_model("energy").features
    done = energy_of(regression(features, {"tempo": float("inf")}, 0.0), tmp_path)
    assert done.rejected == 5
    assert "no finite number" in next(iter(done.reasons))


def test_a_model_that_does_not_answer_row_by_row_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="gives 1 answers to 5 rows"):
        energy_of(divides_by_zero(get_model("energy").features), tmp_path)
    assert not (tmp_path / "out").exists()


def test_memory_is_that_of_a_batch(
    onnx_model: OnnxModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One row group of many rows is read, answered and written piece by piece."""
    monkeypatch.setattr(partition, "_BATCH", 1_000)
    frame = tracks(20_000)
    write(frame, tmp_path / "in" / "a.parquet", 20_000)
    plan = plan_of(onnx_model, tmp_path / "in")
    sizes = [batch.num_rows for batch in Scorer(plan, onnx_model).batches(plan.parts[0].pieces)]
    assert sizes == [1_000] * 20
    before = pa.total_allocated_bytes()
    most = 0
    for _ in Scorer(plan, onnx_model).batches(plan.parts[0].pieces):
        most = max(most, pa.total_allocated_bytes() - before)
    assert most < 20_000 * len(frame.columns) * 8
