"""How the Makefile hands settings on."""

import os
import subprocess
from pathlib import Path

from tests.conftest import ROOT


def test_empty_setting_is_no_setting_and_others_pass_as_they_are(tmp_path: Path) -> None:
    """A workflow hands on variables that nobody has set, as empty ones."""
    makefile = tmp_path / "Makefile"
    makefile.write_text(f"include {ROOT / 'Makefile'}\nshow-settings: ; @env\n")
    done = subprocess.run(
        ["make", "-s", "-f", str(makefile), "show-settings"],
        env={
            "PATH": os.environ["PATH"],
            "GREENROOM_TRACKING_URI": "",
            "GREENROOM_TRACKING_PASSWORD": "a$b $(echo x) #c",
        },
        capture_output=True,
        text=True,
        check=True,
    )
    shown = dict(line.partition("=")[::2] for line in done.stdout.splitlines())
    assert "GREENROOM_TRACKING_URI" not in shown
    assert shown["GREENROOM_TRACKING_PASSWORD"] == "a$b $(echo x) #c"


def test_names_of_models_are_never_run_by_the_shell(tmp_path: Path) -> None:
    """They come from whoever starts a workflow by hand."""
    for target in ("model-list", "model-gate", "data-validation", "model-training"):
        planted = {"MODELS": f"; touch {tmp_path}/run", "MODEL": f"$(touch {tmp_path}/run)"}
        done = subprocess.run(
            ["make", "-s", target],
            cwd=ROOT,
            env={**os.environ, **planted, "DATASET": f"`touch {tmp_path}/run`"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode != 0, target
        assert not (tmp_path / "run").exists(), target
