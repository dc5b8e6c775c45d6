"""`make lock`: resolves pinned, hashed requirements for every platform, without a registry's address."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = Path("infra") / "requirements"
IMAGES = {"serving": ("serving", "tracing"), "flows": ("server", "flows", "kubernetes", "containers")}
COMPILE = [
    *(str(ROOT / ".venv" / "bin" / "uv"), "pip", "compile", "--universal", "--generate-hashes", "--quiet"),
    *(
        "--no-emit-index-url",
        "--python-version",
        "3.11",
        "--upgrade",
        "--custom-compile-command",
        "make lock",
    ),
]


def main() -> None:
    """Write each file. `dev.txt` comes first, because it limits the versions of the others."""
    dev = str(FOLDER / "dev.txt")
    extras = ["pyproject.toml"]
    for room in ("serving", "tracing", "server", "flows", "containers", "local"):
        extras += ["--extra", room]
    _compile([*extras, "--extra", "kubernetes", "--extra", "dev", "-o", dev])
    _compile([*extras, "-c", dev, "-o", str(FOLDER / "app.txt")])
    # The two images: no test tools, and none of what only the local stack needs.
    for image, rooms in IMAGES.items():
        wanted = [part for room in rooms for part in ("--extra", room)]
        _compile(["pyproject.toml", *wanted, "-c", dev, "-o", str(FOLDER / f"{image}.txt")])
    _compile(["-", "-c", dev, "-o", str(FOLDER / "bootstrap.txt")], "uv\n")
    # What the build stages of the images use; none of it is in an image.
    _compile(["-", "-c", dev, "-o", str(FOLDER / "build.txt")], "uv\nhatchling\ncyclonedx-bom\n")
    _compile([str(FOLDER / "checks.in"), "-o", str(FOLDER / "checks.txt")])


def _compile(arguments: list[str], stdin: str = "") -> None:
    subprocess.run([*COMPILE, *arguments], cwd=ROOT, input=stdin, text=True, check=True)


if __name__ == "__main__":
    main()
