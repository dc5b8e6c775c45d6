"""The manifests of infra/k8s, as kustomize renders them, and what the lint says when they are broken."""

import copy
import json
import re
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.k8s import lint, policy
from infra.k8s.manifests import OVERLAYS, ROOT, Document, flow_run_job, pods, rendered, renderer, resources
from serving.middleware.metrics import Metrics

COMMAND = renderer()
needs_kustomize = pytest.mark.skipif(COMMAND is None, reason="there is no kubectl and no kustomize here")


@cache
def _rendered(name: str) -> list[Document]:
    if COMMAND is None:
        pytest.skip("there is no kubectl and no kustomize here")
    return rendered(ROOT / "overlays" / name, COMMAND)


@pytest.fixture(params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> list[Document]:
    return copy.deepcopy(_rendered(request.param))


@pytest.fixture
def production() -> list[Document]:
    """A copy, to be broken."""
    return copy.deepcopy(_rendered("production"))


def found(documents: list[Document], name: str) -> Any:
    kind, _, name = name.partition("/")
    return next(one for one in documents if one["kind"] == kind and one["metadata"]["name"] == name)


def container(documents: list[Document], name: str) -> Any:
    return found(documents, name)["spec"]["template"]["spec"]["containers"][0]


def variable(documents: list[Document], name: str, variable: str) -> Any:
    return next(one for one in container(documents, name)["env"] if one["name"] == variable)


def test_every_overlay_is_good(overlay: list[Document]) -> None:
    assert lint.overlay_problems(overlay) == []


def test_schemas_of_several_versions_are_asked() -> None:
    assert {"1.30", "1.34", "1.37"} <= set(lint.versions())
    assert "1.29" not in lint.versions()


@pytest.mark.parametrize(
    ("breaks", "says"),
    [
        (lambda d: d["spec"].pop("selector"), "'selector' is a required property"),
        (lambda d: d["spec"].update(replica=3), "'replica' was unexpected"),
        (lambda d: d["spec"].update(replicas="three"), "'three' is not of type"),
        (lambda d: d.update(apiVersion="apps/v1beta1"), "Couldn't find schema"),
        (lambda d: d["spec"]["template"]["spec"]["containers"][0].update(prot=[]), "'prot' was unexpected"),
    ],
)
def test_the_schemas_refuse_a_broken_deployment(
    production: list[Document], breaks: Callable[[Any], object], says: str
) -> None:
    deployment = copy.deepcopy(found(production, "Deployment/mlflow"))
    assert [lint.schema_problems(deployment, version) for version in lint.versions()] == [[]] * len(
        lint.versions()
    )
    breaks(deployment)
    for version in lint.versions():
        assert any(says in problem for problem in lint.schema_problems(deployment, version)), version


BREAKS: list[tuple[str, Callable[[list[Document]], object], str]] = [
    (
        "root",
        lambda d: pods(d)["Deployment/predictor"]["spec"]["securityContext"].pop("runAsNonRoot"),
        "Deployment/predictor: it may run as root",
    ),
    (
        "seccomp",
        lambda d: pods(d)["Job/mlflow-migrate"]["spec"]["securityContext"].pop("seccompProfile"),
        "Job/mlflow-migrate: it has no seccomp profile",
    ),
    (
        "token",
        lambda d: pods(d)["Deployment/predictor"]["spec"].pop("automountServiceAccountToken"),
        "Deployment/predictor: whether it gets a token",
    ),
    ("host", lambda d: pods(d)["Deployment/mlflow"]["spec"].update(hostNetwork=True), "hostNetwork is on"),
    (
        "hostPath",
        lambda d: pods(d)["Deployment/mlflow"]["spec"]["volumes"].append(
            {"name": "x", "hostPath": {"path": "/"}}
        ),
        "volume x is a hostPath",
    ),
    (
        "sizeLimit",
        lambda d: pods(d)["Deployment/mlflow"]["spec"]["volumes"].append({"name": "x", "emptyDir": {}}),
        "volume x has no sizeLimit",
    ),
    (
        "escalation",
        lambda d: container(d, "Deployment/prefect-worker")["securityContext"].pop(
            "allowPrivilegeEscalation"
        ),
        "privilege escalation is allowed",
    ),
    (
        "writable",
        lambda d: container(d, "Deployment/predictor")["securityContext"].pop("readOnlyRootFilesystem"),
        "its root file system can be written",
    ),
    (
        "capabilities",
        lambda d: container(d, "Deployment/predictor")["securityContext"].update(
            capabilities={"drop": ["ALL"], "add": ["NET_ADMIN"]}
        ),
        "it keeps capabilities",
    ),
    (
        "limits",
        lambda d: container(d, "Job/prefect-register")["resources"]["limits"].pop("memory"),
        "resources.limits.memory is not set",
    ),
    (
        "latest",
        lambda d: container(d, "Deployment/mlflow").update(image="registry:5000/greenroom-flows:latest"),
        "its image has no tag or digest, or latest",
    ),
    (
        "no tag",
        lambda d: container(d, "Deployment/mlflow").update(image="registry:5000/greenroom-flows"),
        "its image has no tag or digest, or latest",
    ),
    (
        "secret literal",
        lambda d: variable(d, "Deployment/predictor", "GREENROOM_S3_SECRET_KEY").update(
            value="abc", valueFrom={}
        ),
        "GREENROOM_S3_SECRET_KEY does not come from a Secret",
    ),
    (
        "optional secret",
        lambda d: variable(d, "Deployment/prefect-server", "PREFECT_SERVER_API_AUTH_STRING")["valueFrom"][
            "secretKeyRef"
        ].update(optional=True),
        "PREFECT_SERVER_API_AUTH_STRING may be missing",
    ),
    (
        "secret in a URL",
        lambda d: found(d, "ConfigMap/greenroom")["data"].update(x="https://me:hunter2@s3.example"),
        "ConfigMap/greenroom: it holds a URL with a password",
    ),
    (
        "a Secret",
        lambda d: d.append({"kind": "Secret", "metadata": {"name": "x"}, "data": {}}),
        "Secrets are not kept here",
    ),
    ("no probe", lambda d: container(d, "Deployment/mlflow").pop("startupProbe"), "it has no startupProbe"),
    (
        "a probe's port",
        lambda d: container(d, "Deployment/mlflow")["livenessProbe"]["httpGet"].update(port="htp"),
        "livenessProbe asks a port that it does not have",
    ),
    (
        "a ConfigMap's key",
        lambda d: found(d, "ConfigMap/greenroom")["data"].pop("s3-bucket"),
        "ConfigMap greenroom has no s3-bucket",
    ),
    (
        "a Secret's key",
        lambda d: variable(d, "Deployment/mlflow", "AWS_ACCESS_KEY_ID")["valueFrom"]["secretKeyRef"].update(
            key="x"
        ),
        "Secret greenroom-mlflow has no x",
    ),
    (
        "a service account",
        lambda d: d.remove(found(d, "ServiceAccount/flow-run")),
        "Job/run-: its service account is not there",
    ),
    (
        "a Service's selector",
        lambda d: found(d, "Service/mlflow")["spec"].update(selector={"app": "mlflow"}),
        "Service/mlflow: it selects no pods",
    ),
    (
        "a Service's port",
        lambda d: found(d, "Service/predictor")["spec"]["ports"][0].update(targetPort=8001),
        "Service/predictor: its pods have no port 8001",
    ),
    (
        "default deny",
        lambda d: d.remove(found(d, "NetworkPolicy/default-deny")),
        "nothing denies what is not allowed",
    ),
    (
        "a pod without a policy",
        lambda d: [d.remove(found(d, f"NetworkPolicy/{name}")) for name in ("mlflow-migrate", "postgres")],
        "Job/mlflow-migrate: no NetworkPolicy is about it",
    ),
    (
        "a policy for nobody",
        lambda d: found(d, "NetworkPolicy/predictor")["spec"]["podSelector"].update(matchLabels={"app": "x"}),
        "NetworkPolicy/predictor: it selects no pods",
    ),
    (
        "a policy that opens up",
        lambda d: found(d, "NetworkPolicy/s3")["spec"]["egress"][0]["to"][0]["ipBlock"].update(
            cidr="0.0.0.0/0"
        ),
        "NetworkPolicy/s3: a rule lets everything out or in",
    ),
    (
        "a policy for every port",
        lambda d: found(d, "NetworkPolicy/s3")["spec"]["egress"][0].pop("ports"),
        "lets everybody in or out, or by every port",
    ),
    (
        "a policy's port",
        lambda d: found(d, "NetworkPolicy/predictor")["spec"]["egress"][0]["ports"][0].update(port=5001),
        "['Deployment/mlflow'] have no port 5001",
    ),
    (
        "a peer that is not there",
        lambda d: found(d, "NetworkPolicy/mlflow")["spec"]["ingress"][0]["from"][0]["podSelector"].update(
            matchLabels={"app.kubernetes.io/name": "predictr"}
        ),
        "a rule is about pods that are not there",
    ),
    (
        "pods taken away early",
        lambda d: found(d, "Deployment/predictor")["spec"]["strategy"]["rollingUpdate"].update(
            maxUnavailable=1
        ),
        "an update takes pods away before others are there",
    ),
    (
        "too little time",
        lambda d: pods(d)["Deployment/predictor"]["spec"].update(terminationGracePeriodSeconds=30),
        "it is killed before it is through",
    ),
    (
        "no preStop",
        lambda d: container(d, "Deployment/predictor").pop("lifecycle"),
        "it stops before everybody knows that it will",
    ),
    (
        "no drain",
        lambda d: variable(d, "Deployment/predictor", "GREENROOM_SERVING_DRAIN").update(value="0"),
        "idle connections are not let go gently",
    ),
    (
        "a budget that stops everything",
        lambda d: found(d, "PodDisruptionBudget/predictor")["spec"].update(minAvailable=3),
        "no node could be emptied",
    ),
]


@pytest.mark.parametrize(("breaks", "says"), [one[1:] for one in BREAKS], ids=[one[0] for one in BREAKS])
def test_the_rules_refuse(
    production: list[Document], breaks: Callable[[list[Document]], object], says: str
) -> None:
    documents = [*production, flow_run_job("registry/greenroom-flows:1.0", "greenroom-production")]
    assert policy.problems(documents) == []
    breaks(documents)
    assert any(says in problem for problem in policy.problems(documents)), policy.problems(documents)


def test_flow_runs_run_the_image_of_the_release(production: list[Document]) -> None:
    variable(production, "Job/prefect-register", "FLOW_RUN_IMAGE").update(value="greenroom-flows")
    assert lint.overlay_problems(production) == [
        f"flow runs would run greenroom-flows, not {container(production, 'Job/prefect-register')['image']}"
    ]


@needs_kustomize
def test_an_overlay_that_cannot_be_rendered_fails_the_lint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in OVERLAYS:
        folder = tmp_path / "overlays" / name
        folder.mkdir(parents=True)
        (folder / "kustomization.yaml").write_text("resources: [../../nowhere]\n")
    monkeypatch.setattr(lint, "ROOT", tmp_path)
    assert lint.main() == 1
    assert "cannot be rendered" in capsys.readouterr().err


def test_without_kustomize_the_files_are_checked_and_it_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(lint, "renderer", lambda: None)
    assert lint.main() == 0
    said = capsys.readouterr().out
    assert "as they are in the files" in said
    assert "There is no kubectl and no kustomize here" in said
    monkeypatch.setattr(lint, "resources", lambda _: [{"apiVersion": "v1", "kind": "Service", "spec": 1}])
    assert lint.main() == 1


def test_every_file_is_part_of_an_overlay(overlay: list[Document]) -> None:
    """A manifest that no kustomization names would be checked by nobody."""
    named = {(one["kind"], one["metadata"]["name"]) for one in resources(ROOT / "base")}
    for file in (ROOT / "base").rglob("*.yaml"):
        if file.name not in ("kustomization.yaml", "prefect.yaml"):
            for one in yaml.safe_load_all(file.read_text()):
                assert (one["kind"], one["metadata"]["name"]) in named
    assert named <= {(one["kind"], one["metadata"]["name"]) for one in overlay}


def test_the_worker_may_do_no_more_than_run_flows(overlay: list[Document]) -> None:
    assert [one for one in overlay if one["kind"].startswith("ClusterRole")] == []
    (role,) = (one for one in overlay if one["kind"] == "Role")
    may = {
        (resource, verb) for rule in role["rules"] for resource in rule["resources"] for verb in rule["verbs"]
    }
    assert not {"*", "secrets", "configmaps", "pods/exec"} & {resource for resource, _ in may}
    assert {verb for resource, verb in may if resource == "pods"} == {"get", "list", "watch"}


def test_only_the_migration_has_the_owners_credentials(overlay: list[Document]) -> None:
    users = [name for name, pod in pods(overlay).items() if "greenroom-mlflow-owner" in json.dumps(pod)]
    assert users == ["Job/mlflow-migrate"]
    job = flow_run_job("x:1", "y")
    gate = [
        name for name, pod in pods([*overlay, job]).items() if "greenroom-gate" in json.dumps(pod["spec"])
    ]
    assert gate == ["Deployment/gate"]


def test_the_autoscaler_asks_for_a_metric_that_the_predictor_has(overlay: list[Document]) -> None:
    (pods_metric,) = (
        one["pods"]["metric"]["name"]
        for one in found(overlay, "HorizontalPodAutoscaler/predictor")["spec"]["metrics"]
        if one["type"] == "Pods"
    )
    metrics = Metrics(["energy"])
    metrics.watch_queue(lambda: 3, lambda: 4)
    shown = metrics.text().decode()
    assert re.search(rf"^{pods_metric} 3\.0$", shown, re.MULTILINE)
    adapter = yaml.safe_load((ROOT / "prometheus-adapter.yaml").read_text())
    (rule,) = adapter["rules"]["custom"]
    assert rule["name"]["as"] == pods_metric
    assert rule["seriesQuery"].startswith(f"{pods_metric}{{")
    queried = set(re.findall(r"greenroom_\w+", rule["metricsQuery"]))
    assert queried
    assert all(re.search(rf"^{name} ", shown, re.MULTILINE) for name in queried)


def test_the_lint_is_a_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "infra.k8s.lint"], capture_output=True, text=True, check=False, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "Kubernetes 1.30 to" in done.stdout
