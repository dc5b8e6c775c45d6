"""What the running predictors serve. Each follows the registry by itself; nobody has to tell it anything."""

import httpx
from pydantic import Field

from registry.settings import GreenroomSettings


class PredictorSettings(GreenroomSettings):
    """Which predictors there are."""

    predictors: str = Field(
        default="",
        description="GREENROOM_PREDICTORS: addresses of the running predictors, separated by commas. "
        "`greenroom status` and the deployments ask each what it serves.",
    )

    @property
    def predictor_urls(self) -> list[str]:
        """The addresses, without trailing slashes."""
        return [url.strip().rstrip("/") for url in self.predictors.split(",") if url.strip()]


def served_versions(url: str) -> dict[str, dict[str, int]]:
    """Return the version of each model that a predictor serves, for each of its processes.

    The outer keys are the predictor's address, with a process id where there are several processes. What does
    not answer, or is no predictor, serves nothing.
    """
    try:
        # Not /api/models, which may need a key.
        answer = httpx.get(f"{url}/readyz", timeout=5, trust_env=False).json()
        if workers := answer.get("workers"):
            return {f"{url} (process {worker['pid']})": dict(worker["versions"]) for worker in workers}
        return {url: {name: m["version"] for name, m in answer["models"].items() if m.get("version")}}
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError, AttributeError):
        return {url: {}}
