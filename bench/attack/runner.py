"""Tries ways on a target, and looks after each whether all is as it was, or who tells that it is not."""

import json
import re
import traceback
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from bench.attack.target import Answer, Target, send
from bench.attack.ways import DETECTED, PREVENTED, Attempt, Way
from registry.client import audit_log, verification
from registry.client.registry import Registry, Version
from registry.errors import EvidenceError, RegistryError, RegistryRefusedError
from registry.names import EVIDENCE, GATE, OVERRIDE, Stage

_RESERVED = (EVIDENCE, OVERRIDE, GATE, "mlflow.prompt.is_prompt")
# What the audit may say of the stand's own models while they are attacked.
_REPORTED = {"refused", "mismatch", "alias"}
_SIGNATURE = re.compile(r'\\*"sig\\*":\s*\\*"([A-Za-z0-9+/_=-]{80,})')


@dataclass(frozen=True)
class Result:
    """What came of one way: prevented, detected or slipped, and why if it slipped."""

    way: Way
    outcome: str
    why: str = ""
    statuses: tuple[int, ...] = ()


@dataclass
class Runner:
    """Tries ways one after the other."""

    target: Target
    results: list[Result] = field(default_factory=list)

    def run(self, ways: Iterable[Way]) -> list[Result]:
        """Try ways of one kind, and look at everything at the end; return what slipped."""
        ways = list(ways)
        self._secrets = self.target.secrets()
        self._known = self._signatures()
        whole, first = everything(self.target), picture(self.target)
        before, start = first, len(self.results)
        for way in ways:
            result, before = self._try(way, before)
            self.results.append(result)
        if ways and (why := self._afterwards(whole, first, before)):
            self.results.append(Result(ways[-1], "slipped", f"after all of {ways[-1].kind}: {why}"))
        return [result for result in self.results[start:] if result.outcome == "slipped"]

    def _try(self, way: Way, before: dict[str, Any]) -> tuple[Result, dict[str, Any]]:
        try:
            attempt = way.act(self.target)
            if isinstance(attempt, Answer):
                attempt = Attempt((attempt,))
            after = picture(self.target)
            outcome, why = self._judge(way, attempt, before, after)
        except Exception:  # noqa: BLE001 - a way that cannot be tried has not been prevented
            return Result(way, "slipped", traceback.format_exc(limit=-4)), picture(self.target)
        return Result(way, outcome, why, tuple(answer.status for answer in attempt.answers)), after

    def _judge(
        self, way: Way, attempt: Attempt, before: dict[str, Any], after: dict[str, Any]
    ) -> tuple[str, str]:
        """Return the outcome of an attempt, and why if it slipped."""
        for answer in attempt.answers:
            if leak := self._leak(answer.text):
                return "slipped", f"the answer holds {leak}"
        if changed := differences(before, after):
            return "slipped", f"changed: {changed}"
        if attempt.told is not None:
            return (DETECTED, "") if attempt.told else ("slipped", f"{way.by} says nothing")
        bad = [a for a in attempt.answers if not (a.refused or (way.harmless and 0 < a.status < 300))]
        if not bad:
            return PREVENTED, ""
        if way.outcome == PREVENTED:
            return "slipped", f"answered {bad[0].status}: {bad[0].text[-300:]}"
        why = undetected(self.target, way, attempt)
        return ("slipped", why) if why else (DETECTED, "")

    def _leak(self, text: str) -> str:
        if any(secret in text for secret in self._secrets):
            return "a key or a password"
        new = [signature for signature in _SIGNATURE.findall(text) if signature not in self._known]
        return "a signature that was not there before" if new else ""

    def _signatures(self) -> set[str]:
        envelopes = self.target.rows(
            "SELECT value FROM model_version_tags WHERE key IN (%s, %s)", EVIDENCE, OVERRIDE
        )
        return {signature for (text,) in envelopes for signature in _SIGNATURE.findall(text)}

    def _afterwards(self, whole: dict[str, Any], first: dict[str, Any], last: dict[str, Any]) -> str:
        """Return what is not as it was before the first way, or what `verify` finds."""
        changed = differences({**whole, **first}, {**everything(self.target), **last})
        changed.pop("head", None)
        if changed:
            return f"changed: {changed}"
        rows = self.target.rows(
            "SELECT body FROM greenroom.audit WHERE id > %s AND model NOT LIKE 'prey-%%'", whole["head"]
        )
        actions = {json.loads(body)["action"] for (body,) in rows} - _REPORTED
        if actions:
            return f"the audit has rows of {sorted(actions)}"
        models = [name for name in (self.target.model, self.target.judged) if name]
        report = verification.verify(self.target.client, self.target.keys, models)
        return "; ".join(report.problems)


