"""House rules that Kubernetes' schemas do not know. Each yields sentences about what is wrong."""

import re
from collections.abc import Iterator
from typing import Any

from infra.k8s.manifests import Document, pods
from infra.k8s.secrets import SECRETS

# Seconds in which a predictor that stops sends the last rows of its prediction log (serving/limits.py).
SPOOL_TIMEOUT = 10.0
# What the cluster's owner brings besides Secrets (docs/kubernetes.md): the trusted public keys.
_BROUGHT = {"greenroom-trusted-gate", "greenroom-trusted-operator"}
_TOKENS = {"Deployment/prefect-worker"}
_SECRET_NAME = re.compile(r"PASSWORD|SECRET|TOKEN|API_KEYS|ACCESS_KEY|AUTH_STRING|DATABASE|STORE_URI|PRIVATE")
# Names of Secrets and their keys, no secrets.
_NOT_SECRET = re.compile(r"PREFECT_INTEGRATIONS_KUBERNETES_WORKER_\w+_SECRET_(NAME|KEY)")
_LOGIN_IN_URL = re.compile(r"://[^/\s:@]+:[^/\s@]+@")


def problems(documents: list[Document]) -> list[str]:
    """Return everything that is wrong with the objects of one overlay."""
    wrong: list[str] = []
    for name, pod in pods(documents).items():
        wrong += [f"{name}: {problem}" for problem in (*_pod(name, pod), *_references(pod, documents))]
    return [*wrong, *_secrets(documents), *_services(documents), *_network(documents), *_rollout(documents)]


def _named(documents: list[Document], kind: str) -> dict[str, Document]:
    """Return the objects of a kind, by name."""
    return {d["metadata"].get("name"): d for d in documents if d["kind"] == kind}


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
    """What it names (ConfigMaps, Secrets, service account) exists, or the cluster's owner brings it."""
    maps = {name: document["data"] for name, document in _named(documents, "ConfigMap").items()}
    spec = pod["spec"]
    if spec.get("serviceAccountName") not in _named(documents, "ServiceAccount"):
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
            keys = secret_keys(ref["secretName"])
            if not keys or {item["key"] for item in ref.get("items", [])} - keys:
                yield f"Secret {ref['secretName']} is not one of those that are brought"


def secret_keys(name: str) -> set[str]:
    """Return the keys that a Secret has in the cluster; none if it is not one of ours."""
    keys = set(SECRETS.get(name, {}))
    return keys - {"auth-database-url"} | {"basic-auth-ini"} if "auth-database-url" in keys else keys


def _secrets(documents: list[Document]) -> Iterator[str]:
    for document in documents:
        name = f"{document['kind']}/{document['metadata'].get('name')}"
        if document["kind"] == "Secret":
            yield f"{name}: Secrets are not kept here"
        if any(_LOGIN_IN_URL.search(text) for text in _texts(document)):
            yield f"{name}: it holds a URL with a password"


def _texts(part: object) -> Iterator[str]:
    if isinstance(part, str):
        yield part
    elif isinstance(part, (dict, list)):
        for value in part.values() if isinstance(part, dict) else part:
            yield from _texts(value)


def selects(selector: Document, labels: dict[str, str]) -> bool:
    """Whether a label selector, with matchLabels and matchExpressions of `In`, selects these labels."""
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items()) and all(
        rule["operator"] == "In" and labels.get(rule["key"]) in rule["values"]
        for rule in selector.get("matchExpressions", [])
    )


def _selected(selector: Document, all_pods: dict[str, Document]) -> list[str]:
    return [name for name, pod in all_pods.items() if selects(selector, pod["metadata"]["labels"])]


def _ports(pod: Document) -> set[Any]:
    ports = [port for container in pod["spec"]["containers"] for port in container.get("ports", [])]
    return {port[key] for port in ports for key in ("name", "containerPort")}


