"""What a scoring job writes first, what it goes on with, and what it refuses; in folders."""

import inspect
import io
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from catalog.loader import get_model
from checks.errors import DataError
from flows.scoring import manifest
from flows.scoring import plan as plans
from flows.scoring.flow import TooManyRejectedError, _require_few, _spans, prepare_plan, score
from flows.scoring.manifest import FinishedPartition
from flows.scoring.partition import Scorer, write_partition
from flows.scoring.plan import Part, Piece, Plan
from flows.scoring.settings import ScoreSettings, cores
from flows.scoring.storage import ChangedError, LocalStore, open_store
from registry.model_format.onnx_model import OnnxModel
from tests.conftest import ROOT
from tests.flows.support.scoring import GENRE, model, plan_of, tracks, write


@pytest.fixture(scope="module")
def onnx_model() -> OnnxModel:
    return model()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two files: row groups of 40, 40 and 20 rows, and of 40 and 10."""
    write(tracks(100, 1), tmp_path / "in" / "a.parquet", 40)
    write(tracks(50, 2), tmp_path / "in" / "below" / "b.parquet", 40)
    return tmp_path / "in"


def test_row_groups_are_shared_out_in_order_across_files(onnx_model: OnnxModel, source: Path) -> None:
    plan = plan_of(onnx_model, source, rows=80)
    assert [(file.name, file.rows) for file in plan.files] == [("a.parquet", 100), ("below/b.parquet", 50)]
    assert plan.parts == (
        Part(pieces=(Piece(file=0, first=0, last=2),), rows=80),
        Part(pieces=(Piece(file=0, first=2, last=3), Piece(file=1, first=0, last=2)), rows=70),
    )
    # A row group is never cut, however small a partition is to be.
    assert [part.rows for part in plan_of(onnx_model, source, rows=1).parts] == [40, 40, 20, 40, 10]
    assert plan.keep == ("track_id",)


def test_a_single_file_is_a_source_and_hidden_ones_are_not(onnx_model: OnnxModel, source: Path) -> None:
    write(tracks(5), source / "_temporary" / "c.parquet", 40)
    write(tracks(5), source / ".hidden.parquet", 40)
    assert plan_of(onnx_model, source).rows == 150
    assert [file.name for file in plan_of(onnx_model, source / "a.parquet").files] == ["a.parquet"]


def test_what_cannot_be_read_is_refused_and_named(onnx_model: OnnxModel, source: Path) -> None:
    with pytest.raises(DataError, match=r"no Parquet file at .*nowhere"):
        plan_of(onnx_model, source.parent / "nowhere")
    for name, frame, words in (
        ("lacks", tracks(5).drop(columns=["tempo", "key"]), r"b\.parquet lacks the columns .*tempo"),
        ("type", tracks(5).assign(key="C sharp"), r"b\.parquet: key is of type .*whole numbers"),
    ):
        write(frame, source / "below" / "b.parquet", 40)
        with pytest.raises(DataError, match=words):
            plan_of(onnx_model, source)
        assert name
    (source / "below" / "b.parquet").write_text("no Parquet")
    with pytest.raises(DataError, match=r"b\.parquet cannot be read as Parquet"):
        plan_of(onnx_model, source)
    write(tracks(0), source / "below" / "b.parquet", 40)
    write(tracks(0), source / "a.parquet", 40)
    with pytest.raises(DataError, match="has no rows"):
        plan_of(onnx_model, source)


def test_kept_columns_must_be_there_and_of_one_type(onnx_model: OnnxModel, source: Path) -> None:
    assert plan_of(onnx_model, source, keep=("artists",)).keep == ("artists",)
    with pytest.raises(DataError, match="lacks the columns nothing"):
        plan_of(onnx_model, source, keep=("nothing",))
    write(tracks(5).assign(artists=1), source / "below" / "b.parquet", 40)
    with pytest.raises(DataError, match="artists is of another type"):
        plan_of(onnx_model, source, keep=("artists",))


def test_results_do_not_go_among_inputs_nor_into_a_folder_with_other_things(
    source: Path, tmp_path: Path
) -> None:
    for destination in (source, source / "out", tmp_path):
        with pytest.raises(DataError, match="inside one another"):
            prepare_plan.fn(GENRE, str(source), str(destination), (), 100)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("x")
    with pytest.raises(DataError, match=r"not empty \(letter\.txt\)"):
        prepare_plan.fn(GENRE, str(source), str(tmp_path / "full"), (), 100)
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["letter.txt"]


def test_what_cannot_be_scored_is_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="similar finds neighbours"):
        prepare_plan.fn(get_model("similar"), str(source), str(tmp_path / "out"), (), 100)
    with pytest.raises(DataError, match="columns called prediction"):
        prepare_plan.fn(GENRE, str(source), str(tmp_path / "out"), ("prediction",), 100)
    with pytest.raises(DataError, match="only s3://BUCKET/PREFIX and paths"):
        open_store("https://example.org/rows")
    assert not (tmp_path / "out").exists()


def test_the_first_plan_is_in_force_and_another_is_refused(
    onnx_model: OnnxModel, source: Path, tmp_path: Path
) -> None:
    out = LocalStore(tmp_path / "out")
    first = plan_of(onnx_model, source, rows=80)
    plan, plan_digest = plans.write_plan(out, first)
    again, same = plans.write_plan(out, plan_of(onnx_model, source, rows=1))
    assert (again, same) == (plan, plan_digest) == (first, plan_digest)
    plans.require_same(plan, model="genre", source=str(source), keep=())
    for changed in ({"model": "energy"}, {"source": "s3://other"}, {"keep": ("artists",)}):
        with pytest.raises(DataError, match="another plan began there"):
            plans.require_same(plan, **{"model": "genre", "source": str(source), "keep": (), **changed})  # type: ignore[arg-type]
    (tmp_path / "out" / "_plan.json").write_text("{}")
    with pytest.raises(DataError, match="cannot be read"):
        plans.existing_plan(out)


def test_an_input_that_changed_is_refused_before_and_while_it_is_read(
    onnx_model: OnnxModel, source: Path, tmp_path: Path
) -> None:
    plan, plan_digest = plans.write_plan(LocalStore(tmp_path / "out"), plan_of(onnx_model, source))
    plans.require_unchanged(plan)
    scorer = Scorer(plan, onnx_model)
    write(tracks(100, 3), source / "a.parquet", 40)
    with pytest.raises(ChangedError, match=r"a\.parquet was changed"):
        plans.require_unchanged(plan)
    with pytest.raises(ChangedError, match=r"a\.parquet is not what it was"):
        write_partition(scorer, LocalStore(tmp_path / "out"), plan_digest, 0)
    (source / "a.parquet").unlink()
    with pytest.raises(ChangedError, match="is gone"):
        plans.require_unchanged(plan)


def test_a_new_input_is_refused(onnx_model: OnnxModel, source: Path) -> None:
    plan = plan_of(onnx_model, source)
    write(tracks(5), source / "c.parquet", 40)
    with pytest.raises(ChangedError, match=r"c\.parquet is new"):
        plans.require_unchanged(plan)


def scored_folder(onnx_model: OnnxModel, source: Path, folder: Path) -> tuple[Plan, str, LocalStore]:
    out = LocalStore(folder)
    plan, plan_digest = plans.write_plan(out, plan_of(onnx_model, source, rows=80))
    scorer = Scorer(plan, onnx_model)
    for part in range(len(plan.parts)):
        write_partition(scorer, out, plan_digest, part)
    return plan, plan_digest, out


def test_only_partitions_of_this_plan_count(onnx_model: OnnxModel, source: Path, tmp_path: Path) -> None:
    plan, plan_digest, out = scored_folder(onnx_model, source, tmp_path / "out")
    assert {
        part: done.rows for part, done in manifest.finished_partitions(out, plan, plan_digest).items()
    } == {
        0: 80,
        1: 70,
    }
    first, second = (tmp_path / "out" / plans.partition_name(part) for part in (0, 1))
    content = first.read_bytes()
    for wrong in (
        second.read_bytes(),  # another partition
        content[: len(content) // 2],  # half of it
        content.replace(plan_digest.encode(), b"sha256:" + b"0" * 64),  # another plan's
    ):
        first.write_bytes(wrong)
        with pytest.raises(DataError, match=r"part-00000\.parquet"):
            manifest.finished_partitions(out, plan, plan_digest)
    first.unlink()
    assert list(manifest.finished_partitions(out, plan, plan_digest)) == [1]


def test_success_is_written_of_whole_jobs_alone_and_kept_an_eye_on(
    onnx_model: OnnxModel, source: Path, tmp_path: Path
) -> None:
    plan, plan_digest, out = scored_folder(onnx_model, source, tmp_path / "out")
    done = manifest.finished_partitions(out, plan, plan_digest)
    with pytest.raises(DataError, match=r"lacks part-00001\.parquet"):
        manifest.write_manifest(out, plan, plan_digest, {0: done[0]})
    assert manifest.read_manifest(out, plan, plan_digest) is None
    written = manifest.write_manifest(out, plan, plan_digest, done)
    assert manifest.read_manifest(out, plan, plan_digest) == written
    assert (written.rows, written.rejected, written.version) == (150, 0, 3)
    path = tmp_path / "out" / "part-00001.parquet"
    path.write_bytes(path.read_bytes())
    with pytest.raises(DataError, match=r"not whole any more: part-00001\.parquet"):
        manifest.read_manifest(out, plan, plan_digest)


def test_too_many_rejected_rows_fail_the_job(onnx_model: OnnxModel, source: Path) -> None:
    plan = plan_of(onnx_model, source, rows=80)
    done = FinishedPartition(part=0, rows=80, rejected=2, reasons={"key: no": 2})
    _require_few(plan, [done], 2 / 150)
    with pytest.raises(TooManyRejectedError, match=r"2 of 150 rows .* 2 times key: no"):
        _require_few(plan, [done], 0.01)


def test_thousands_of_partitions_become_a_few_hundred_tasks() -> None:
    assert _spans(3, []) == [(0, 1), (1, 2), (2, 3)]
    assert _spans(3, [1]) == [(0, 1), (2, 3)]
    spans = _spans(40_000, range(1000))
    assert len(spans) <= 256
    assert {part for span in spans for part in range(*span)} >= set(range(1000, 40_000))


def test_workers_and_threads_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ScoreSettings().workers == cores()
    assert ScoreSettings().threads == 1
    assert ScoreSettings(score_workers=1).threads == cores()
    assert ScoreSettings(score_workers=1, dask_scheduler="tcp://10.0.0.1:8786").threads == 1


def test_a_file_is_put_once(tmp_path: Path) -> None:
    out = LocalStore(tmp_path)
    assert out.put_new("a/b", io.BytesIO(b"one"))
    assert not out.put_new("a/b", io.BytesIO(b"two"))
    assert out.read("a/b") == b"one"
    assert [stored.name for stored in out.list()] == ["a/b"]


def test_nulls_of_a_dictionary_and_many_files_make_no_second_schema(
    onnx_model: OnnxModel, source: Path, tmp_path: Path
) -> None:
    scored_folder(onnx_model, source, tmp_path / "out")
    tables = [pq.read_table(path) for path in sorted((tmp_path / "out").glob("*.parquet"))]
    assert pa.concat_tables(tables).num_rows == 150
    assert pd.unique(tables[1].to_pandas()["source"]).tolist() == ["a.parquet", "below/b.parquet"]


def test_the_deployment_is_this_flow() -> None:
    deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    (declared,) = (each for each in deployments if each["entrypoint"].startswith("flows.scoring.flow."))
    assert declared["entrypoint"] == "flows.scoring.flow.score"
    assert set(declared["parameters"]) < set(inspect.signature(score.fn).parameters)
