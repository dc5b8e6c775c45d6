"""Handles a predictor process."""

import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.waiting import until


@dataclass(frozen=True)
class Published:
    """A tracking server with models in Production, and the folder of the keys that signed for them."""

    url: str
    trusted: str


@dataclass
class Running:
    """A predictor process."""

    process: subprocess.Popen[str]
    url: str
    log: Path
    # Whether tests of other files use it too.
    shared: bool = False

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        return httpx.request(method, self.url + path, timeout=10, **options)

    def get(self, path: str, **options: Any) -> httpx.Response:
        return httpx.get(self.url + path, timeout=10, **options)

    def post(self, name: str, **options: Any) -> httpx.Response:
        return httpx.post(f"{self.url}/api/predict/{name}", timeout=10, **options)

    def loaded(self) -> dict[str, Any]:
        """Wait until no model is being loaded any more, and return what /readyz says of each."""

        def models() -> dict[str, Any]:
            found: dict[str, Any] = self.get("/readyz").json()["models"]
            return found

        def all_loaded() -> bool:
            return not any("being loaded" in (model["reason"] or "") for model in models().values())

        until(all_loaded, lambda: f"still loading: {self.log.read_text()}")
        return models()

    def kill(self) -> None:
        """End it, if it has not ended."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def stop(self) -> int:
        """Ask it to stop and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)


Start = Callable[..., Running]
