"""A file is there whole, with its mode, or not at all."""

import os
from pathlib import Path

import pytest

from registry.files import write_atomically


def test_it_replaces_a_file_and_sets_the_mode(tmp_path: Path) -> None:
    path = tmp_path / "stack.env"
    path.write_text("old")
    umask = os.umask(0o077)
    try:
        write_atomically(path, b"new", 0o644)
    finally:
        os.umask(umask)
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o644
    assert [file.name for file in tmp_path.iterdir()] == ["stack.env"]
    write_atomically(tmp_path / "key.pem", b"k", 0o600)
    assert (tmp_path / "key.pem").stat().st_mode & 0o777 == 0o600


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("old")
    with pytest.raises(OSError, match="folder"):
        write_atomically(tmp_path / "folder", b"new")
    with pytest.raises(TypeError):
        write_atomically(tmp_path / "folder" / "file", "text")  # type: ignore[arg-type]
    assert (tmp_path / "folder" / "file").read_text() == "old"
    assert [file.name for file in tmp_path.rglob("*")] == ["folder", "file"]
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "absent" / "file", b"new")
