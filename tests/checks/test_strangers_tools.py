"""What the gate signs, checked as docs/evidence.md says: with other people's tools, and without ours."""

import io
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from types import CodeType
from typing import Any

import pytest
from click.testing import CliRunner

from checks.service.judgement import judge_version
from registry.cli import audit as audit_cli
from registry.client import evidence_export
from registry.client.evidence_export import export
from registry.client.registry import MODEL_SIGNATURE, Registry, Version
from registry.errors import EvidenceMissingError, RegistryError
from registry.evidence import keys, model_signature
from registry.settings import KeySettings
from tests.checks.support.memory_registry import MemoryClient
from tests.checks.support.sample_models import Small, StandIn
from tests.checks.test_cli import FAILED, add, client  # noqa: F401 - fixtures
from tests.conftest import ROOT

FLIPS = 1_000


def recipe(first_line: str) -> CodeType:
    """A script of the documentation, as a reader saves it."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/evidence.md").read_text(), re.DOTALL)
    (text,) = (block for block in blocks if block.startswith(first_line) and "sys.argv" in block)
    return compile(text, "recipe", "exec")


CHECK = recipe("import hashlib, json, pathlib, sys\n\nfrom cryptography")
DIGESTS = recipe("import hashlib, json, pathlib, sys\n\nimport pandas")


@pytest.fixture
def exported(
    client: MemoryClient,  # noqa: F811
    small: Small,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """All that speaks for a version, in a folder."""
    monkeypatch.setattr(evidence_export, "get_model", lambda _: small[0])
    folder = tmp_path / "exported"
    export(Registry(client), version(client), folder, KeySettings())  # type: ignore[arg-type]
    return folder


def version(client: MemoryClient, number: int = 1) -> Version:  # noqa: F811
    return Registry(client).version("energy", number)  # type: ignore[arg-type]


def run(script: CodeType, monkeypatch: pytest.MonkeyPatch, *arguments: Path) -> tuple[bool, str]:
    """Whether a script of the documentation ends well, and what it prints."""
    monkeypatch.setattr(sys, "argv", ["script", *map(str, arguments)])
    out = io.StringIO()
    try:
        with redirect_stdout(out):
            exec(script, {})  # noqa: S102 - the documentation's own code
    except SystemExit as done:
        return not done.code, out.getvalue() + str(done.code or "")
    except Exception as error:  # noqa: BLE001 - each of its tools has errors of its own
        return False, f"{type(error).__name__}: {error}"
    return True, out.getvalue()


def gate_key() -> Path:
    return keys.trusted("gate", KeySettings())[0].path


def flipped(paths: list[Path], seed: int) -> tuple[Path, bytes]:
    """One of the files with one bit changed; weighted by size, so that every byte is as likely."""
    rng = random.Random(seed)
    path = rng.choices(paths, [path.stat().st_size for path in paths])[0]
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    return path, bytes(content)


def test_the_documented_script_accepts_a_version(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passed, said = run(CHECK, monkeypatch, exported, gate_key())
    assert passed, said
    assert "energy version 1 passed" in said
    assert "passed   required First" in said


def test_it_rejects_every_flipped_byte(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = sorted((exported / "model").iterdir())
    accepted = 0
    for seed in range(FLIPS):
        path, content = flipped(files, seed)
        kept = path.read_bytes()
        path.write_bytes(content)
        accepted += run(CHECK, monkeypatch, exported, gate_key())[0]
        path.write_bytes(kept)
    assert accepted == 0
    assert run(CHECK, monkeypatch, exported, gate_key())[0], "as it was"


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "model" / "more.py").write_text("x"),
        lambda folder: (folder / "model" / "MLmodel").unlink(),
        lambda folder: (folder / "evidence.json").write_text(
            (folder / "evidence.json").read_text().replace("ey", "fy", 1)
        ),
        lambda folder: (folder / "evidence.json").write_text('{"payload": "", "signatures": []}'),
    ],
)
def test_it_rejects_what_else_may_be_wrong(
    exported: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], Any]
) -> None:
    change(exported)
    assert not run(CHECK, monkeypatch, exported, gate_key())[0]


def test_it_rejects_another_key(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = KeySettings(gate_key=str(tmp_path / "o.pem"), trusted_keys=str(tmp_path / "o"))
    assert not run(CHECK, monkeypatch, exported, keys.create("gate", other).path)[0]


def test_it_rejects_a_refusal(
    client: MemoryClient,  # noqa: F811
    small: Small,
    stand_in: StandIn,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stand_in(FAILED)
    registry = Registry(client)  # type: ignore[arg-type]
    judge_version(registry, "energy", 1)
    export(registry, version(client), tmp_path / "refused", KeySettings())
    passed, said = run(CHECK, monkeypatch, tmp_path / "refused", gate_key())
    assert not passed
    assert "the gate refused it: ['Second']" in said
    assert registry.artifact(version(client), MODEL_SIGNATURE) == b"{}", "no signature is left either"


def test_every_digest_is_recomputed_as_documented(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passed, said = run(DIGESTS, monkeypatch, exported)
    assert passed, said
    lines = {line.split()[1]: line.split()[0] for line in said.splitlines()}
    assert lines.pop("code", "?") == "?"
    same = ("policy", "dataset/train", "dataset/test", "report", "model-signing-key")
    assert lines == dict.fromkeys(same, "same")


@pytest.mark.parametrize("path", ["policy.json", "gate/verdict.json", "gate/model.pub", "gate/test.parquet"])
def test_a_digest_of_something_else_is_told(
    exported: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    file = exported / path
    if path.endswith(".parquet"):
        shutil.copy(exported / "gate/train.parquet", file)
    else:
        file.write_bytes(file.read_bytes() + b" ")
    passed, said = run(DIGESTS, monkeypatch, exported)
    assert not passed
    assert said.count("OTHER") == 1


def test_an_export_needs_evidence_and_a_new_folder(
    client: MemoryClient,  # noqa: F811
    exported: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registry = Registry(client)  # type: ignore[arg-type]
    with pytest.raises(RegistryError, match="is not empty"):
        export(registry, version(client), exported, KeySettings())
    monkeypatch.setattr(audit_cli, "TrackingClient", client)
    done = CliRunner().invoke(audit_cli.export_evidence, ["energy", "1", "--to", str(tmp_path / "cli")])
    assert done.exit_code == 0, done.output
    assert "evidence.json" in done.output
    client.files["1/model/../../outside"] = b"x"
    with pytest.raises(RegistryError, match="outside of its folder"):
        export(registry, version(client), tmp_path / "away", KeySettings())
    client.untag()
    with pytest.raises(EvidenceMissingError):
        export(registry, version(client), tmp_path / "none", KeySettings())


def test_the_model_key_is_derived_from_the_gates(exported: Path) -> None:
    signer = keys.signer("gate", KeySettings())
    pem = model_signature.public_pem(signer)
    assert pem == (exported / "gate/model.pub").read_bytes() == model_signature.public_pem(signer)
    keys.create("gate", KeySettings(), replace=True)
    assert model_signature.public_pem(keys.signer("gate", KeySettings())) != pem


# OpenSSF's tool


@pytest.fixture(scope="module")
def stock_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with the stock tool; nothing of ours depends on it."""
    folder = tmp_path_factory.mktemp("model-signing")
    python = folder / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    # It imports pyOpenSSL, and does not ask for it.
    install = [str(python), "-m", "pip", "install", "-q", "model-signing==1.1.1", "pyopenssl"]
    done = subprocess.run(install, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        pytest.skip(f"model-signing cannot be installed here: {done.stderr.strip()[-300:]}")
    return python


_FLIPS = """
import pathlib, random, sys
import model_signing
folder, signature, key, count = sys.argv[1:]
config = model_signing.verifying.Config().use_elliptic_key_verifier(public_key=key)
files = sorted(path for path in pathlib.Path(folder).rglob("*") if path.is_file())
accepted = 0
for seed in range(int(count)):
    rng = random.Random(seed)
    path = rng.choices(files, [path.stat().st_size for path in files])[0]
    kept = path.read_bytes()
    content = bytearray(kept)
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(bytes(content))
    try:
        config.verify(folder, signature)
        accepted += 1
    except ValueError:
        pass
    path.write_bytes(kept)
config.verify(folder, signature)
print(accepted)
"""


@pytest.mark.slow
def test_the_stock_tool_accepts_the_version_and_rejects_every_flipped_byte(
    stock_python: Path, exported: Path, tmp_path: Path
) -> None:
    def stock(model: Path, signature: Path, key: Path) -> "subprocess.CompletedProcess[str]":
        command = [stock_python, "-m", "model_signing", "verify", "key", model]
        command += ["--signature", signature, "--public_key", key]
        return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)

    model, signature, key = exported / "model", exported / "gate/model.sig", exported / "gate/model.pub"
    done = stock(model, signature, key)
    assert done.returncode == 0, done.stdout + done.stderr
    command = [stock_python, "-c", _FLIPS, model, signature, key, FLIPS]
    flips = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert flips.stdout.strip() == "0", flips.stdout + flips.stderr
    (model / "more.py").write_text("x")
    assert stock(model, signature, key).returncode != 0
    (model / "more.py").unlink()
    other = KeySettings(gate_key=str(tmp_path / "o.pem"), trusted_keys=str(tmp_path / "o"))
    keys.create("gate", other)
    (tmp_path / "other.pub").write_bytes(model_signature.public_pem(keys.signer("gate", other)))
    assert stock(model, signature, tmp_path / "other.pub").returncode != 0
    (tmp_path / "none.sig").write_bytes(b"{}")
    assert stock(model, tmp_path / "none.sig", key).returncode != 0