def picture(target: Target) -> dict[str, Any]:
    """Return what no way may change: looked at after each."""
    models = [name for name in (target.model, target.judged) if name]
    versions = target.rows(
        "SELECT name, version, current_stage, source, storage_location, run_id FROM model_versions "
        "WHERE current_stage IN ('Staging', 'Production') AND name NOT LIKE 'prey-%%' "
        "OR name = %s AND version <= 4 ORDER BY 1, 2",
        target.model,
    )
    tags = target.rows(
        "SELECT name, version, key, md5(value) FROM model_version_tags "
        "WHERE (name = %s AND version <= 4 OR name = %s AND version = 1) AND key = ANY(%s) ORDER BY 1, 2, 3",
        target.model,
        target.judged,
        list(_RESERVED),
    )
    marks = target.rows(
        "SELECT name, key FROM registered_model_tags WHERE name = ANY(%s) AND (key = ANY(%s) "
        "OR key LIKE 'greenroom.%%') ORDER BY 1, 2",
        models,
        list(_RESERVED),
    )
    aliases = target.rows(
        "SELECT name, alias, version FROM registered_model_aliases WHERE name = ANY(%s) "
        "AND lower(alias) IN ('champion', 'production', 'prod', 'live') ORDER BY 1, 2",
        models,
    )
    places = target.places
    ground = target.rows(
        "SELECT run_uuid, lifecycle_stage, artifact_uri FROM runs WHERE run_uuid IN (%s, %s) "
        "UNION ALL SELECT model_id, lifecycle_stage, artifact_location FROM logged_models "
        "WHERE model_id IN (%s, %s) UNION ALL SELECT experiment_id::text, lifecycle_stage, artifact_location "
        "FROM experiments WHERE experiment_id = %s ORDER BY 1",
        *(places["run1"], places["run2"], places["model1"], places["model2"], int(places["experiment"])),
    )
    return {
        "versions": versions,
        "reserved tags": tags,
        "tags of models": marks,
        "aliases": aliases,
        "runs and logged models": ground,
        "files": {number: target.objects(target.places[f"files{number}"]) for number in (1, 2)},
    }


def everything(target: Target) -> dict[str, Any]:
    """Return what is looked at after each kind: what is served, keys, the head of the audit."""
    served = send(target.url("SERVING"), "GET", "/api/models").text.partition("\n\n")[2]
    models = json.loads(served).get("models", []) if served.startswith("{") else served
    folder = target.home / "keys"
    return {
        "served": [
            (m["name"], m["version"], m["digest"]) for m in models if not m["name"].startswith("prey-")
        ],
        "keys": sorted(
            (str(path.relative_to(folder)), sha256(path.read_bytes()).hexdigest())
            for path in folder.rglob("*.pem")
        ),
        "head": target.rows("SELECT id FROM greenroom.head")[0][0],
        "guards": target.rows(
            "SELECT tgname, tgrelid::regclass::text, tgenabled FROM pg_trigger WHERE NOT tgisinternal "
            "AND tgname LIKE 'greenroom%%' ORDER BY 1, 2"
        ),
        "functions": target.rows(
            "SELECT p.oid::regprocedure::text, md5(prosrc), proacl::text, proowner::regrole::text FROM pg_proc p "
            "WHERE pronamespace = 'greenroom'::regnamespace ORDER BY 1"
        ),
        "rights": target.rows(
            "SELECT relnamespace::regnamespace::text, relname, relowner::regrole::text, relacl::text "
            "FROM pg_class WHERE relnamespace IN ('greenroom'::regnamespace, 'public'::regnamespace) ORDER BY 1, 2"
        ),
        "roles": target.rows(
            "SELECT rolname, rolsuper, rolcreaterole, rolreplication, rolbypassrls FROM pg_roles "
            "WHERE rolname IN ('mlflow', 'prefect', 'postgres') ORDER BY 1"
        ),
    }


def differences(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """Return what differs, by name: what was there and what came, without what is the same."""
    changed = {}
    for name, was in before.items():
        now = after[name]
        if was != now:
            lost = [row for row in was if row not in now] if isinstance(was, list) else was
            came = [row for row in now if row not in was] if isinstance(was, list) else now
            changed[name] = (lost, came)
    return changed


def undetected(target: Target, way: Way, attempt: Attempt) -> str:
    """Return why what happened to a model is not told as it must be; nothing if it is."""
    model = attempt.model or target.model
    if way.by == "verify":
        report = verification.verify(target.client, target.keys, [model], full=True)
        mine = [problem for problem in report.problems if model in problem or problem.startswith("row ")]
        return "" if mine else f"verify finds nothing: {report.notes[-3:]}"
    registry = Registry(target.client)
    if way.by == "audit":
        rows = audit_log.history(target.client, model)
        told = [row for row in rows if row.action in ("sql", "evidence", "mismatch")]
        return "" if told else f"the audit says {[row.action for row in rows]}"
    version = registry.version(model, attempt.version)
    if way.by == "predictor":
        return "" if predictor_refuses(target, version) else "a predictor would load it"
    return "" if _transition_refuses(registry, version) else "the next transition takes it"


def predictor_refuses(target: Target, version: Version) -> bool:
    """Return whether a predictor would not load a version, by the questions that it asks first."""
    try:
        Registry(target.client).verified_model_bytes(version, target.keys)
    except (EvidenceError, RegistryError):
        return True
    return False


def _transition_refuses(registry: Registry, version: Version) -> bool:
    to = Stage.PRODUCTION if version.stage is Stage.STAGING else Stage.STAGING
    try:
        registry.promote(version, to)
    except RegistryRefusedError:
        return True
    return False


def tables(results: Sequence[Result]) -> str:
    """Return the numbers as Markdown: a table by kind, and one by account."""
    by_kind = _table("kind", results, [result.way.kind for result in results])
    return f"{by_kind}\n\n{_table('who', results, [result.way.account for result in results])}"


def _table(name: str, results: Sequence[Result], groups: Sequence[str]) -> str:
    lines = [f"| {name} | ways | prevented | detected | slipped |", "|---|---:|---:|---:|---:|"]
    for group in dict.fromkeys(groups):
        mine = [result for result, of in zip(results, groups, strict=True) if of == group]
        lines.append(_row(group, mine))
    return "\n".join([*lines, _row("**all**", results)])


def _row(name: str, results: Sequence[Result]) -> str:
    counted = Counter(result.outcome for result in results)
    numbers = (counted.total(), *(counted[outcome] for outcome in (PREVENTED, DETECTED, "slipped")))
    return f"| {name} | {' | '.join(map(str, numbers))} |"
