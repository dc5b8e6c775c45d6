"""What a training depends on, as digests."""

from pathlib import Path

import pytest

from catalog.loader import get_model
from catalog.spec import Dataset
from checks.data import fingerprints, sources
from checks.data.fingerprints import declaration_digest, source_digest


def test_code_is_digested_in_every_folder_of_every_room(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path) or b"")
    fingerprints.code_digest.__wrapped__()
    root = Path(fingerprints.__file__).parents[2]
    for file in ("catalog/spec.py", "registry/names.py", "checks/builtin/run.py", "flows/training/flow.py"):
        assert root / file in read
    monkeypatch.setattr(fingerprints, "_ROOMS", ("catalog", "nowhere"))
    with pytest.raises(FileNotFoundError, match="no code of nowhere"):
        fingerprints.code_digest.__wrapped__()


def test_digests_of_a_training_follow_bytes_and_declaration(tmp_path: Path, dataset: Dataset) -> None:
    file = tmp_path / "rows"
    file.write_bytes(b"one")
    at = dataset.model_copy(update={"source": str(file)})
    first = source_digest(at)
    file.write_bytes(b"onf")
    assert source_digest(at) != first
    assert source_digest(dataset.model_copy(update={"source": "sha256:" + "a" * 64})) == "a" * 64
    with pytest.raises(sources.DataError, match="there is no file"):
        source_digest(dataset.model_copy(update={"source": str(tmp_path / "nothing")}))
    spec = get_model("genre")
    changed = spec.model_copy(update={"split": spec.split.model_copy(update={"seed": 8})})
    elsewhere = spec.model_copy(update={"dataset": spec.dataset.model_copy(update={"source": str(file)})})
    assert declaration_digest(changed) != declaration_digest(spec) == declaration_digest(elsewhere)
