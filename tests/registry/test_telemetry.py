"""Nothing is sent home by what we load. ONNX Runtime keeps a device's id under the home when it would."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


def _files(home: Path, code: str) -> list[str]:
    env = {name: os.environ[name] for name in ("PATH",)}
    subprocess.run([sys.executable, "-c", code], env={**env, "HOME": str(home)}, check=True, timeout=60)
    return sorted(str(path.relative_to(home)) for path in home.rglob("*"))


def test_onnx_runtime_stays_quiet(tmp_path: Path) -> None:
    assert _files(tmp_path, "import registry.model_format.onnx_model") == []


@pytest.mark.skipif(
    sys.platform != "linux", reason="seen on Linux; elsewhere it may keep its id in other places"
)
def test_left_alone_it_would_not(tmp_path: Path) -> None:
    assert any("Microsoft" in name for name in _files(tmp_path, "import onnxruntime"))
