"""Serves the versions in Production, and never replaces a good version by a bad one.

One thread asks the registry every second. A new version is loaded, verified and warmed beside the old one,
and then takes its place in one step. A version that cannot be loaded is refused; `/readyz` gives the reason.
While the registry does not answer, everything goes on as it is.
"""

import gc
import logging
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from functools import partial
from threading import Event, Thread
from typing import Protocol

from registry.client.registry import MODEL_FILE, Registry, Version, digest_of
from registry.client.standing import without_standing
from registry.client.tracking_client import TrackingClient
from registry.digests import digest
from registry.errors import EvidenceError, RegistryError, RegistryUnavailableError
from registry.evidence.attestation import read_unverified
from registry.names import EVIDENCE, OVERRIDE, Stage
from serving import limits
from serving.inference.predictor import Predictor, RefusedLoad, RegistryState, Served, Unavailable
from serving.models import loader
from serving.models.cache import ModelCache
from serving.models.loader import Content
from serving.models.onnx_trials import TRIED_BY, OnnxTrials, TrialError
from serving.models.worker_process import WorkerError
from serving.process.memory import release_memory
from serving.settings import ServingSettings

_log = logging.getLogger("greenroom.serving")
# Seconds after which a version that was refused is looked at again: evidence or a key may have come.
_AGAIN = 15.0
# The same after it ended or hung a process: it will again, and the other models wait for it.
_AGAIN_AFTER_TRIAL = 300.0


class WatcherMetrics(Protocol):
    """What the watcher counts; serving/middleware/metrics.py has it."""

    def swapped(self, model: str, version: int | None) -> None:
        """A version took its place, or none is served any more."""

    def refused_load(self, model: str, reason_code: str) -> None:
        """A version was not taken."""

    def run_ended(self, model: str, why: str) -> None:
        """A run took too long (`late`) or ended its process (`crashed`)."""

    def cache_state(self, model: str, source: str) -> None:
        """What is served came from `registry` or from `cache`."""


