"""House rules that Kubernetes' schemas do not know. Each yields sentences about what is wrong."""

import re
from collections.abc import Iterator
from typing import Any

from infra.k8s.manifests import Document, pods
from infra.k8s.secrets import SECRETS

# Seconds in which a predictor that stops sends the last rows of its prediction log (serving/limits.py).
SPOOL_TIMEOUT = 10.0
# What whoever installs brings besides Secrets (docs/kubernetes.md): the public keys that are believed.
_BROUGHT = {"greenroom-trusted-gate", "greenroom-trusted-operator"}
_TOKENS = {"Deployment/prefect-worker"}
_SECRET_NAME = re.compile(r"PASSWORD|SECRET|TOKEN|API_KEYS|ACCESS_KEY|AUTH_STRING|DATABASE|STORE_URI|PRIVATE")
# Names of Secrets and their keys, no secrets.
_NOT_SECRET = re.compile(r"PREFECT_INTEGRATIONS_KUBERNETES_WORKER_\w+_SECRET_(NAME|KEY)")
_LOGIN_IN_URL = re.compile(r"://[^/\s:@]+:[^/\s@]+@")


def problems(documents: list[Document]) -> list[str]:
    """Return everything that is wrong with the objects of one overlay."""
    found: list[str] = []
    for name, pod in pods(documents).items():
        found += [f"{name}: {problem}" for problem in (*_pod(name, pod), *_references(pod, documents))]
    found += _secrets(documents)
    found += _services(documents)
    found += _network(documents)
    found += _rollout(documents)
    return found


def _pod(name: str, pod: Document) -> Iterator[str]:
    """Pod Security "restricted", and somewhat more."""
    spec = pod["spec"]
    context = spec.get("securityContext", {})
    if not context.get("runAsNonRoot") or not context.get("runAsUser"):
        yield "it may run as root"
    if context.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        yield "it has no seccomp profile"
    if spec.get("automountServiceAccountToken") is not (name in _TOKENS):
        yield "whether it gets a token for the Kubernetes API is not as it should be"
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(key):
            yield f"{key} is on"
    for volume in spec.get("volumes", []):
        kind = next(key for key in volume if key != "name")
        if kind not in ("emptyDir", "configMap", "secret", "projected"):
            yield f"volume {volume['name']} is a {kind}"
        if kind == "emptyDir" and "sizeLimit" not in (volume[kind] or {}):
            yield f"volume {volume['name']} has no sizeLimit"
    for container in (*spec.get("initContainers", []), *spec["containers"]):
        yield from _container(container)
    if name.startswith("Deployment/"):
        for container in spec["containers"]:
            yield from _probes(container)


def _container(container: Document) -> Iterator[str]:
    context = container.get("securityContext", {})
    if context.get("allowPrivilegeEscalation") is not False:
        yield "privilege escalation is allowed"
    if context.get("readOnlyRootFilesystem") is not True:
        yield "its root file system can be written"
    if context.get("capabilities", {}).get("drop") != ["ALL"] or context.get("capabilities", {}).get("add"):
        yield "it keeps capabilities"
    if context.get("privileged") or context.get("runAsUser") == 0:
        yield "it is privileged"
    for kind in ("requests", "limits"):
        for what in ("cpu", "memory", "ephemeral-storage"):
            if not container.get("resources", {}).get(kind, {}).get(what):
                yield f"resources.{kind}.{what} is not set"
    image, _, digest = container["image"].partition("@")
    tag = image.rpartition("/")[2].partition(":")[2]
    if not digest.startswith("sha256:") and tag in ("", "latest"):
        yield f"its image has no tag or digest, or latest: {container['image']}"
    for variable in container.get("env", []):
        name = variable["name"]
        if _SECRET_NAME.search(name) and not _NOT_SECRET.fullmatch(name):
            source = variable.get("valueFrom", {})
            if "secretKeyRef" not in source:
                yield f"{name} does not come from a Secret"
            elif source["secretKeyRef"].get("optional"):
                yield f"{name} may be missing"


def _probes(container: Document) -> Iterator[str]:
    ports = {port["name"] for port in container.get("ports", [])}
    for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
        probe = container.get(kind)
        if probe is None:
            yield f"it has no {kind}"
        elif "httpGet" in probe and probe["httpGet"]["port"] not in ports:
            yield f"{kind} asks a port that it does not have"


