"""The cache serves what a predictor saw in Production, and nothing else that has genuine evidence."""

import json
import shutil
import threading
from pathlib import Path

import pytest

from registry.client.registry import Version
from registry.digests import digest
from registry.names import EVIDENCE, Stage
from serving.models.cache import ModelCache

CONTENT = b"model"


def version(number: int = 1) -> Version:
    return Version(
        model="genre",
        number=number,
        stage=Stage.PRODUCTION,
        run_id="",
        source=f"models:/m-{number}",
        tags={EVIDENCE: f"genuine, about {number}"},
    )


def pointer(folder: Path) -> Path:
    (file,) = (folder / "models").glob("*.json")
    return file


def test_it_keeps_what_was_in_production_and_by_what_that_was_tried(tmp_path: Path) -> None:
    ModelCache(tmp_path).keep(version(), CONTENT, "onnxruntime 9, form 9")
    assert ModelCache(tmp_path).last_good("genre") == (version(), CONTENT)
    assert ModelCache(tmp_path).tried_by("genre") == "onnxruntime 9, form 9"
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("mac", ["", "00" * 32, "as it was"])
def test_genuine_evidence_alone_is_not_enough(
    tmp_path: Path, mac: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody writes about version 2, which passed the gate and went no further."""
    cache = ModelCache(tmp_path)
    cache.keep(version(1), CONTENT)
    kept = json.loads(pointer(tmp_path).read_text())
    (tmp_path / "sha256" / digest(b"other").removeprefix("sha256:")).write_bytes(b"other")
    planted = {"number": 2, "source": "models:/m-2", "digest": digest(b"other"), "tags": version(2).tags}
    pointer(tmp_path).write_text(
        json.dumps({**kept, **planted, "mac": kept["mac"] if mac == "as it was" else mac})
    )
    assert cache.last_good("genre") is None
    assert cache.tried_by("genre") == ""
    assert "nothing shows that a predictor with this cache saw it in Production" in caplog.text
    cache.keep(version(1), CONTENT)
    assert cache.last_good("genre") == (version(1), CONTENT), "it is kept anew"


def test_a_trial_cannot_be_written_in(tmp_path: Path) -> None:
    cache = ModelCache(tmp_path)
    cache.keep(version(), CONTENT)
    kept = json.loads(pointer(tmp_path).read_text())
    pointer(tmp_path).write_text(json.dumps({**kept, "tried": "onnxruntime 9, form 9"}))
    assert cache.tried_by("genre") == ""
    assert cache.last_good("genre") is None


def test_what_another_cache_kept_is_not_used(tmp_path: Path) -> None:
    """Files of a model that were copied from another predictor's cache, one of Staging for example."""
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        ModelCache(folder).keep(version(), CONTENT)
    shutil.copy(pointer(there), pointer(here))
    assert ModelCache(here).last_good("genre") is None


def test_a_cache_as_a_whole_may_move(tmp_path: Path) -> None:
    ModelCache(tmp_path / "a").keep(version(), CONTENT)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert ModelCache(tmp_path / "b").last_good("genre") == (version(), CONTENT)


@pytest.mark.parametrize("how", ["read by others", "missing", "short"])
def test_a_key_that_is_not_this_users_alone_counts_for_nothing(tmp_path: Path, how: str) -> None:
    cache, key = ModelCache(tmp_path), tmp_path / "key"
    cache.keep(version(), CONTENT)
    before = key.read_bytes()
    if how == "read by others":
        key.chmod(0o644)
    elif how == "missing":
        key.unlink()
    else:
        key.write_bytes(before[:5])
    assert cache.last_good("genre") is None
    cache.keep(version(), CONTENT)
    assert cache.last_good("genre") == (version(), CONTENT)
    assert key.read_bytes() != before
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".")] == []


def test_processes_that_begin_together_share_one_key(tmp_path: Path) -> None:
    """Each keeps a model of its own, and each can use what the others kept."""
    together = threading.Barrier(8)

    def begin(number: int) -> None:
        together.wait()
        mine = Version(f"m{number}", 1, Stage.PRODUCTION, "", "models:/m", {})
        ModelCache(tmp_path).keep(mine, CONTENT)

    threads = [threading.Thread(target=begin, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(ModelCache(tmp_path).last_good(f"m{number}") for number in range(8))
