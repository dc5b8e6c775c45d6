"""A registry in memory, for the gate's tests."""

from typing import Any, Self

from registry.client.registry import Registry, Version
from registry.errors import NotFoundError, RegistryUnavailableError


class MemoryClient:
    """Answers like the tracking client, for versions of the model `energy` and their artifacts."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.answers = True
        self.found: dict[int, dict[str, Any]] = {}
        # Parameters and tags of every run.
        self.run_data: dict[str, Any] = {}

    def add(self, files: dict[str, bytes], stage: str = "None") -> Version:
        """Register a version with files of its run (`run/...`) and of its model (`model/...`)."""
        number = len(self.found) + 1
        self.found[number] = {
            "name": "energy",
            "version": str(number),
            "run_id": f"r{number}",
            "source": f"models:/m-{number}",
            "current_stage": stage,
            "tags": [],
        }
        self.files |= {f"{number}/{path}": content for path, content in files.items()}
        return Registry(self).version("energy", number)  # type: ignore[arg-type]

    def __call__(self) -> Self:
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def require(self, answer: dict[str, Any], key: str) -> Any:
        return answer[key]

    def get(self, path: str, params: dict[str, Any]) -> dict[str, Any]:
        if not self.answers:
            raise RegistryUnavailableError("no answer")
        if path == "registered-models/alias":  # the audit, in which nothing is
            return {"model_version": {"tags": []}}
        if path == "runs/get":
            run = {"info": {"artifact_uri": f"{params['run_id'][1:]}/run"}, "data": self.run_data}
            return {"run": run}
        if params["version"] not in self.found:
            raise NotFoundError("none")
        if path == "model-versions/get":
            return {"model_version": self.found[params["version"]]}
        return {"artifact_uri": f"{params['version']}/model"}

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        if path == "model-versions/set-tag":
            tags = self.found[int(body["version"])]["tags"]
            tags[:] = [tag for tag in tags if tag["key"] != body["key"]]
            tags.append({"key": body["key"], "value": body["value"]})
            return {}
        assert path == "registered-models/get-latest-versions"
        return {"model_versions": [v for v in self.found.values() if v["current_stage"] in body["stages"]]}

    def pages(self, *_: object) -> list[dict[str, Any]]:
        return list(self.found.values())

    def artifact(self, uri: str, path: str, *, max_bytes: int | None = None) -> bytes:
        if f"{uri}/{path}" not in self.files:
            raise NotFoundError(f"no {path}")
        return self.files[f"{uri}/{path}"]

    def artifact_paths(self, uri: str) -> list[str]:
        return sorted(path.removeprefix(f"{uri}/") for path in self.files if path.startswith(f"{uri}/"))

    def put_artifact(self, uri: str, path: str, content: bytes) -> None:
        self.files[f"{uri}/{path}"] = content

    def untag(self) -> None:
        """Take all evidence away."""
        for version in self.found.values():
            version["tags"] = []
