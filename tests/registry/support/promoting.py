"""Promotes two versions in turn, fast: what the tests of concurrency and of kills do many times."""

import random
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime

import httpx

from registry.client.registry import MODEL_FILE, Registry, digest_of
from registry.client.tracking_client import TrackingClient
from registry.digests import tree_digest
from registry.evidence import keys
from registry.evidence.attestation import attest_verdict
from registry.evidence.verdict import Incumbent, Verdict
from registry.settings import KeySettings, RegistrySettings
from tests.evidence import outcome


class Promoter:
    """Knows two versions, and promotes whichever is not in Production, on fresh evidence."""

    def __init__(self, tracking_url: str, name: str, settings: KeySettings) -> None:
        with TrackingClient(RegistrySettings(tracking_uri=tracking_url)) as client:
            registry = Registry(client)
            self._versions = {v.number: v for v in registry.versions(name)}
            self._files = {number: registry.files(v) for number, v in self._versions.items()}
        self._url, self._name = tracking_url, name
        self._signer = keys.signer("gate", settings)
        self.outcomes: Counter[str] = Counter()

    def run(self, until: Callable[[int], bool]) -> Counter[str]:
        """Try until `until(attempts)` says that it is enough; return how often each outcome came."""
        attempts = 0
        with httpx.Client(base_url=f"{self._url}/api/2.0/mlflow/", timeout=30) as http:
            while not until(attempts):
                attempts += 1
                self.outcomes[self._attempt(http)] += 1
        return self.outcomes

    def _attempt(self, http: httpx.Client) -> str:
        number = random.choice(list(self._versions))
        try:
            asked = {"name": self._name, "stages": ["Production"]}
            found = http.post("registered-models/get-latest-versions", json=asked).json()["model_versions"]
            current = int(found[0]["version"])
            if current == number:
                number = next(n for n in self._versions if n != current)
            about = {"name": self._name, "version": str(number)}
            tag = {"key": "greenroom.evidence", "value": self._envelope(number, current)}
            tagged = http.post("model-versions/set-tag", json={**about, **tag})
            if tagged.status_code != 200:
                return _name(tagged)
            body = {**about, "stage": "Production", "archive_existing_versions": random.random() < 0.5}
            return _name(http.post("model-versions/transition-stage", json=body))
        except (httpx.TransportError, ValueError, KeyError):
            return "no answer"  # the server was killed meanwhile

    def _envelope(self, number: int, current: int) -> str:
        files = self._files[number]
        verdict = Verdict(
            model=self._name,
            task="regression",
            model_digest=digest_of(files, MODEL_FILE) or "",
            policy_digest="sha256:" + "0" * 64,
            dataset_digests={},
            incumbent=Incumbent(version=current, digest=tree_digest(self._files[current])),
            outcomes=(outcome("Performance"),),
        )
        return attest_verdict(
            verdict,
            version=number,
            source=self._versions[number].source,
            files=files,
            report_digest="sha256:" + "3" * 64,
            signer=self._signer,
            created_at=datetime.now(UTC),
        )


def _name(answer: httpx.Response) -> str:
    return "promoted" if answer.status_code == 200 else str(answer.status_code)
