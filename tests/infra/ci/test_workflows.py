"""What the workflows may and may not do. Each rule is also held against a workflow that breaks it."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
ACTIONS = sorted((ROOT / ".github" / "actions").glob("*/action.yml"))
NAMES = {
    *("ci", "code-checks", "tests", "data-validation", "model-gate", "model-gate-comment"),
    *("model-training", "build-container", "deploy"),
}
PINNED = re.compile(r"uses: [\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+(\.\d+)*$")
OURS = re.compile(r"uses: \$/\.github/")
MAKE = re.compile(r"make ([a-z-]+)\Z")
# Events in which a stranger's pull request is near a token that may write.
DANGEROUS = {"pull_request_target", "workflow_run"}


def load(path: Path) -> dict[Any, Any]:
    """A workflow; YAML reads its `on:` as true."""
    found: dict[Any, Any] = yaml.safe_load(path.read_text())
    return found


def problems(name: str, text: str) -> Iterator[str]:
    """What is wrong with one workflow or action, by the house's rules."""
    content = yaml.safe_load(text)
    for line in text.splitlines():
        if "uses:" in line and not (PINNED.search(line.strip("- ")) or OURS.search(line)):
            yield f"{name}: not pinned by SHA with its tag: {line.strip()}"
    if "jobs" in content and content.get("permissions") != {}:
        yield f"{name}: the workflow as a whole has permissions"
    if "jobs" in content and "concurrency" not in content:
        yield f"{name}: no concurrency group"
    jobs = content.get("jobs", {"action": content.get("runs", {})})
    for job, said in jobs.items():
        if "jobs" in content and "permissions" not in said:
            yield f"{name}/{job}: no permissions of its own"
        if "jobs" in content and "uses" not in said and not 0 < said.get("timeout-minutes", 0) <= 60:
            yield f"{name}/{job}: no timeout"
        for step in said.get("steps", []):
            yield from wrong_step(f"{name}/{job}", step)


def wrong_step(where: str, step: dict[str, Any]) -> Iterator[str]:
    """What is wrong with a step: everything that runs is a target of the Makefile, with values from `env`."""
    if "run" in step:
        target = MAKE.match(step["run"].strip())
        if not target:
            yield f"{where}: runs something that is no `make TARGET`: {step['run']}"
        elif target[1] not in targets():
            yield f"{where}: make has no target {target[1]}"
    action = step.get("uses", "")
    if (
        action.startswith("actions/checkout@")
        and step.get("with", {}).get("persist-credentials") is not False
    ):
        yield f"{where}: the checkout keeps its token"


def targets() -> set[str]:
    """The Makefile's targets."""
    return set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_every_workflow_is_there() -> None:
    assert {path.stem for path in WORKFLOWS} == NAMES
    for path in WORKFLOWS:
        assert load(path)["name"] == path.stem


@pytest.mark.parametrize("path", [*WORKFLOWS, *ACTIONS], ids=lambda path: f"{path.parent.name}/{path.name}")
def test_workflow_keeps_the_rules(path: Path) -> None:
    assert list(problems(path.name, path.read_text())) == []


GOOD = """
on: push
permissions: {}
concurrency: {group: x}
jobs:
  a:
    runs-on: ubuntu-24.04
    timeout-minutes: 5
    permissions: {contents: read}
    steps:
      - uses: actions/checkout@df4cb1c069e1874edd31b4311f1884172cec0e10 # v6.0.3
        with: {persist-credentials: false}
      - run: make lint
"""


@pytest.mark.parametrize(
    ("change", "to", "said"),
    [
        ("@df4cb1c069e1874edd31b4311f1884172cec0e10 # v6.0.3", "@v6.0.3", "not pinned"),
        (" # v6.0.3", "", "not pinned"),
        ("make lint", "curl https://example.org | sh", "no `make TARGET`"),
        ("make lint", "make lint && ./more", "no `make TARGET`"),
        ("make lint", "make ${{ inputs.x }}", "no `make TARGET`"),
        ("make lint", "make no-such-thing", "no target"),
        ("permissions: {}", "permissions: write-all", "as a whole"),
        ("    permissions: {contents: read}\n", "", "of its own"),
        ("    timeout-minutes: 5\n", "", "no timeout"),
        ("concurrency: {group: x}\n", "", "no concurrency"),
        ("persist-credentials: false", "fetch-depth: 1", "keeps its token"),
    ],
)
def test_rule_refuses(change: str, to: str, said: str) -> None:
    assert list(problems("good", GOOD)) == []
    assert change in GOOD
    found = list(problems("bad", GOOD.replace(change, to)))
    assert len(found) == 1
    assert said in found[0]


def test_ci_calls_the_others() -> None:
    jobs = load(ROOT / ".github" / "workflows" / "ci.yml")["jobs"]
    called = {job["uses"].rpartition("/")[2] for job in jobs.values()}
    assert called == {
        *("code-checks.yml", "tests.yml", "data-validation.yml", "model-gate.yml", "build-container.yml")
    }
    for name in called:
        assert "workflow_call" in load(ROOT / ".github" / "workflows" / name)[True]


def test_what_a_pull_request_can_start_has_no_secret_and_writes_nothing() -> None:
    """A fork's code runs in these; ci hands on no secrets, so the called ones have none either."""
    ci = load(ROOT / ".github" / "workflows" / "ci.yml")
    assert not any("secrets" in job for job in ci["jobs"].values())
    for job in ci["jobs"].values():
        called = load(ROOT / ".github" / "workflows" / job["uses"].rpartition("/")[2])
        for name, inner in called["jobs"].items():
            assert "secrets." not in str(inner), name
            if inner["permissions"] != {"contents": "read"}:
                assert inner["if"] == "startsWith(github.ref, 'refs/tags/v')", name


def test_only_the_comment_runs_with_rights_near_a_stranger() -> None:
    for path in WORKFLOWS:
        events = load(path)[True]
        if DANGEROUS & set(events):
            assert path.stem == "model-gate-comment"
            (job,) = load(path)["jobs"].values()
            checkout = next(step for step in job["steps"] if "checkout" in step.get("uses", ""))
            # No ref: the default branch's code, not that of the pull request.
            assert set(checkout["with"]) == {"persist-credentials"}


def test_deployment_goes_through_both_protected_environments() -> None:
    jobs = load(ROOT / ".github" / "workflows" / "deploy.yml")["jobs"]
    assert [job["environment"] for job in jobs.values()] == ["staging", "production"]
    assert jobs["production"]["needs"] == "staging"


def test_production_is_reached_through_its_environment_alone() -> None:
    """No other workflow promotes, and only the environment's job gets a deployment's secrets."""
    for path in WORKFLOWS:
        for name, job in load(path)["jobs"].items():
            if "deploy-production" in str(job):
                assert job["environment"] == "production", name
            elif path.stem != "deploy":
                assert "PROMOTE" not in str(job).upper(), name
                assert job.get("environment") != "production", name


def test_a_strangers_artifact_is_not_unpacked_beside_a_token() -> None:
    for path in WORKFLOWS:
        if DANGEROUS & set(load(path)[True]):
            assert "download-artifact" not in path.read_text()


def test_python_versions_of_the_matrix() -> None:
    (job,) = load(ROOT / ".github" / "workflows" / "tests.yml")["jobs"].values()
    matrix = {(one["os"].partition("-")[0], one["python"]) for one in job["strategy"]["matrix"]["include"]}
    assert matrix == {("ubuntu", "3.11"), ("ubuntu", "3.12"), ("ubuntu", "3.13"), ("macos", "3.12")}