def _references(pod: Document, documents: list[Document]) -> Iterator[str]:
    """ConfigMaps, Secrets and service accounts that it names are there, or brought by whoever installs."""
    maps = {one["metadata"]["name"]: one["data"] for one in documents if one["kind"] == "ConfigMap"}
    accounts = {one["metadata"]["name"] for one in documents if one["kind"] == "ServiceAccount"}
    spec = pod["spec"]
    if spec.get("serviceAccountName") not in accounts:
        yield "its service account is not there"
    for container in spec["containers"]:
        for variable in container.get("env", []):
            source = variable.get("valueFrom", {})
            if ref := source.get("configMapKeyRef"):
                if ref["key"] not in maps.get(ref["name"], {}):
                    yield f"ConfigMap {ref['name']} has no {ref['key']}"
            elif (ref := source.get("secretKeyRef")) and ref["key"] not in secret_keys(ref["name"]):
                yield f"Secret {ref['name']} has no {ref['key']}"
        mounted = {mount["name"] for mount in container.get("volumeMounts", [])}
        if mounted != {volume["name"] for volume in spec.get("volumes", [])}:
            yield "volumes and mounts are not the same"
    for volume in spec.get("volumes", []):
        if (ref := volume.get("configMap")) and ref["name"] not in maps.keys() | _BROUGHT:
            yield f"there is no ConfigMap {ref['name']}"
        if ref := volume.get("secret"):
            wanted = {item["key"] for item in ref.get("items", [])}
            if not secret_keys(ref["secretName"]) or wanted - secret_keys(ref["secretName"]):
                yield f"Secret {ref['secretName']} is not one of those that are brought"


def secret_keys(name: str) -> set[str]:
    """Return the keys that a Secret has in the cluster; none if it is not one of ours."""
    keys = set(SECRETS.get(name, {}))
    return keys - {"auth-database-url"} | {"basic-auth-ini"} if "auth-database-url" in keys else keys


def _secrets(documents: list[Document]) -> Iterator[str]:
    for one in documents:
        name = f"{one['kind']}/{one['metadata'].get('name')}"
        if one["kind"] == "Secret":
            yield f"{name}: Secrets are not kept here"
        if any(_LOGIN_IN_URL.search(text) for text in _texts(one)):
            yield f"{name}: it holds a URL with a password"


def _texts(part: object) -> Iterator[str]:
    if isinstance(part, dict):
        for value in part.values():
            yield from _texts(value)
    elif isinstance(part, list):
        for value in part:
            yield from _texts(value)
    elif isinstance(part, str):
        yield part


def selects(selector: Document, labels: dict[str, str]) -> bool:
    """Whether a label selector, with matchLabels and matchExpressions of `In`, selects these labels."""
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items()) and all(
        one["operator"] == "In" and labels.get(one["key"]) in one["values"]
        for one in selector.get("matchExpressions", [])
    )


def _labels(documents: list[Document]) -> dict[str, dict[str, str]]:
    return {name: pod["metadata"]["labels"] for name, pod in pods(documents).items()}


def _ports(pod: Document) -> set[Any]:
    found = [port for one in pod["spec"]["containers"] for port in one.get("ports", [])]
    return {port["name"] for port in found} | {port["containerPort"] for port in found}


def _services(documents: list[Document]) -> Iterator[str]:
    labels, all_pods = _labels(documents), pods(documents)
    for one in documents:
        name = f"{one['kind']}/{one['metadata'].get('name')}"
        if one["kind"] == "Service":
            chosen = [
                pod for pod, has in labels.items() if selects({"matchLabels": one["spec"]["selector"]}, has)
            ]
            if len(chosen) != 1:
                yield f"{name}: it selects {chosen or 'no pods'}"
            for port in one["spec"]["ports"] if chosen else ():
                if port["targetPort"] not in _ports(all_pods[chosen[0]]):
                    yield f"{name}: its pods have no port {port['targetPort']}"
        if one["kind"] in ("Deployment", "PodDisruptionBudget"):
            chosen = [pod for pod, has in labels.items() if selects(one["spec"]["selector"], has)]
            if len(chosen) != 1:
                yield f"{name}: it selects {chosen or 'no pods'}"


