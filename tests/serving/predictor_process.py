"""Handles a predictor process."""

import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx


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
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            models: dict[str, Any] = self.get("/readyz").json()["models"]
            if not any("being loaded" in (model["reason"] or "") for model in models.values()):
                return models
            time.sleep(0.05)
        raise AssertionError(f"still loading: {self.log.read_text()}")

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