class Watcher:
    """The thread that watches the registry for one process."""

    def __init__(
        self,
        predictor: Predictor,
        settings: ServingSettings,
        meters: WatcherMetrics,
        after_each_look: Callable[[], None] = lambda: None,
    ) -> None:
        """Watch for `predictor`; `after_each_look` is called after every look."""
        self._predictor, self._settings, self._meters = predictor, settings, meters
        self._after_each_look = after_each_look
        self._cache = ModelCache(settings.serving_cache_path)
        self._trials = OnnxTrials(meters.run_ended)
        self._stopped = Event()
        # When each refused version may be tried again, by model and number.
        self._again: dict[tuple[str, int], float] = {}
        specs = predictor.specs.values()
        self._datasets = {spec.dataset.name: spec.dataset for spec in specs}.values()
        self._left_out: frozenset[str] = frozenset()
        self._client: TrackingClient | None = None

    def start(self) -> None:
        """Begin; a daemon, because a download under way has nothing to lose when the process ends."""
        Thread(target=self._run, name="watch-registry", daemon=True).start()

    def stop(self) -> None:
        """Look no more."""
        self._stopped.set()

    def _run(self) -> None:
        kept = self._cache.names()
        if not kept:  # then there will be something to load
            with suppress(WorkerError):  # the first model says why
                self._trials.prepare()
        for name in self._wanted([*self._predictor.specs, *kept]):
            self._guarded(name, partial(self._from_cache, name))
        self._look()
        release_memory()
        # All that was imported and built by now stays: the collector need not walk through it again, which
        # keeps all requests waiting for a tenth of a second.
        gc.collect()
        gc.freeze()
        while True:
            self._tell()
            if self._stopped.wait(limits.POLL):
                break
            before = self._predictor.states
            self._look()
            self._trials.rest()
            if self._predictor.states is not before:
                release_memory()
        self._trials.close()
        if self._client is not None:
            self._client.close()

    def _tell(self) -> None:
        try:
            self._after_each_look()
        except Exception:  # noqa: BLE001 - the watcher must not stop because a disk is full
            _log.exception("the served versions could not be written for the other workers")

    def _look(self) -> None:
        try:
            registry = self._open()
            versions = registry.production_versions()
            for name in self._wanted([*self._predictor.states, *versions]):
                if self._stopped.is_set():
                    return
                version = versions.get(name)
                if version is None and isinstance(self._predictor.states.get(name), Served):
                    version = registry.in_stage(name, Stage.PRODUCTION)  # before it is taken for gone
                self._guarded(name, partial(self._follow, registry, name, version))
            self._registry(None)
        except RegistryUnavailableError as error:
            self._registry(error.message, str(error))
        except RegistryError as error:
            self._registry("It refuses; the predictor's log says why.", str(error))
        except Exception as error:  # noqa: BLE001 - an answer that is not what the registry answers
            if self._predictor.registry.problem is None:
                _log.exception("what the registry answers cannot be read")
            self._registry(f"It answers what cannot be read ({type(error).__name__}); the log says more.")

    def _open(self) -> Registry:
        # Kept: making one takes 20 ms, in which this thread keeps the others from working.
        if self._client is None:
            self._client = TrackingClient(self._settings)
        return Registry(self._client)

    def _wanted(self, names: Iterable[str]) -> list[str]:
        """Return those of the names that this predictor serves, the declared ones first; so many at most."""
        declared = self._predictor.specs
        patterns = self._settings.serving_model_patterns
        fit = [
            name for name in dict.fromkeys(names) if any(fnmatchcase(name, pattern) for pattern in patterns)
        ]
        others = [name for name in fit if name not in declared]
        # What is served stays; of the rest, the first by name.
        others.sort(key=lambda name: (name not in self._predictor.states, name))
        most = self._settings.serving_max_models
        if (left_out := frozenset(others[most:])) != self._left_out:
            self._left_out = left_out
            if left_out:
                _log.warning(
                    "%d models are not served, because GREENROOM_SERVING_MAX_MODELS is %d: %s",
                    *(len(left_out), most, ", ".join(sorted(left_out)[:20])),
                )
        return [name for name in fit if name in declared] + others[:most]

    def _guarded(self, name: str, step: Callable[[], None]) -> None:
        """Take a step for one model; a failure of any kind does not affect the other models."""
        try:
            step()
        except RegistryUnavailableError:
            raise
        except Exception as error:  # noqa: BLE001 - the others go on
            _log.exception("%s", name)
            reason = f"Loading it failed ({type(error).__name__}); the predictor's log says more."
            self._unavailable(name, reason)

    def _follow(self, registry: Registry, name: str, version: Version | None) -> None:
        """Serve the version in Production, unless it is served already."""
        state = self._predictor.states.get(name)
        if version is None:
            if isinstance(state, Served):
                _log.warning("%s version %d was taken out of Production", name, state.version)
                self._cache.forget(name)
            self._predictor.refuse(name, None)
            if name not in self._predictor.specs:  # nothing says any more that there is such a model
                self._predictor.swap(name, None)
                self._meters.swapped(name, None)
                return
            self._unavailable(
                name,
                f"It has no version in Production. Train one with `greenroom train {name}`, promote it with "
                f"`greenroom promote {name} VERSION`.",
                even_if_served=True,
            )
            return
        if isinstance(state, Served) and _is_same(version, state):
            if state.source == "cache":  # the registry is back and says the same
                self._swap(name, replace(state, source="registry"))
            self._check_standing(name, version)
            return
        if time.monotonic() < self._again.get((name, version.number), 0.0):
            return
        try:
            self._trials.prepare()  # it starts while the file is fetched
            content = loader.from_registry(registry, version, self._settings)
            served = self._loaded(version, content)
        except RegistryUnavailableError:
            raise
        except RegistryError as error:
            self._refuse(name, version.number, error)
            return
        self._swap(name, served)
        self._cache.keep(version, content, TRIED_BY if self._trials.passed(served.model.digest) else "")
        _log.info("%s version %d is served, %s", name, version.number, served.model.digest)

    def _check_standing(self, name: str, version: Version) -> None:
        """Report evidence that does not speak for the served version any more; it is served on."""
        standings = without_standing([version], self._settings)
        if not standings:
            self._predictor.refuse(name, None)
            return
        reason, before = f"It is served on. {standings[0]}", self._predictor.refused.get(name)
        if before is None or before.reason != reason:
            _log.warning("%s version %d: %s", name, version.number, reason)
            self._meters.refused_load(name, standings[0].error.code)
            self._predictor.refuse(name, RefusedLoad(version.number, reason, datetime.now(UTC)))

    def _loaded(self, version: Version, content: Content) -> Served:
        contract = self._predictor.declared.get(version.model)
        model, derived = loader.loaded(contract, version.model, content, self._datasets, self._trials)
        return Served(
            version.number, model, datetime.now(UTC), contract=None if contract is not None else derived
        )

    def _from_cache(self, name: str) -> None:
        kept = self._cache.last_good(name)
        if kept is None:
            return
        version, content = kept
        try:
            loader.require_checked(version, content, self._settings)
            if self._cache.tried_by(name) == TRIED_BY:
                self._trials.trust(digest(content))
            served = replace(self._loaded(version, content), source="cache")
        except RegistryError as error:
            _log.warning("what was kept of %s is not used: %s", name, error)
            return
        self._swap(name, served)
        _log.info("%s version %d is served from the cache, %s", name, version.number, served.model.digest)

    def _swap(self, name: str, served: Served) -> None:
        self._predictor.swap(name, served)
        self._predictor.refuse(name, None)
        self._meters.swapped(name, served.version)
        self._meters.cache_state(name, served.source)

    def _refuse(self, name: str, number: int, error: RegistryError) -> None:
        """Report a refused version; the served version stays."""
        again = _AGAIN_AFTER_TRIAL if isinstance(error, TrialError) else _AGAIN
        self._again[name, number] = time.monotonic() + again
        before = self._predictor.refused.get(name)
        if before is None or (before.version, before.reason) != (number, str(error)):
            _log.warning("%s version %d is refused: %s", name, number, error)
            self._meters.refused_load(name, _code(error))
        self._predictor.refuse(name, RefusedLoad(number, str(error), datetime.now(UTC)))
        self._unavailable(name, str(error))

    def _unavailable(self, name: str, reason: str, *, even_if_served: bool = False) -> None:
        """Report why no version of a model is served; a served one stays, unless `even_if_served`."""
        state = self._predictor.states.get(name)
        if isinstance(state, Served) and not even_if_served:
            return
        reason = f"The model {name!r} is not served. {reason}"
        if state != Unavailable(reason):
            self._predictor.swap(name, Unavailable(reason))
            self._meters.swapped(name, None)
            _log.warning("%s", reason)

    def _registry(self, problem: str | None, in_full: str = "") -> None:
        """Remember whether the registry answers; every caller may read `problem`, the log has it in full."""
        before = self._predictor.registry
        if (before.problem is None) != (problem is None) or before.checked_at is None:
            if problem:
                _log.warning("the registry does not answer; what is served goes on. %s", in_full or problem)
            elif before.problem:
                _log.info("the registry answers again")
        self._predictor.registry = RegistryState(problem, datetime.now(UTC))
        if problem:
            for name, state in self._predictor.states.items():
                if isinstance(state, Unavailable) and "being loaded" in state.reason:
                    self._unavailable(name, problem)


def _code(error: RegistryError) -> str:
    if isinstance(error, EvidenceError):
        return error.code
    return "trial" if isinstance(error, TrialError) else "format"


def _is_same(version: Version, served: Served) -> bool:
    """Whether a served model is a version of the registry: by its number, and by the file of its evidence.

    A version that was deleted and made anew under the same number has other evidence.
    """
    if served.version != version.number:
        return False
    evidence = read_unverified(version.tags.get(EVIDENCE) or version.tags.get(OVERRIDE, ""))
    named = digest_of(evidence.files, MODEL_FILE) if evidence else None
    return named in (None, served.model.digest)