def _network(documents: list[Document]) -> Iterator[str]:
    """Everything is denied, every pod has a policy of its own, and what policies name is there."""
    labels, all_pods = _labels(documents), pods(documents)
    policies = [one for one in documents if one["kind"] == "NetworkPolicy"]
    everywhere = [one for one in policies if not one["spec"]["podSelector"]]
    denies = [one for one in everywhere if not {"ingress", "egress"} & one["spec"].keys()]
    if not any(set(one["spec"]["policyTypes"]) == {"Ingress", "Egress"} for one in denies):
        yield "NetworkPolicy: nothing denies what is not allowed"
    covered: set[str] = set()
    for one in policies:
        name = f"NetworkPolicy/{one['metadata']['name']}"
        chosen = {pod for pod, has in labels.items() if selects(one["spec"]["podSelector"], has)}
        if not chosen:
            yield f"{name}: it selects no pods"
        if one not in everywhere:
            covered |= chosen
        for rule in one["spec"].get("ingress", []):
            yield from (f"{name}: {problem}" for problem in _rule(rule, "from", labels))
            for port in rule.get("ports", []):
                if any(port["port"] not in _ports(all_pods[pod]) for pod in chosen):
                    yield f"{name}: not all of its pods have a port {port['port']}"
        for rule in one["spec"].get("egress", []):
            yield from (f"{name}: {problem}" for problem in _rule(rule, "to", labels))
            yield from (f"{name}: {problem}" for problem in _reached(rule, labels, all_pods))
    for pod in all_pods.keys() - covered:
        yield f"{pod}: no NetworkPolicy is about it"


def _rule(rule: Document, direction: str, labels: dict[str, dict[str, str]]) -> Iterator[str]:
    if not rule.get(direction) or not rule.get("ports"):
        yield "a rule lets everybody in or out, or by every port"
    for peer in rule.get(direction, []):
        if peer.get("ipBlock", {}).get("cidr") in ("0.0.0.0/0", "::/0"):
            yield "a rule lets everything out or in"
        if "namespaceSelector" in peer or "podSelector" not in peer:
            if peer.get("namespaceSelector") == {}:
                yield "a rule is about every namespace"
        elif not any(selects(peer["podSelector"], has) for has in labels.values()):
            yield f"a rule is about pods that are not there: {peer['podSelector']}"


def _reached(
    rule: Document, labels: dict[str, dict[str, str]], all_pods: dict[str, Document]
) -> Iterator[str]:
    for peer in rule.get("to", []):
        if "podSelector" in peer and "namespaceSelector" not in peer:
            chosen = [pod for pod, has in labels.items() if selects(peer["podSelector"], has)]
            for port in rule["ports"]:
                if any(port["port"] not in _ports(all_pods[pod]) for pod in chosen):
                    yield f"{chosen} have no port {port['port']}"


def _rollout(documents: list[Document]) -> Iterator[str]:
    """The predictor is never fewer than it should be, and a pod that goes has the time that it needs."""
    by_name = {f"{one['kind']}/{one['metadata'].get('name')}": one for one in documents}
    predictor = by_name["Deployment/predictor"]["spec"]
    if predictor["strategy"].get("rollingUpdate", {}).get("maxUnavailable") != 0:
        yield "Deployment/predictor: an update takes pods away before others are there"
    if "replicas" in predictor:
        yield "Deployment/predictor: replicas are the autoscaler's"
    scaler, budget = (
        by_name.get("HorizontalPodAutoscaler/predictor"),
        by_name.get("PodDisruptionBudget/predictor"),
    )
    if not scaler or not budget:
        yield "Deployment/predictor: it has no autoscaler, or no disruption budget"
    elif not 0 < budget["spec"]["minAvailable"] < scaler["spec"]["minReplicas"]:
        yield "PodDisruptionBudget/predictor: no node could be emptied, or every pod may go at once"
    spec = predictor["template"]["spec"]
    container = spec["containers"][0]
    env = {one["name"]: one.get("value", "") for one in container["env"]}
    stop = int(env["GREENROOM_SERVING_SHUTDOWN_TIMEOUT"])
    if not 0 < float(env["GREENROOM_SERVING_DRAIN"]) < stop:
        yield "Deployment/predictor: idle connections are not let go gently"
    before = container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", [])
    if before[:1] != ["sleep"] or int(before[1]) < 5:
        yield "Deployment/predictor: it stops before everybody knows that it will"
    elif spec["terminationGracePeriodSeconds"] < int(before[1]) + stop + SPOOL_TIMEOUT:
        yield "Deployment/predictor: it is killed before it is through"