def _services(documents: list[Document]) -> Iterator[str]:
    all_pods = pods(documents)
    for kind in ("Service", "Deployment", "PodDisruptionBudget"):
        for name, document in _named(documents, kind).items():
            selector = document["spec"]["selector"]
            chosen = _selected({"matchLabels": selector} if kind == "Service" else selector, all_pods)
            if len(chosen) != 1:
                yield f"{kind}/{name}: it selects {chosen or 'no pods'}"
            for port in document["spec"]["ports"] if kind == "Service" and chosen else ():
                if port["targetPort"] not in _ports(all_pods[chosen[0]]):
                    yield f"{kind}/{name}: its pods have no port {port['targetPort']}"


def _network(documents: list[Document]) -> Iterator[str]:
    """One policy denies all traffic, each pod has a policy of its own, and policies name what exists."""
    all_pods = pods(documents)
    policies = {name: document["spec"] for name, document in _named(documents, "NetworkPolicy").items()}
    if {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]} not in policies.values():
        yield "NetworkPolicy: nothing denies what is not allowed"
    covered: set[str] = set()
    for name, spec in policies.items():
        chosen = _selected(spec["podSelector"], all_pods)
        if not chosen:
            yield f"NetworkPolicy/{name}: it selects no pods"
        if spec["podSelector"]:
            covered |= set(chosen)
        problems = [problem for rule in spec.get("egress", []) for problem in _rule(rule, "to", all_pods)]
        for rule in spec.get("ingress", []):
            problems += _rule(rule, "from", all_pods)
            for port in rule.get("ports", []):
                if any(port["port"] not in _ports(all_pods[pod]) for pod in chosen):
                    problems.append(f"not all of its pods have a port {port['port']}")
        yield from (f"NetworkPolicy/{name}: {problem}" for problem in problems)
    for pod in all_pods.keys() - covered:
        yield f"{pod}: no NetworkPolicy is about it"


def _rule(rule: Document, direction: str, all_pods: dict[str, Document]) -> Iterator[str]:
    if not rule.get(direction) or not rule.get("ports"):
        yield "a rule lets everybody in or out, or by every port"
    for peer in rule.get(direction, []):
        if peer.get("ipBlock", {}).get("cidr") in ("0.0.0.0/0", "::/0"):
            yield "a rule lets everything out or in"
        if peer.get("namespaceSelector") == {}:
            yield "a rule is about every namespace"
        if "namespaceSelector" in peer or "podSelector" not in peer:
            continue
        chosen = _selected(peer["podSelector"], all_pods)
        if not chosen:
            yield f"a rule is about pods that are not there: {peer['podSelector']}"
        for port in rule.get("ports", []) if direction == "to" else ():
            if any(port["port"] not in _ports(all_pods[pod]) for pod in chosen):
                yield f"{chosen} have no port {port['port']}"


def _rollout(documents: list[Document]) -> Iterator[str]:
    """The predictor keeps its replicas during an update, and a pod that ends has the time that it needs."""
    predictor = _named(documents, "Deployment")["predictor"]["spec"]
    if predictor["strategy"].get("rollingUpdate", {}).get("maxUnavailable") != 0:
        yield "Deployment/predictor: an update takes pods away before others are there"
    if "replicas" in predictor:
        yield "Deployment/predictor: replicas are the autoscaler's"
    scaler = _named(documents, "HorizontalPodAutoscaler").get("predictor")
    budget = _named(documents, "PodDisruptionBudget").get("predictor")
    if not scaler or not budget:
        yield "Deployment/predictor: it has no autoscaler, or no disruption budget"
    elif not 0 < budget["spec"]["minAvailable"] < scaler["spec"]["minReplicas"]:
        yield "PodDisruptionBudget/predictor: no node could be emptied, or every pod may go at once"
    spec = predictor["template"]["spec"]
    container = spec["containers"][0]
    env = {variable["name"]: variable.get("value", "") for variable in container["env"]}
    stop = int(env["GREENROOM_SERVING_SHUTDOWN_TIMEOUT"])
    if not 0 < float(env["GREENROOM_SERVING_DRAIN"]) < stop:
        yield "Deployment/predictor: idle connections are not let go gently"
    before = container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", [])
    if before[:1] != ["sleep"] or int(before[1]) < 5:
        yield "Deployment/predictor: it stops before everybody knows that it will"
    elif spec["terminationGracePeriodSeconds"] < int(before[1]) + stop + SPOOL_TIMEOUT:
        yield "Deployment/predictor: it is killed before it is through"
